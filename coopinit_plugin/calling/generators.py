"""How a generator is called: of several guesses, the first that a forward pass proves; or the line to write."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.calling import takes
from coopinit_plugin.calling.adapter import Adapter, Row, fresh, line, unclear, users_hook
from coopinit_plugin.calling.advice import joined_line, mismatch, noise_line, one_hot_line
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.takes import Condition
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need
COUNTS = ("k", "num_latents", "n_latents", "num_components", "components_num", "num_slots", "n_slots", "num_tokens")
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")  # arguments that take a list of latents


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called. Equal if alike."""

    how: str = field(compare=False)  # what it rests on
    condition: Condition | None = None  # what stands beside the latent
    argument: str | None = None  # that takes the latent, if it is given by name
    tail: tuple[int, ...] = ()  # the shape of one sample's noise
    as_list: bool = False  # whether the noise stands in a list
    dtype: torch.dtype | None = None  # of the noise
    width: int = field(default=0, compare=False)  # of the noise; 0 if the user says what G takes
    named: bool = field(default=False, compare=False)  # whether an attribute of G names that width

    def latent(self, n: int, device: torch.device, batch: Any) -> Any:
        """What G takes: z, or (z, condition)."""
        z: Any = torch.randn(n, *self.tail, device=device, dtype=self.dtype)
        z = [z] if self.as_list else z
        return z if self.condition is None else (z, self.condition.take(batch))

    def generate(self, G: nn.Module, z: Any) -> Any:
        """G on the latent, the condition where it belongs; ``G(*z)`` for any other tuple."""
        if self.condition is not None:
            return self.condition.call(G, *z)
        if self.argument is not None:
            return G(**{self.argument: z})
        return G(*z) if isinstance(z, tuple) else G(z)

    def rows(self, z: Any) -> list[Row]:
        """What was found of G's input."""
        if self.condition is None:
            return [("latent", describe(z), self.how)]
        return [("latent", describe(z[0]), self.how), self.condition.row("G")]


class Search:
    """What is known of G: its first layer, what a batch holds, what may stand beside the latent; and what was tried."""

    def __init__(self, G: nn.Module, held: Held, given: Adapter) -> None:
        self.G, self.held, self.given = G, held, given
        said = given.latent is not None or given.generate is not None
        self.conditions = [] if said else takes.conditions_of(G, "G", held.others)
        self.first = takes.first_layer(G.named_modules())
        self.width = 0  # of the latent, if a failed pass told it
        self.tried: list[Guess] = []

    @property
    def size(self) -> tuple[str, int]:
        """(Attribute, size) of the latent that G names, or ("", 0)."""
        found = takes.sizes(self.G, takes.NOISE_SIZES)
        return next(iter([pair for pair in found if pair[1] == self.first.width] + found), ("", 0))

    def learn(self, guess: Guess, record: Record) -> None:
        """Take in what the recorded pass tells, in which that guess failed."""
        self.first, (asked, given, _) = takes.first_run(self.G, record), takes.misfit(record)
        rows = guess.condition.as_one_hot(record, self.held.batch) if guess.condition is not None else None
        width = guess.width + asked - given  # less what else is joined to it
        if rows is not None:
            self.conditions = [rows]
        elif given >= guess.width != width > 0 and guess.width and not self.size[1]:
            self.width = width

    def guesses(self) -> Iterator[Guess]:
        """Ways in which G may be called, the likeliest first; none if more than one argument is unknown."""
        by_name = takes.noise_argument(self.G)
        if self.given.latent is not None:
            yield Guess("given (latent)", argument=by_name)
            return
        unknown = {*takes.arguments(self.G)[0]} - {condition.name for condition in self.conditions}
        if len(unknown) > 1:
            return
        lists = (True, False) if {*unknown, by_name} & {*LISTS} else (False,)
        (attribute, size), first = self.size, self.first
        widths = {f"G.{attribute} = {size}": size}
        if not first.images(self.held.data) and not 0 < size < first.width:  # else it may translate, or joins labels
            widths[f"G's first layer, {first.name}, less what is joined to it"] = self.width
            widths[f"G's first layer, {first.name}"] = first.width
        dtype = next((parameter.dtype for parameter in self.G.parameters() if parameter.is_floating_point()), None)
        beside: list[Condition | None] = [*self.conditions] or [None]
        for why, width in widths.items():
            how = f"{why}; standard normal assumed" + (f", as argument {by_name!r}" if by_name else "")
            for tail, as_list, condition in product(self._tails(width), lists, beside):
                yield Guess(how, condition, by_name, tail, as_list, dtype, width, named=width == size)

    def _tails(self, size: int) -> list[tuple[int, ...]]:
        """Shapes of one latent of that size, the likeliest for the first layer first; none for 0."""
        if not size:
            return []
        layer = self.first.layer if size in (self.first.width, self.width) else None
        series = [part.tensor.shape[1:] for part in self.held.data if part.tensor.ndim == 3]
        if isinstance(layer, _ConvNd):  # maps as large as an image are no noise: segmentations, sketches
            signals = series if len(layer.kernel_size) == 1 and not isinstance(layer, _ConvTransposeNd) else []
            wide = [tail for a, b in signals for tail in ((size, b), (a, size))]  # noise as long as a signal
            return [*wide, (size, *[1] * len(layer.kernel_size)), (size,)]
        several = [(count, size) for _, count in takes.sizes(self.G, COUNTS) if count > 1]
        steps = [(length, size) for length, _ in series]
        return [*several, *([*steps, (size,)] if isinstance(layer, nn.RNNBase) else [(size,), *steps])]


def find(G: nn.Module, held: Held, device: torch.device, given: Adapter) -> tuple[Guess, Any, Any]:
    """(How G is called, what it was given, what it gave), proved by a forward pass."""
    search = Search(G, held, given)
    tried, failure, made = "", None, None
    while len(search.tried) < ATTEMPTS and (waiting := [g for g in search.guesses() if g not in search.tried]):
        guess = waiting[0]
        search.tried.append(guess)
        with users_hook("latent", f"a batch, {describe(held.batch)}"):
            z = move((given.latent or guess.latent)(held.n, device, held.batch), device)
        try:
            with recorded(G) as record:
                out = (given.generate or guess.generate)(G, fresh(z))
        except Exception as error:
            tried += f"\n  G({describe(z)}): {first_line(error)}"
            failure = error
            search.learn(guess, record)
            continue
        made = list(parts(out))
        if {part.tensor.shape for part in held.data} & {part.tensor.shape for part in made}:
            if guess.width and not guess.named:
                _refuse_rivals(held, z, {part.tensor.shape for part in made})
            return guess, z, out
        tried += f"\n  G({describe(z)}) gave {describe(out)}"
    tried = tried and f"\nTried:{tried}"
    if made is None:
        raise _unknown(search, tried) from failure
    raise mismatch(held.data, made, held.real is None, tried) from failure


def _refuse_rivals(held: Held, z: Any, made: set[torch.Size]) -> None:
    """Refuse noise of the shape of a tensor of the batch which G may translate into another one."""
    for part in held.sources:
        others = {other.tensor.shape for other in held.data if held.real is not None or other.keys != part.keys}
        if part.tensor.shape in {noise.tensor.shape for noise in parts(z)} and others & made:
            ask = f"Does G translate {part.name}, or does it start from noise? It takes both, {describe(z)}."
            raise unclear(ask, line(latent=part.name), line(latent=noise_line(*part.tensor.shape[1:])))


def _unknown(search: Search, tried: str) -> CoopInitError:
    """What is known of a G that took none of the guesses, and the line to write."""
    G, held, first, (attribute, size) = search.G, search.held, search.first, search.size
    if "more than 1 value per channel" in tried:  # BatchNorm's words
        cure = "BatchNorm needs more than one sample: give a loader with a larger batch_size, and drop_last=True."
        return CoopInitError(f"G ({type(G).__name__}) fails in training mode. {cure}{tried}")
    sources = [part.name for part in first.images(held.sources)]
    seen = f"What does G ({type(G).__name__}) take? {takes.facts(G, first)}"
    seen += f" Its {attribute} is {size}." if size else ""
    seen += f" {' or '.join(sources)}?" if sources else ""
    conditions = {condition.name: condition for condition in reversed(search.conditions)}
    width = size or search.width or first.width
    free = [noise_line(width)]  # for the arguments that take no condition
    if first.takes_images:
        linear = [module.in_features for module in G.modules() if isinstance(module, nn.Linear)]
        free = [[*sources, "..."][0], noise_line([*linear, size][0])]
    elif 0 < size < first.width and held.labels is not None and not conditions:
        free = [joined_line(free[0], held.labels, first.width - size)]
    elif (width,) in [guess.tail for guess in search.tried]:
        free = [f"torch.randn(n, ..., {width}, device=device)"]
    latent, named = [], []
    for name in dict.fromkeys([*takes.arguments(G)[0], *conditions]) or ["z"]:
        if name in conditions:
            latent.append(_written(conditions[name], G, held.batch))
        elif free:
            latent.append(free.pop(0))
        else:
            named.append(f"{name}=...")
    hooks = {"latent": latent[0] if len(latent) == 1 else f"({', '.join(latent)})"}
    if named or search.given.latent is not None:
        hooks["generate"] = f"G({', '.join(['z' if len(latent) == 1 else '*z', *named])})"
    return unclear(seen + tried, line(**hooks))


def _written(condition: Condition, G: nn.Module, batch: Any) -> str:
    """A condition as a user writes it: class numbers as one-hot rows, if G embeds none."""
    y = condition.take(batch)
    embeds = any(isinstance(module, nn.Embedding) for module in G.modules())
    numbers = not (embeds or y.is_floating_point()) and y.numel() == y.shape[0]
    return one_hot_line(condition.code, int(y.max()) + 1) if numbers else condition.code


def ask_condition(G: nn.Module, guess: Guess, held: Held) -> None:
    """Refuse noise alone for a G that may take labels, too, as its D does: joined to the noise, or as an argument."""
    labels, optional = held.labels, [name for name in takes.arguments(G)[1] if name.lower() in takes.CONDITIONS]
    if labels is None or not guess.width or guess.condition is not None:
        return
    noise, y = noise_line(guess.width), labels.tensor
    classes = y.shape[1] if labels.has_rows else int(y.max()) + 1
    if optional:
        where = f"as its argument {optional[0]!r}"
        hooks = {"latent": f"({noise}, {labels.name})", "generate": f"G(z[0], {optional[0]}=z[1])"}
    elif guess.width > classes and not guess.named:  # there is room for noise beside them
        where = f"joined to its noise, {guess.width} numbers"
        joined = joined_line(noise_line(guess.width - classes), labels, classes)
        hooks = {"latent": joined + f"[:, :{', None' * (len(guess.tail) - 1)}]" * (len(guess.tail) > 1)}
    else:
        return
    raise unclear(f"D is given a condition. Is G given it, too, {where}?", line(**hooks), line(latent=noise))
