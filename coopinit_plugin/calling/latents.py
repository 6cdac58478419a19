"""What a generator takes: a latent, conditions beside it, or source images. Guessed, and proved by a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.calling.adapter import Row
from coopinit_plugin.calling.conditions import Condition, arguments
from coopinit_plugin.calling.data import Held
from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import Part, could_be_data, describe, get

NOISE_SIZES = (  # attributes that hold the size of a latent
    "z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z", "code_dim",
    "latent_channels", "dim_latent", "style_dim", "z_channels", "noise_size", "dim_noise", "embedding_dim",
)  # fmt: skip
SIZES = (*NOISE_SIZES, "input_dim", "in_dim")  # the last two also name the channels of a source image
WIDTHS = ("in_features", "in_channels", "input_size", "in_dim", "in_channel")  # attributes of a layer
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")  # arguments that take a list of latents

Latent = Callable[[int, torch.device, Any], Any]  # (n, device, batch) -> z


class First(NamedTuple):
    """The first layer of a network that takes a width (features or channels), and its name."""

    layer: nn.Module
    width: int
    name: str

    def takes_images(self) -> bool:
        """Whether it is a convolution; a transposed one starts from noise."""
        return isinstance(self.layer, _ConvNd) and not isinstance(self.layer, _ConvTransposeNd)

    def images(self, data: list[Part]) -> list[Part]:
        """The tensors that it could take as they are, if it is a convolution."""
        rank = len(self.layer.kernel_size) + 2 if self.takes_images() else None  # type: ignore[arg-type]
        return [part for part in data if part.tensor.ndim == rank and part.tensor.shape[1] == self.width]


def first_layer(children: Iterable[tuple[str, nn.Module]]) -> First | None:
    """The first of the modules that takes a width."""
    for name, child in children:
        label = f"{name} {type(child).__name__}".strip()
        if isinstance(child, nn.TransformerEncoderLayer):
            return First(child, child.linear1.in_features, label)
        parametrized = isinstance(getattr(child, "parametrizations", None), nn.ModuleDict)
        if isinstance(child, nn.Embedding) or not (parametrized or [*child.parameters(recurse=False)]):
            continue
        if widths := sizes(child, WIDTHS):
            return First(child, widths[0][1], label)
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            return First(child, int(weight.shape[1]), label)
    return None


def first_run(record: Record) -> First | None:
    """The first layer that ran and takes a width; if the pass failed before any, that of the last module begun."""
    order = [(call.name, call.module) for call in record.begun]
    return first_layer(order[1:]) or (first_layer(order[-1][1].named_modules()) if order else None)


def sizes(module: nn.Module, names: Iterable[str]) -> list[tuple[str, int]]:
    """The attributes of those names that hold a size, each with it."""
    values = ((name, getattr(module, name, None)) for name in names)
    return [(name, value) for name, value in values if type(value) is int and value > 0]


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called."""

    latent: Latent  # with a condition it gives (z, c)
    how: str  # what the guess rests on
    condition: Condition | None = None  # what stands beside the latent
    source: str = ""  # the batch's tensor that G takes as it is, as a user writes it; empty if there is none
    named: bool = False  # whether an attribute of G names the latent's size
    hook: Callable[[nn.Module, Any], Any] | None = None  # the user's `generate`

    def generate(self, G: nn.Module, z: Any) -> Any:
        """G on the latent, the condition where it belongs; ``G(*z)`` for any other tuple."""
        if self.hook is not None:
            return self.hook(G, z)
        if self.condition is not None:
            return self.condition.call(G, *z)
        return G(*z) if isinstance(z, tuple) else G(z)

    def rows(self, z: Any) -> list[Row]:
        """What was found of G's input."""
        what = "source" if "takes it" in self.how else "latent"
        if self.condition is None:
            return [(what, describe(z), self.how)]
        return [(what, describe(z[0]), self.how), self.condition.row("G")]


@dataclass(frozen=True)
class Known:
    """What is known of G before it is called: its first layer, what a batch holds, what may stand beside the latent."""

    G: nn.Module
    first: First | None
    held: Held
    conditions: list[Condition]

    @property
    def images(self) -> list[Part]:
        """Data that G's first layer could take as they are."""
        return self.first.images(self.held.data) if self.first is not None else []

    @property
    def size(self) -> tuple[str, int] | None:
        """(Attribute, size) of the latent that G names, unless it may be the channels of an image."""
        found = sizes(self.G, NOISE_SIZES if self.images else SIZES)
        same = [pair for pair in found if self.first is not None and pair[1] == self.first.width]
        return next(iter(same + found), None)

    @property
    def translates(self) -> bool:
        """Whether G may take an image of the batch, or a map that the user's loop makes of one."""
        maps = sum(part.tensor.ndim >= 4 for part in self.held.others) + self.held.known
        prepared = self.first is not None and self.first.takes_images() and maps > 1 and self.size is None
        return bool(self.images) or prepared


def guesses(known: Known) -> Iterator[Guess]:
    """Ways in which G may be called, the likeliest first; none if more than one argument is unknown."""
    taken = {condition.name for condition in known.conditions}
    unknown = [name for name in arguments(known.G)[0] if name not in taken]
    if len(unknown) > 1:
        return
    beside: list[Condition | None] = [*known.conditions] or [None]
    forms = (True, False) if unknown and unknown[0] in LISTS else (False,)  # whether G takes a list of latents
    tails: set[tuple[int, ...]] = set()
    dtype = next((p.dtype for p in known.G.parameters() if p.is_floating_point()), None)
    for width, why, named in _widths(known):
        new = [tail for tail in _tails(width, known) if tail not in tails]
        tails.update(new)
        for tail, as_list, condition in product(new, forms, beside):
            source = condition.text if condition is not None and condition.keys is not None else ""
            latent = _with(condition, partial(_noise, tail, as_list, dtype))
            yield Guess(latent, f"{why}; standard normal assumed", condition, source, named)
    held, first = known.held, known.first
    if known.translates and first is not None and (held.known or len(held.data) > 1):  # one alone may be noise, too
        for part, condition in product(first.images([part for part in held.others if could_be_data(part)]), beside):
            take = lambda n, device, batch, keys=part.keys: get(batch, keys)  # noqa: E731
            how = f"{part.name}: G's first layer, {first.name}, takes it"
            yield Guess(_with(condition, take), how, condition, part.name)


def _widths(known: Known) -> Iterator[tuple[int, str, bool]]:
    """(Size of the latent, why, whether an attribute names it)."""
    size, first = known.size, known.first
    if size is not None:
        yield size[1], f"G.{size[0]} = {size[1]}", True
    if first is None or known.translates or (size is not None and first.width > size[1]):
        return  # a first layer wider than the size that G names takes something beside the noise
    for beside in dict.fromkeys(condition.width for condition in known.conditions):
        if beside is not None and 0 < beside < first.width and size is None:
            yield first.width - beside, f"G's first layer, {first.name}, less {beside} for the condition", False
    yield first.width, f"G's first layer, {first.name}", False


def _tails(size: int, known: Known) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for the first layer first."""
    layer = known.first.layer if known.first is not None and known.first.width == size else None
    series = [part.tensor.shape[1:] for part in known.held.data if part.tensor.ndim == 3]
    steps = [(length, size) for length in dict.fromkeys(shape[0] for shape in series)]
    if isinstance(layer, _ConvNd):
        small: tuple[int, ...] = (size, *[1] * len(layer.kernel_size))
        if isinstance(layer, _ConvTransposeNd):
            return [small, (size,)]
        signals = series if len(layer.kernel_size) == 1 else []
        wide = [tail for shape in signals for tail in ((size, shape[1]), (shape[0], size))]  # noise as long as a signal
        return [*dict.fromkeys([*wide, small])]  # maps as large as an image are no noise: segmentations, sketches
    return [*steps, (size,)] if isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer)) else [(size,), *steps]


def _noise(
    tail: tuple[int, ...], as_list: bool, dtype: torch.dtype | None, n: int, device: torch.device, batch: Any
) -> Any:
    z = torch.randn(n, *tail, device=device, dtype=dtype)
    return [z] if as_list else z


def _with(condition: Condition | None, latent: Latent) -> Latent:
    if condition is None:
        return latent
    return lambda n, device, batch: (latent(n, device, batch), condition.take(batch))
