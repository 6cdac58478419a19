"""Which tensor of a batch is the data, which part of G's output the sample, and whether the two fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.calling.adapter import Row, line, unclear, users_hook
from coopinit_plugin.calling.misfits import mismatch, no_data, rescaled
from coopinit_plugin.calling.outputs import last_operation
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.distance import sigmas
from coopinit_plugin.method.pair import ALONE, Team
from coopinit_plugin.nests import Part, batch_size, describe, first_line, get, move, only_tensors, parts

Hook = Callable[[Any], Any]
SPANS = {"Tanh": -1, "Sigmoid": 0, "Softmax": 0}  # of G's last operation, up to 1


@dataclass(frozen=True)
class Held:
    """What one batch holds."""

    batch: Any
    n: int  # samples
    data: list[Part]  # of which one is the data: the tensors that the user's `real` gave, or else the batch's
    others: list[Part]  # that may be labels, or what G translates
    real: Hook | None = None  # the user's
    x: Any = None  # what it gave
    known: bool = False  # whether that is a tensor of the batch as it is

    @property
    def floats(self) -> list[Part]:
        """What could be data besides."""
        return [part for part in self.others if part.is_data]

    @property
    def labels(self) -> Part | None:
        """The first tensor that could be labels."""
        return next((part for part in self.others if part.is_labels), None)

    def without(self, z: Any) -> list[Part]:
        """The tensors that may be the data if G was given z: it does not translate the data themselves."""
        given = set() if self.real is not None else {id(leaf) for leaf in tree_leaves(z)}
        return [part for part in self.data if id(part.tensor) not in given]


class Match(NamedTuple):
    """Data and samples of one form: ``real(batch) -> x`` and ``pick(G's output) -> x̂``."""

    real: Hook
    pick: Hook
    rows: list[Row]
    keys: tuple[Any, ...] | None = None  # where the data stand in the batch, if they are a single tensor of it
    name: str = "(...)"  # how the user writes that
    warnings: tuple[str, ...] = ()


def held(batch: Any, real: Hook | None) -> Held:
    """What the batch holds, and what the user's `real` makes of it."""
    named = list(parts(batch))
    if real is None:
        data = [part for part in named if part.is_data]
        if not data:
            raise no_data(batch, named)
        return Held(batch, batch_size(batch) or 0, data, named)
    with users_hook("real", f"a batch, {describe(batch)}"):
        x = real(batch)
    leaves = tree_leaves(x)
    floats = bool(leaves) and all(isinstance(leaf, torch.Tensor) and leaf.is_floating_point() for leaf in leaves)
    if not floats or any(leaf.ndim < 2 for leaf in leaves):
        seen = f"Adapter.real returned {describe(x)}; expected floating-point tensors (N, ...) with at least two "
        name = next((part.name for part in named if floats or part.tensor.ndim > 1), 'batch["image"]')
        body = f"{name}.unsqueeze(1)" if floats else f"{name}.float() / 127.5 - 1"
        raise unclear(f"{seen}dimensions, one of them or a nest, in the range that G produces.", line(real=body))
    x = move(x, None)
    data = [*parts(x, "real(batch)")]
    own = {id(part.tensor) for part in data}
    others = [part for part in named if id(part.tensor) not in own]
    return Held(batch, batch_size(x) or 0, data, others, real, x, known=len(others) < len(named))


def match(held: Held, z: Any, out: Any) -> Match:
    """The data and the sample: the parts of the batch and of G's output that have one shape; G was given z."""
    data, made = held.without(z), list(parts(out, "out"))
    order = _same_nest(data, made) if len(made) > 1 else None
    if order is not None:
        return _nested(held, data, order, out)
    fits = [(ours, theirs) for ours in data for theirs in made if theirs.tensor.shape == ours.tensor.shape]
    if not fits or (held.real is not None and len(data) > 1):
        raise mismatch(data, made, held.real is None)
    candidates = list(dict.fromkeys(ours.name for ours, _ in fits))
    if len(candidates) > 1:
        shape = f"{' and '.join(candidates)} have the shape of G's output, {tuple(fits[0][0].tensor.shape)}"
        raise unclear(f"Which tensor of the batch is the data? {shape}.", line(real=candidates[0]))
    (name, keys, tensor), (its_name, where, _) = fits[0]
    if len(fits) > 1:
        names = " and ".join(theirs.name for _, theirs in fits)
        ask = f"Which part of G's output is the sample? {names} have the data's shape."
        raise unclear(ask, line(generate=f"G(z)[{where[0]!r}]"))
    rows = [("data", describe(tensor), "given (real)" if held.real else f"{name}, has the shape of G's output")]
    if where:
        rows.append(("G's sample", its_name, "the part of its output that has the data's shape"))
    pick = lambda out: get(out, where)  # noqa: E731
    return Match(held.real, pick, rows) if held.real else Match(partial(get, keys=keys), pick, rows, keys, name)


def _same_nest(data: list[Part], made: list[Part]) -> list[Part] | None:
    """The data in the order of G's output, by key if both have keys, else as they come; ``None`` if they do not fit."""
    named, keys = {part.keys[-1]: part for part in data if part.keys}, [part.keys[-1] for part in made]
    by_key = all(isinstance(key, str) for key in keys) and set(named) == set(keys)
    order = [named[key] for key in keys] if by_key else data
    return order if [part.tensor.shape for part in order] == [part.tensor.shape for part in made] else None


def _nested(held: Held, data: list[Part], order: list[Part], out: Any) -> Match:
    """A sample of several tensors; `order` has the data in the order of G's output."""
    doubts: tuple[str, ...] = ()
    if len({part.tensor.shape for part in data}) < len(data) and not isinstance(out, Mapping):
        names = ", ".join(part.name for part in data)
        doubts = (f"{names} have one shape: taken for G's outputs in that order. Else give {line(real='...')}.",)
    how = "given (real)" if held.real else "as G gives them"
    rows = [("data", ", ".join(describe(part.tensor) for part in order), how)]
    where = [part.keys for part in order]
    back = [where.index(part.keys) for part in (data if held.real else order)]
    nest = tree_flatten(held.x if held.real else only_tensors(out))[1]

    def pick(out: Any) -> Any:
        made = [part.tensor for part in parts(out)]
        return tree_unflatten([made[index] for index in back], nest)

    real = held.real or (lambda batch: tree_unflatten([get(batch, keys) for keys in where], nest))
    return Match(real, pick, rows, warnings=doubts)


def check_finite(x: Any, when: str) -> None:
    """Refuse samples that are not finite."""
    leaves = tree_leaves(x)
    if odd := sum(int((~torch.isfinite(leaf)).sum()) for leaf in leaves):
        every = sum(leaf.numel() for leaf in leaves)
        raise CoopInitError(
            f"{when}: the loader gave data that are not finite, {odd} of {every} numbers are NaN or infinite. Your "
            "networks are untouched. Clean or drop those samples in the dataset (torch.nan_to_num)."
        )


def check_mask(mask: Hook, x: Any) -> None:
    """Refuse a mask, ``(x) -> mask``, that does not fit the data x, or lets none of them move."""
    try:
        given = mask(x)
        pairs = [] if given is None else zip(tree_leaves(given), tree_leaves(x), strict=True)
        moves = [bool(torch.broadcast_to(free, leaf.shape).bool().any()) for free, leaf in pairs]
    except Exception as error:
        seen = f"Adapter.mask does not fit the data x, {describe(x)}: {first_line(error)}. Expected a tensor that "
        seen += "broadcasts to x, 1 where the chain may move x, or a function (x) -> mask."
        raise unclear(seen, line(mask="lambda x: torch.ones_like(x)")) from error
    if moves and not any(moves):
        raise CoopInitError("Adapter.mask is 0 everywhere: nothing may move. It is 1 where the chain may move x.")


def spread(real: Hook, batches: list[Any], team: Team = ALONE) -> list[float]:
    """σ of each tensor of the data, over the batches that are like the first one; constant data are refused."""
    first, *more = batches
    seen = [real(first)]
    for batch in more:
        with suppress(Exception):  # what is wrong with a later batch, the iteration that takes it says
            check_finite(x := real(batch), "")
            if all(a.shape[1:] == b.shape[1:] for a, b in zip(tree_leaves(x), tree_leaves(seen[0]), strict=True)):
                seen.append(x)
    sigma = sigmas(*seen, team=team)
    for leaf, its in zip(tree_leaves(seen[0]), sigma, strict=True):
        if not its:
            raise CoopInitError(
                f"The data are constant: every number of the first {sum(len(tree_leaves(x)[0]) for x in seen)} samples "
                f"is {float(leaf.flatten()[0]):g}. Check the loader's transforms and its scaling."
            )
    return sigma


def ranges(x: Any, made: Any, name: str) -> tuple[list[Row], list[str]]:
    """(Rows, warnings): the data's range against that of G's sample, whose graph is there.

    `name` is how the user writes the data.
    """
    rows, doubts = [], []
    for ours, theirs in zip(tree_leaves(made), tree_leaves(x), strict=True):
        (low, high), (first, top) = (map(float, torch.aminmax(leaf.detach())) for leaf in (theirs, ours))
        rows.append(("range", f"[{low:.3g}, {high:.3g}]", f"of the data; G starts at [{first:.3g}, {top:.3g}]"))
        last = last_operation(ours)
        end = next((word for word in SPANS if last is not None and last.name().startswith(word)), None)
        if end is None:
            continue
        bottom = SPANS[end]
        slack = 0.01 * (1 - bottom)
        beyond = low < bottom - slack or high > 1 + slack
        if beyond or bottom < 0 <= low:
            body = rescaled(name, low, high, bottom)
            seen = " (the first batch's range: take that of your data set)" * (" - (" in body)
            spans = f"G's output spans [{bottom}, 1] ({end.lower()}), your data {rows[-1][1]}"
            spans += ": G can never reach them." if beyond else " only."
            doubts.append(f"{spans} Scale them as your loop does, e.g. {line(real=body)}{seen}.")
    return rows, doubts
