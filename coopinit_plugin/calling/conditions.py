"""Labels and other conditions: which argument of a network takes them, and in which form."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import Part, batch_size, could_be_data, could_be_labels, describe, get, parts

CLASS_COUNTS = (
    *("c_dim", "num_classes", "n_classes", "n_class", "nclass", "nlabels", "label_dim", "num_labels", "classes"),
    *("n_labels", "class_num", "num_class"),
)
CONDITIONS = (
    *("c", "y", "label", "labels", "class_labels", "class_label", "cond", "condition", "conditions", "class_idx"),
    *("cls", "target", "targets", "onehot", "one_hot", "class_id", "class_ids", "y_onehot", "c_org", "c_trg"),
    *("category", "categories", "y_label", "label_onehot", "attr", "attrs", "attributes", "context"),
)


@dataclass(frozen=True)
class Condition:
    """A condition from the batch in the form in which one network takes it.

    Attributes:
        name: The argument's name.
        position: Its place among the positional arguments; ``None`` where it is given by name.
        take: ``(batch) -> c``.
        text: Where it comes from and in which form.
        width: Numbers it may add to the width of the first layer, where known.
        keys: Where it stands in the batch, for one that could be taken for data; else ``None``.
    """

    name: str
    position: int | None
    take: Callable[[Any], Any]
    text: str
    width: int | None = None
    keys: tuple[Any, ...] | None = None

    def call(self, module: nn.Module, x: Any, c: Any) -> Any:
        """The network on x, the condition where it belongs."""
        if self.position is None:
            return module(x, **{self.name: c})
        return module(c, x) if self.position == 0 else module(x, c)

    @property
    def place(self) -> str:
        """Where it goes, in words."""
        return f"argument {self.name!r} of its forward"


def arguments(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of forward's positional arguments: those it cannot do without, and the others."""
    found = [
        a
        for a in signatures.signature(module.forward).parameters.values()
        if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
    ]
    return [a.name for a in found if a.default is a.empty], [a.name for a in found if a.default is not a.empty]


def conditions_of(
    module: nn.Module, letter: str, named: list[Part], data: tuple[Any, ...] | None = None
) -> list[Condition]:
    """What may be given as the network's condition; empty where it takes none.

    Args:
        module: G or D.
        letter: ``"G"`` or ``"D"``, for messages.
        named: The batch's tensors.
        data: Where the data stand in the batch, once that is known.

    Raises:
        CoopInitError: where a condition is needed and it cannot be known which, or in which form.
    """
    required, optional = arguments(module)
    labels = [part for part in named if could_be_labels(part)]
    count = next((int(getattr(module, a)) for a in CLASS_COUNTS if isinstance(getattr(module, a, None), int)), None)
    embedding = next((m for m in module.modules() if isinstance(m, nn.Embedding)), None)
    position = next((i for i, name in enumerate(required) if name.lower() in CONDITIONS and len(required) > 1), None)
    if position is not None:
        name = required[position]
    else:
        wanted = [name for name in optional if name.lower() in CONDITIONS]
        if not (wanted and len(required) == 1 and labels and (embedding is not None or count)):
            return []
        name = wanted[0]
    empty = not labels and any(
        part.tensor.ndim == 2 and not part.tensor.numel() for part in named
    )  # no classes: (N, 0)
    if count == 0 or (count is None and empty):
        return [Condition(name, position, _nothing, "none, as (N, 0)", 0)]
    if not labels:
        others = [part for part in named if could_be_data(part) and part.keys != data]
        if not others or (data is None and len(others) < 2):
            raise CoopInitError(
                f"{letter}'s forward takes a condition ({name!r}), but no labels were found in a batch. Let the loader "
                f"yield (x, label), or say what your loop passes: {hook(letter)}"
            )
        if data is not None and len(others) > 1:
            raise CoopInitError(
                f"Which of these is {letter}'s condition: {', '.join(part.name for part in others)}? Say it: "
                f"{hook(letter, others[0].name)}"
            )
        return [_given(name, position, part) for part in others]
    if len(labels) > 1:
        names = ", ".join(f"{part.name} {describe(part.tensor)}" for part in labels)
        raise CoopInitError(f"Which of these are {letter}'s labels: {names}? Say it: {hook(letter, labels[0].name)}")
    return _labels(name, position, labels[0], embedding, count)


def _nothing(batch: Any) -> Tensor:
    return torch.zeros(batch_size(batch) or 0, 0, device=next(parts(batch)).tensor.device)


def _given(name: str, position: int | None, part: Part) -> Condition:
    keys, width = part.keys, int(part.tensor.shape[1])
    return Condition(name, position, lambda batch: get(batch, keys), f"{part.name}, as it is", width, keys)


def _labels(
    name: str, position: int | None, part: Part, embedding: nn.Embedding | None, count: int | None
) -> list[Condition]:
    """The forms in which labels may be taken, the likelier first."""
    keys, rows = part.keys, part.tensor.ndim == 2 and part.tensor.shape[1] > 1
    given = Condition(name, position, lambda batch: get(batch, keys), f"{part.name}, as the loader gives it")
    if embedding is not None:
        how = f"{part.name}, " + ("one-hot, as class numbers" if rows else "class numbers")
        numbers = (lambda batch: get(batch, keys).argmax(1)) if rows else (lambda b: get(b, keys).flatten().long())
        return [Condition(name, position, numbers, how, embedding.embedding_dim)]
    if rows:
        width = int(part.tensor.shape[1])
        return [Condition(name, position, lambda batch: get(batch, keys).float(), f"{part.name}, one-hot", width)]
    if count is None:
        return [given]
    how = f"{part.name}, as one-hot rows of {count}"
    one_hots = lambda batch: one_hot(get(batch, keys).flatten().long(), count).float()  # noqa: E731
    return [Condition(name, position, one_hots, how, count), given]


def hook(letter: str, name: str = "batch[1]") -> str:
    """The line that says what is passed beside z or x."""
    if letter == "G":
        return (
            "adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: (torch.randn(n, 100, device=device), "
            f"{name}), generate=lambda G, z: G(*z))"
        )
    return f"adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x, {name}))"
