"""What a generator takes: a latent, conditions beside it, or source images. Guessed, and proved by a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.calling.adapter import Row
from coopinit_plugin.calling.conditions import Condition, arguments, noise_argument
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.layers import NOISE_SIZES, First, first_run, misfit, sizes
from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import Part, could_be_data, describe, get

SIZES = (*NOISE_SIZES, "input_dim", "in_dim")  # the last two also name the channels of a source image
COUNTS = ("k", "num_latents", "n_latents", "num_components", "components_num", "num_slots", "n_slots", "num_tokens")
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")  # arguments that take a list of latents

Latent = Callable[[int, torch.device, Any], Any]  # (n, device, batch) -> z


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called."""

    latent: Latent  # with a condition it gives (z, c)
    how: str  # what the guess rests on
    condition: Condition | None = None  # what stands beside the latent
    source: str = ""  # the batch's tensor that G takes as it is, as a user writes it; empty if there is none
    named: bool = False  # whether an attribute of G names the latent's size
    width: int | None = None  # of the latent, if it is noise
    argument: str | None = None  # that takes the latent, if it is given by name
    hook: Callable[[nn.Module, Any], Any] | None = None  # the user's `generate`

    def generate(self, G: nn.Module, z: Any) -> Any:
        """G on the latent, the condition where it belongs; ``G(*z)`` for any other tuple."""
        if self.hook is not None:
            return self.hook(G, z)
        if self.condition is not None:
            return self.condition.call(G, *z)
        if self.argument is not None:
            return G(**{self.argument: z})
        return G(*z) if isinstance(z, tuple) else G(z)

    def rows(self, z: Any) -> list[Row]:
        """What was found of G's input."""
        what = "source" if "takes it" in self.how else "latent"
        if self.condition is None:
            by_name = f", as argument {self.argument!r}" if self.argument else ""
            return [(what, describe(z), self.how + by_name)]
        return [(what, describe(z[0]), self.how), self.condition.row("G")]


@dataclass(frozen=True)
class Known:
    """What is known of G before it is called: its first layer, what a batch holds, what may stand beside the latent."""

    G: nn.Module
    first: First | None
    held: Held
    conditions: list[Condition]
    width: int | None = None  # of the latent, if a failed pass told it
    ran: tuple[str, ...] = ()  # the modules that a failed pass began

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

    def after(self, guess: Guess, record: Record) -> Known | None:
        """What is known after that guess failed in the recorded pass; ``None`` if nothing more."""
        ran, where, batch = first_run(record), misfit(record), self.held.batch
        known = self
        if ran is not None and self.first is not None and ran.layer is not self.first.layer:  # registered later
            known = replace(known, first=ran)
        if guess.condition is not None and (rows := guess.condition.as_one_hot(where, batch)) is not None:
            return replace(known, conditions=[rows])
        if where is not None and where.width and guess.width and where.width >= guess.width and self.size is None:
            width = guess.width + where.first.width - where.width  # something of a width of its own is joined to it
            known = replace(known, width=width) if 0 < width != guess.width else known
        return known if known is not self else None


def guesses(known: Known) -> Iterator[Guess]:
    """Ways in which G may be called, the likeliest first; none if more than one argument is unknown."""
    taken = {condition.name for condition in known.conditions}
    required = arguments(known.G)[0]
    unknown = [name for name in required if name not in taken]
    if len(unknown) > 1:
        return
    beside: list[Condition | None] = [*known.conditions] or [None]
    by_name = noise_argument(known.G)
    forms = (True, False) if (unknown and unknown[0] in LISTS) or by_name in LISTS else (False,)  # G takes a list
    tails: set[tuple[int, ...]] = set()
    for width, why, named in _widths(known):
        new = [tail for tail in _tails(width, known) if tail not in tails]
        tails.update(new)
        for tail, as_list, condition in product(new, forms, beside):
            source = condition.code if condition is not None and condition.keys is not None else ""
            latent = _with(condition, partial(_noise, tail, as_list, _dtype(known.G)))
            yield Guess(latent, f"{why}; standard normal assumed", condition, source, named, width, by_name)
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
    if known.width is not None and known.width != first.width:
        yield known.width, f"G's first layer, {first.name}, less what is joined to it", False
    yield first.width, f"G's first layer, {first.name}", False


def _tails(size: int, known: Known) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for the first layer first."""
    layer = known.first.layer if known.first is not None and size in (known.first.width, known.width) else None
    several = [(count, size) for _, count in sizes(known.G, COUNTS) if count > 1]
    series = [part.tensor.shape[1:] for part in known.held.data if part.tensor.ndim == 3]
    steps = [(length, size) for length in dict.fromkeys(shape[0] for shape in series)]
    if isinstance(layer, _ConvNd):
        small: tuple[int, ...] = (size, *[1] * len(layer.kernel_size))
        if isinstance(layer, _ConvTransposeNd):
            return [small, (size,)]
        signals = series if len(layer.kernel_size) == 1 else []
        wide = [tail for shape in signals for tail in ((size, shape[1]), (shape[0], size))]  # noise as long as a signal
        # Maps as large as an image are no noise: segmentations, sketches.
        return [*dict.fromkeys([*wide, small, (size,)])]
    over_time = isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer))
    return [*several, *([*steps, (size,)] if over_time else [(size,), *steps])]


def _dtype(G: nn.Module) -> torch.dtype | None:
    """Of G's weights; ``None`` if it has none."""
    return next((parameter.dtype for parameter in G.parameters() if parameter.is_floating_point()), None)


def _noise(
    tail: tuple[int, ...], as_list: bool, dtype: torch.dtype | None, n: int, device: torch.device, batch: Any
) -> Any:
    z = torch.randn(n, *tail, device=device, dtype=dtype)
    return [z] if as_list else z


def _with(condition: Condition | None, latent: Latent) -> Latent:
    if condition is None:
        return latent
    return lambda n, device, batch: (latent(n, device, batch), condition.take(batch))
