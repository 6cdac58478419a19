"""Labels and other conditions: which argument of a network takes them, and in which form."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.calling.layers import NOISE_SIZES, Misfit, noise_line, one_hot_line, sizes
from coopinit_plugin.nests import Part, batch_size, describe, get, parts

CLASS_COUNTS = (  # attributes that hold the number of classes
    "c_dim", "num_classes", "n_classes", "n_class", "nclass", "nlabels", "label_dim", "num_labels", "classes",
    "n_labels", "class_num", "num_class",
)  # fmt: skip
CONDITIONS = (  # arguments that take a condition
    "c", "y", "label", "labels", "class_labels", "class_label", "cond", "condition", "conditions", "class_idx", "cls",
    "target", "targets", "onehot", "one_hot", "class_id", "class_ids", "y_onehot", "c_org", "c_trg", "category",
    "categories", "y_label", "label_onehot", "attr", "attrs", "attributes", "context",
)  # fmt: skip
VARIADIC = (signatures.Parameter.VAR_POSITIONAL, signatures.Parameter.VAR_KEYWORD)
NOISES = (  # arguments that take the noise, the likelier first
    "z", "latent", "latents", "latent_code", "noise", "noises", "noise_vector", "code", "codes", "eps", "epsilon",
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A condition from the batch in the form in which one network takes it."""

    name: str  # the argument
    position: int | None  # its place among the positional arguments; None if it is given by name
    take: Callable[[Any], Any]  # (batch) -> c
    text: str  # where it comes from and in which form
    code: str = ""  # as a user writes it
    keys: tuple[Any, ...] | None = None  # where it stands in the batch, if it is taken as it is and could be data, too

    def call(self, module: nn.Module, x: Any, c: Any) -> Any:
        """The network's output for x, the condition where it belongs."""
        return module(c, x) if self.position == 0 else module(x, **{self.name: c})

    def row(self, letter: str) -> tuple[str, str, str]:
        """The line of the table for it."""
        return f"{letter}'s condition", self.text, f"argument {self.name!r} of its forward"

    def as_one_hot(self, misfit: Misfit, batch: Any) -> Condition | None:
        """The class numbers as one-hot rows, if that is what the layer asks for in which they failed."""
        y = self.take(batch)
        numbers = misfit.whole and not y.is_floating_point() and y.numel() == y.shape[0]
        return _one_hot(self, misfit.asked) if numbers and int(y.max()) < misfit.asked else None


def _one_hot(condition: Condition, count: int) -> Condition:
    take = lambda batch: one_hot(condition.take(batch).flatten().long(), count).float()  # noqa: E731
    name = condition.code
    return replace(condition, take=take, text=f"{name}, as one_hot({name}, {count})", code=one_hot_line(name, count))


def _parameters(module: nn.Module) -> list[signatures.Parameter]:
    """Forward's parameters; none if they cannot be read, as those of TorchScript."""
    try:
        return list(signatures.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def arguments(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of forward's positional arguments: the required ones, and the optional ones."""
    found = [a for a in _parameters(module) if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    return [a.name for a in found if a.default is a.empty], [a.name for a in found if a.default is not a.empty]


def noise_argument(module: nn.Module) -> str | None:
    """The argument that takes the noise, if it has to be given by name."""
    every = _parameters(module)
    by_name = [a.name for a in every if a.kind is a.KEYWORD_ONLY]
    named = next((name for name in NOISES if name in [a.name for a in every]), None)
    if every and all(a.kind in (a.KEYWORD_ONLY, a.VAR_KEYWORD) for a in every):
        return named or next(iter(by_name), "z")
    others = [a.name for a in every if a.default is a.empty and a.kind not in VARIADIC and a.name != named]
    by_name += arguments(module)[1][1:]  # the first would get it as it is
    return named if named in by_name and not others else None


def conditions_of(
    module: nn.Module, letter: str, named: list[Part], data: tuple[Any, ...] | None = None
) -> list[Condition]:
    """What may be given as the condition of G or D, the likelier form first; empty if it takes none.

    Of the batch's tensors (`named`) the one under the keys `data` is the data, once that is known.
    """
    labels = [part for part in named if part.is_labels]
    count = next((int(getattr(module, a)) for a in CLASS_COUNTS if isinstance(getattr(module, a, None), int)), None)
    embeds = any(isinstance(child, nn.Embedding) for child in module.modules())
    required, optional = arguments(module)
    words = [a.name for a in _parameters(module) if a.annotation in (str, "str") or isinstance(a.default, str)]
    takes = [name for name in (*required, *optional) if name.lower() in CONDITIONS and name not in words]
    position = next((i for i, name in enumerate(required) if name in takes and len(required) > 1), None)
    passed = len(required) == 1 and labels and (embeds or count)
    name = required[position] if position is not None else next((a for a in optional if a in takes and passed), None)
    if name is None:
        return []

    def say(given: str) -> str:
        width = next((size for _, size in sizes(module, NOISE_SIZES)), 0)
        return line(score=f"D(x, {name}={given})") if letter == "D" else line(latent=f"({noise_line(width)}, {given})")

    nothing = lambda batch: torch.zeros(batch_size(batch) or 0, 0, device=next(parts(batch)).tensor.device)  # noqa: E731
    none = Condition(name, position, nothing, "none, as (N, 0)")
    empty = not labels and any(part.tensor.ndim == 2 and not part.tensor.numel() for part in named)
    if count == 0 or (count is None and empty):
        return [none]
    known = bool(labels) or data is not None  # else one of those found is the data
    found = labels or [part for part in named if part.is_data and part.keys != data]
    if len(found) < (1 if known else 2):
        seen = f"{letter}'s forward takes a condition ({name!r}), but no labels were found in a batch."
        raise unclear(f"{seen} Let the loader yield (x, label), or say what your loop passes.", say("..."))
    if len(found) > 1 and known:
        shown = ", ".join(f"{part.name} {describe(part.tensor)}" for part in found)
        kind = "labels" if labels else "condition"
        raise unclear(f"Which of these are {letter}'s {kind}: {shown}?", *(say(part.name) for part in found[:2]))
    if labels:
        return _forms(none, labels[0], embeds, count)
    return [
        replace(none, take=partial(get, keys=keys), text=f"{code}, as it is", code=code, keys=keys)
        for code, keys, _ in found
    ]


def _forms(none: Condition, labels: Part, embeds: bool, count: int | None) -> list[Condition]:
    """The forms in which labels may be taken, the likelier first."""
    name, keys, _ = labels
    forms: dict[tuple[bool, bool], tuple[str, Callable[[Tensor], Tensor]]] = {  # by whether G embeds them, and rows
        (True, True): ("one-hot, as class numbers", lambda y: y.argmax(1)),
        (True, False): ("class numbers", lambda y: y.flatten().long()),
        (False, True): ("one-hot", lambda y: y.float()),
        (False, False): ("as the loader gives it", lambda y: y),
    }
    how, form = forms[embeds, labels.has_rows]
    given = replace(none, take=lambda batch: form(get(batch, keys)), text=f"{name}, {how}", code=name)
    return [given] if embeds or labels.has_rows or count is None else [_one_hot(given, count), given]
