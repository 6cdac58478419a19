"""What a generator takes: a latent, conditions beside it, or source images. Guessed, and proved by a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
Generate = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called."""

    latent: Latent  # with a condition it gives (z, c)
    how: str  # what the guess rests on
    hook: Generate | None = None  # the user's `generate`
    argument: str | None = None  # that takes the latent, if it is given by name
    condition: Condition | None = None  # what stands beside the latent
    source: str = ""  # the batch's tensor that G takes as it is, as a user writes it; empty if there is none
    named: bool = False  # whether an attribute of G names the latent's size
    width: int | None = None  # of the latent, if it is noise
    form: Any = None  # equal in guesses that are the same

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
        if self.condition is not None:
            return [(what, describe(z[0]), self.how), self.condition.row("G")]
        return [(what, describe(z), self.how + (f", as argument {self.argument!r}" if self.argument else ""))]


@dataclass(frozen=True)
class Known:
    """What is known of G before it is called: its first layer, what a batch holds, what may stand beside the latent."""

    G: nn.Module
    held: Held
    hook: Generate | None  # the user's `generate`
    conditions: list[Condition]
    first: First
    width: int = 0  # of the latent, if a failed pass told it
    ran: tuple[str, ...] = ()  # the modules that a failed pass began

    @property
    def images(self) -> list[Part]:
        """Data that G's first layer could take as they are."""
        return self.first.images(self.held.data)

    @property
    def size(self) -> tuple[str, int] | None:
        """(Attribute, size) of the latent that G names, unless it may be the channels of an image."""
        found = sizes(self.G, NOISE_SIZES if self.images else SIZES)
        return next(iter([pair for pair in found if pair[1] == self.first.width] + found), None)

    @property
    def translates(self) -> bool:
        """Whether G may take an image of the batch, or a map that the user's loop makes of one."""
        maps = sum(part.tensor.ndim >= 4 for part in self.held.others) + self.held.known
        return bool(self.images) or (self.first.takes_images and maps > 1 and self.size is None)

    def after(self, guess: Guess, record: Record) -> Known:
        """What is known after that guess failed in the recorded pass."""
        ran, where = first_run(record), misfit(record)
        names = tuple(call.name for call in record.begun)
        known = replace(self, ran=names, first=ran if ran.width and self.first.width else self.first)
        if guess.condition is not None and (rows := guess.condition.as_one_hot(where, self.held.batch)) is not None:
            return replace(known, conditions=[rows])
        width = guess.width + where.asked - where.given if guess.width else 0  # what else is joined has a width, too
        told = guess.width and where.given >= guess.width != width > 0 and self.size is None
        return replace(known, width=width) if told else known


def guesses(known: Known) -> Iterator[Guess]:
    """Ways in which G may be called, the likeliest first; none if more than one argument is unknown."""
    held, first, by_name = known.held, known.first, noise_argument(known.G)
    taken = {condition.name for condition in known.conditions}
    unknown = [name for name in arguments(known.G)[0] if name not in taken]
    if len(unknown) > 1:
        return
    beside: list[Condition | None] = [*known.conditions] or [None]
    forms = (True, False) if {*unknown, by_name} & {*LISTS} else (False,)  # whether G takes a list
    dtype = next((parameter.dtype for parameter in known.G.parameters() if parameter.is_floating_point()), None)

    def guess(latent: Latent, how: str, condition: Condition | None, form: Any, **more: Any) -> Guess:
        if condition is None:
            return Guess(latent, how, known.hook, form=form, **more)
        both = lambda n, device, batch: (latent(n, device, batch), condition.take(batch))  # noqa: E731
        return Guess(both, how, known.hook, condition=condition, form=(form, condition.text), **more)

    def noise(tail: tuple[int, ...], as_list: bool) -> Latent:
        def draw(n: int, device: torch.device, batch: Any) -> Any:
            z = torch.randn(n, *tail, device=device, dtype=dtype)
            return [z] if as_list else z

        return draw

    for width, why, named in _widths(known):
        for tail, as_list, condition in product(_tails(width, known), forms, beside):
            source = condition.code if condition is not None and condition.keys is not None else ""
            more = {"source": source, "named": named, "width": width, "argument": by_name}
            yield guess(noise(tail, as_list), f"{why}; standard normal assumed", condition, (tail, as_list), **more)
    if known.translates and (held.known or len(held.data) > 1):  # one alone may be noise, too
        for part, condition in product(first.images([part for part in held.others if could_be_data(part)]), beside):
            take = lambda n, device, batch, keys=part.keys: get(batch, keys)  # noqa: E731
            how = f"{part.name}: G's first layer, {first.name}, takes it"
            yield guess(take, how, condition, part.name, source=part.name)


def _widths(known: Known) -> Iterator[tuple[int, str, bool]]:
    """(Size of the latent, why, whether an attribute names it)."""
    size, first = known.size, known.first
    if size is not None:
        yield size[1], f"G.{size[0]} = {size[1]}", True
    if known.translates or not first.width or (size is not None and first.width > size[1]):
        return  # a first layer wider than the size that G names takes something beside the noise
    if known.width not in (0, first.width):
        yield known.width, f"G's first layer, {first.name}, less what is joined to it", False
    yield first.width, f"G's first layer, {first.name}", False


def _tails(size: int, known: Known) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for the first layer first."""
    layer = known.first.layer if size in (known.first.width, known.width) else None
    several = [(count, size) for _, count in sizes(known.G, COUNTS) if count > 1]
    series = [part.tensor.shape[1:] for part in known.held.data if part.tensor.ndim == 3]
    if isinstance(layer, _ConvNd):
        small: tuple[int, ...] = (size, *[1] * len(layer.kernel_size))
        signals = series if len(layer.kernel_size) == 1 and not isinstance(layer, _ConvTransposeNd) else []
        wide = [tail for shape in signals for tail in ((size, shape[1]), (shape[0], size))]  # noise as long as a signal
        # Maps as large as an image are no noise: segmentations, sketches.
        return [*wide, small, (size,)]
    steps = [(shape[0], size) for shape in series]
    over_time = isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer))
    return [*several, *([*steps, (size,)] if over_time else [(size,), *steps])]
