"""What a network takes: the widths of its layers, the arguments of its forward, and labels in the form it wants."""

import inspect as signatures
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.calling.advice import noise_line, one_hot_line
from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import Part, batch_size, describe, get, parts

NOISE_SIZES = (  # attributes that hold the size of a latent
    "z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z", "code_dim",
    "latent_channels", "dim_latent", "style_dim", "z_channels", "noise_size", "dim_noise", "embedding_dim",
)  # fmt: skip
WIDTHS = ("in_features", "in_channels", "input_size", "in_dim", "in_channel")  # attributes of a layer
CLASS_COUNTS = (  # attributes that hold the number of classes
    "c_dim", "num_classes", "n_classes", "n_class", "nclass", "nlabels", "label_dim", "num_labels", "classes",
    "n_labels", "class_num", "num_class",
)  # fmt: skip
NOISES = (  # arguments that take the noise, the likelier first
    "z", "latent", "latents", "latent_code", "noise", "noises", "noise_vector", "code", "codes", "eps", "epsilon",
)  # fmt: skip
CONDITIONS = (  # arguments that take a condition
    "c", "y", "label", "labels", "class_labels", "class_label", "cond", "condition", "conditions", "class_idx", "cls",
    "target", "targets", "onehot", "one_hot", "class_id", "class_ids", "y_onehot", "c_org", "c_trg", "category",
    "categories", "y_label", "label_onehot", "attr", "attrs", "attributes", "context",
)  # fmt: skip
VARIADIC = (signatures.Parameter.VAR_POSITIONAL, signatures.Parameter.VAR_KEYWORD)


class First(NamedTuple):
    """The first layer of a network that takes a width (features or channels), and its name; of width 0 if none does."""

    layer: nn.Module | None = None
    width: int = 0
    name: str = ""

    @property
    def takes_images(self) -> bool:
        """Whether it is a convolution; a transposed one starts from noise."""
        return isinstance(self.layer, _ConvNd) and not isinstance(self.layer, _ConvTransposeNd)

    def images(self, data: list[Part]) -> list[Part]:
        """The tensors that it could take as they are, if it is a convolution."""
        rank = len(self.layer.kernel_size) + 2 if self.takes_images else None  # type: ignore[union-attr,arg-type]
        return [part for part in data if part.tensor.ndim == rank and part.tensor.shape[1] == self.width]


def first_layer(children: Iterable[tuple[str, nn.Module]]) -> First:
    """The first of the modules that takes a width."""
    for name, child in children:
        parametrized = isinstance(getattr(child, "parametrizations", None), nn.ModuleDict)
        if isinstance(child, nn.Embedding) or not (parametrized or [*child.parameters(recurse=False)]):
            continue
        weight = getattr(child, "weight", None)
        matrix = [int(weight.shape[1])] if isinstance(weight, Tensor) and weight.ndim == 2 else []
        if widths := [size for _, size in sizes(child, WIDTHS)] or matrix:
            return First(child, widths[0], f"{name} {type(child).__name__}".strip())
    return First()


def first_run(network: nn.Module, record: Record) -> First:
    """The first layer that ran and takes a width, or else the first that the network holds."""
    ran = first_layer((call.name, call.module) for call in record.begun[1:])
    return ran if ran.width else first_layer(network.named_modules())


def misfit(record: Record) -> tuple[int, int, bool]:
    """(The width that the layer takes in which the pass failed, the one given or 0, whether whole numbers were)."""
    done = {id(call) for call in record.ended}
    call = next((call for call in reversed(record.begun) if id(call) not in done), None)
    first = first_layer([(call.name, call.module)]) if call is not None else First()
    if call is None or first.layer is None or call.shape is None or call.dtype is None:
        return 0, 0, False
    convolves = isinstance(first.layer, _ConvNd)
    fits = not convolves or len(call.shape) == first.layer.weight.ndim
    width = call.shape[1 if convolves else -1] if fits and call.shape else 0
    return first.width, width, not (call.dtype.is_floating_point or call.dtype.is_complex)


def sizes(module: nn.Module, names: Iterable[str]) -> list[tuple[str, int]]:
    """The attributes of those names that hold a size, each with it."""
    values = ((name, getattr(module, name, None)) for name in names)
    return [(name, value) for name, value in values if type(value) is int and value > 0]


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


def facts(module: nn.Module, first: First) -> str:
    """What is known of what a network takes, in words."""
    needed, dtypes = arguments(module)[0], [p.dtype for p in module.parameters() if p.is_floating_point()]
    said = [f"Its forward needs {', '.join(needed)}."] if len(needed) > 1 else []
    if first.width:
        unit = "channels" if first.takes_images else "numbers"
        said.append(f"Its first layer, {first.name}, takes {first.width} {unit}.")
    return " ".join([*said, *(f"Its weights are {str(dtype)[6:]}." for dtype in dtypes[:1])])


def noise_argument(module: nn.Module) -> str | None:
    """The argument that takes the noise, if it has to be given by name."""
    every = _parameters(module)
    names = [a.name for a in every]
    named = next((name for name in NOISES if name in names), None)
    if every and all(a.kind in (a.KEYWORD_ONLY, a.VAR_KEYWORD) for a in every):
        return named or next((a.name for a in every if a.kind is a.KEYWORD_ONLY), "z")
    needed = [a.name for a in every if a.default is a.empty and a.kind not in VARIADIC and a.name != named]
    return named if named in names[1:] and not needed else None


@dataclass(frozen=True)
class Condition:
    """Labels of the batch in the form in which one network takes them."""

    name: str  # the argument
    position: int | None  # its place among the required arguments; None if it is optional
    take: Callable[[Any], Any]  # (batch) -> c
    text: str  # where it comes from and in which form
    code: str = ""  # as a user writes it

    def call(self, module: nn.Module, x: Any, c: Any) -> Any:
        """The network's output for x, the condition where it belongs."""
        return module(c, x) if self.position == 0 else module(x, **{self.name: c})

    def row(self, letter: str) -> tuple[str, str, str]:
        """The line of the table for it."""
        return f"{letter}'s condition", self.text, f"argument {self.name!r} of its forward"

    def as_one_hot(self, record: Record, batch: Any) -> "Condition | None":
        """The class numbers as one-hot rows, if that is what the layer asks for in which the pass failed."""
        (asked, _, whole), y = misfit(record), self.take(batch)
        numbers = whole and not y.is_floating_point() and y.numel() == y.shape[0]
        return _one_hot(self, asked) if numbers and int(y.max()) < asked else None


def _one_hot(condition: Condition, count: int) -> Condition:
    take = lambda batch: one_hot(condition.take(batch).flatten().long(), count).float()  # noqa: E731
    name = condition.code
    return replace(condition, take=take, text=f"{name}, as one_hot({name}, {count})", code=one_hot_line(name, count))


def conditions_of(module: nn.Module, letter: str, named: list[Part]) -> list[Condition]:
    """What of the batch's tensors may be the condition of G or D, the likelier form first; empty if it takes none."""
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
    empty = not labels and any(part.tensor.ndim == 2 and not part.tensor.numel() for part in named)
    if count == 0 or (count is None and empty):
        none = lambda batch: torch.zeros(batch_size(batch) or 0, 0, device=next(parts(batch)).tensor.device)  # noqa: E731
        return [Condition(name, position, none, "none, as (N, 0)")]
    if len(labels) == 1:
        return _forms(name, position, labels[0], embeds, count)
    asked = f"{letter}'s forward takes a condition ({name!r}), but no labels were found in a batch. "
    asked += "Let the loader yield (x, label), or say what your loop passes."
    if labels:
        shown = ", ".join(f"{part.name} {describe(part.tensor)}" for part in labels)
        asked = f"Which of these are {letter}'s labels: {shown}?"
    noise = noise_line(next((size for _, size in sizes(module, NOISE_SIZES)), 0))
    given = [part.name for part in labels[:2]] or ["..."]
    lines = [line(score=f"D(x, {name}={y})") if letter == "D" else line(latent=f"({noise}, {y})") for y in given]
    raise unclear(asked, *lines)


def _forms(argument: str, position: int | None, labels: Part, embeds: bool, count: int | None) -> list[Condition]:
    """The forms in which labels may be taken, the likelier first."""
    name, keys, _ = labels
    form: Callable[[Tensor], Tensor]
    if embeds and labels.has_rows:
        how, form = "one-hot, as class numbers", lambda y: y.argmax(1)
    elif embeds:
        how, form = "class numbers", lambda y: y.flatten().long()
    else:
        how, form = ("one-hot", lambda y: y.float()) if labels.has_rows else ("as the loader gives it", lambda y: y)
    given = Condition(argument, position, lambda batch: form(get(batch, keys)), f"{name}, {how}", name)
    return [given] if embeds or labels.has_rows or count is None else [_one_hot(given, count), given]
