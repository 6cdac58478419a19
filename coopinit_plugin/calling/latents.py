"""What a generator may take: a latent, conditions beside it, or source images; the likeliest guess first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.calling.adapter import Adapter, Row
from coopinit_plugin.calling.conditions import Condition, arguments, noise_argument
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.layers import NOISE_SIZES, First, first_run, misfit, sizes
from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import Part, describe, get

SIZES = (*NOISE_SIZES, "input_dim", "in_dim")  # the last two also name the channels of a source image
COUNTS = ("k", "num_latents", "n_latents", "num_components", "components_num", "num_slots", "n_slots", "num_tokens")
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")  # arguments that take a list of latents


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called: on noise, on a tensor of the batch, or by the user's hooks. Equal if alike."""

    how: str = field(compare=False)  # what it rests on
    given: Adapter = field(compare=False)  # the user's hooks
    condition: Condition | None = None  # what stands beside the latent
    argument: str | None = None  # that takes the latent, if it is given by name
    tail: tuple[int, ...] = ()  # the shape of one sample's noise
    as_list: bool = False  # whether the noise stands in a list
    dtype: torch.dtype | None = None  # of the noise
    width: int = field(default=0, compare=False)  # of the noise; 0 if G takes something else
    named: bool = field(default=False, compare=False)  # whether an attribute of G names that width
    name: str = ""  # the batch's tensor that G takes as it is, as a user writes it; empty if there is none
    keys: tuple[Any, ...] = ()  # where that stands in the batch

    def latent(self, n: int, device: torch.device, batch: Any) -> Any:
        """What G takes: z, or (z, condition)."""
        if self.given.latent is not None:
            return self.given.latent(n, device, batch)
        if self.name:
            z = get(batch, self.keys)
        else:
            z = torch.randn(n, *self.tail, device=device, dtype=self.dtype)
            z = [z] if self.as_list else z
        return z if self.condition is None else (z, self.condition.take(batch))

    def generate(self, G: nn.Module, z: Any) -> Any:
        """G on the latent, the condition where it belongs; ``G(*z)`` for any other tuple."""
        if self.given.generate is not None:
            return self.given.generate(G, z)
        if self.condition is not None:
            return self.condition.call(G, *z)
        if self.argument is not None:
            return G(**{self.argument: z})
        return G(*z) if isinstance(z, tuple) else G(z)

    @property
    def source(self) -> str:
        """The batch's tensor that G takes as it is, alone or beside noise, as a user writes it."""
        beside = self.condition
        return self.name or (beside.code if beside is not None and beside.keys is not None else "")

    def rows(self, z: Any) -> list[Row]:
        """What was found of G's input."""
        what, how = "source" if self.name else "latent", self.how + "; standard normal assumed" * bool(self.width)
        if self.condition is not None:
            return [(what, describe(z[0]), how), self.condition.row("G")]
        return [(what, describe(z), how + (f", as argument {self.argument!r}" if self.argument else ""))]


@dataclass
class Search:
    """What is known of G: its first layer, what a batch holds, what may stand beside the latent; and what was tried."""

    G: nn.Module
    held: Held
    given: Adapter  # the user's hooks
    conditions: list[Condition]
    first: First
    width: int = 0  # of the latent, if a failed pass told it
    ran: tuple[str, ...] = ()  # the modules that the last failed pass began
    tried: list[Guess] = field(default_factory=list)
    said: str = ""  # what came of those that failed

    @property
    def size(self) -> tuple[str, int] | None:
        """(Attribute, size) of the latent that G names, unless it may be the channels of an image."""
        found = sizes(self.G, NOISE_SIZES if self.first.images(self.held.data) else SIZES)
        return next(iter([pair for pair in found if pair[1] == self.first.width] + found), None)

    @property
    def translates(self) -> bool:
        """Whether G may take an image of the batch, or a map that the user's loop makes of one."""
        maps = sum(part.tensor.ndim >= 4 for part in self.held.others) + self.held.known
        return bool(self.first.images(self.held.data)) or (self.first.takes_images and maps > 1 and self.size is None)

    @property
    def sources(self) -> list[Part]:
        """The batch's tensors that G may take as they are; one that alone can be the data is none."""
        several = self.held.known or len(self.held.data) > 1
        return self.first.images(self.held.floats) if self.translates and several else []

    def learn(self, guess: Guess, record: Record) -> None:
        """Take in what the recorded pass tells, in which that guess failed."""
        ran, where = first_run(record), misfit(record)
        self.ran = tuple(call.name for call in record.begun)
        self.first = ran if ran.width and self.first.width else self.first
        if guess.condition is not None and (rows := guess.condition.as_one_hot(where, self.held.batch)) is not None:
            self.conditions = [rows]
            return
        width = guess.width + where.asked - where.given  # less what else is joined to it
        if where.given >= guess.width != width > 0 and guess.width and self.size is None:
            self.width = width

    def guesses(self) -> Iterator[Guess]:
        """Ways in which G may be called, the likeliest first; none if more than one argument is unknown."""
        by_name = noise_argument(self.G)
        beside: list[Condition | None] = [*self.conditions] or [None]
        if self.given.latent is not None:
            yield Guess("given (latent)", self.given, argument=by_name)
            return
        unknown = {*arguments(self.G)[0]} - {condition.name for condition in self.conditions}
        if len(unknown) > 1:
            return
        lists = (True, False) if {*unknown, by_name} & {*LISTS} else (False,)
        dtype = next((parameter.dtype for parameter in self.G.parameters() if parameter.is_floating_point()), None)
        for width, why, named in self._widths():
            for tail, as_list, condition in product(self._tails(width), lists, beside):
                yield Guess(why, self.given, condition, by_name, tail, as_list, dtype, width, named)
        for part, condition in product(self.sources, beside):
            how = f"{part.name}: G's first layer, {self.first.name}, takes it"
            yield Guess(how, self.given, condition, name=part.name, keys=part.keys)

    def _widths(self) -> Iterator[tuple[int, str, bool]]:
        """(Size of the latent, why, whether an attribute names it)."""
        size, first = self.size, self.first
        if size is not None:
            yield size[1], f"G.{size[0]} = {size[1]}", True
        if self.translates or not first.width or (size is not None and first.width > size[1]):
            return  # a first layer wider than the size that G names takes something beside the noise
        if self.width not in (0, first.width):
            yield self.width, f"G's first layer, {first.name}, less what is joined to it", False
        yield first.width, f"G's first layer, {first.name}", False

    def _tails(self, size: int) -> list[tuple[int, ...]]:
        """Shapes of one latent of that size, the likeliest for the first layer first."""
        layer = self.first.layer if size in (self.first.width, self.width) else None
        series = [part.tensor.shape[1:] for part in self.held.data if part.tensor.ndim == 3]
        if isinstance(layer, _ConvNd):  # maps as large as an image are no noise: segmentations, sketches
            signals = series if len(layer.kernel_size) == 1 and not isinstance(layer, _ConvTransposeNd) else []
            wide = [tail for a, b in signals for tail in ((size, b), (a, size))]  # noise as long as a signal
            return [*wide, (size, *[1] * len(layer.kernel_size)), (size,)]
        several = [(count, size) for _, count in sizes(self.G, COUNTS) if count > 1]
        steps = [(length, size) for length, _ in series]
        over_time = isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer))
        return [*several, *([*steps, (size,)] if over_time else [(size,), *steps])]
