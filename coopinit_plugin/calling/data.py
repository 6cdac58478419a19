"""Which tensor of a batch is the data, which part of G's output the sample, and whether the two fit."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.calling.adapter import Findings, line, unclear, users_hook
from coopinit_plugin.calling.advice import mismatch, no_data, rescaled
from coopinit_plugin.calling.sigmoids import last_operation
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.distance import sigmas
from coopinit_plugin.method.pair import ALONE, Team
from coopinit_plugin.nests import Part, batch_size, describe, first_line, get, move, only_tensors, parts

Hook = Callable[[Any], Any]
UNNAMED = "(...)"  # data that a user's hook or several tensors make
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
    def labels(self) -> Part | None:
        """The first tensor that could be labels."""
        return next((part for part in self.others if part.is_labels), None)

    @property
    def sources(self) -> list[Part]:
        """The tensors that G may translate: those that could be data, if another one is the data."""
        floats = [part for part in self.others if part.is_data]
        return floats if self.known or (self.real is None and len(floats) > 1) else []

    def without(self, z: Any) -> "Held":
        """What may be the data if G was given z: it does not translate the data themselves."""
        given = set() if self.real is not None else {id(leaf) for leaf in tree_leaves(z)}
        return replace(self, data=[part for part in self.data if id(part.tensor) not in given])


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
        seen += "dimensions, one of them or a nest, in the range that G produces."
        body = 'batch["image"].unsqueeze(1)' if floats else 'batch["image"].float() / 127.5 - 1'
        raise unclear(seen, line(real=body))
    x = move(x, None)
    data = [*parts(x, "real(batch)")]
    own = {id(part.tensor) for part in data}
    others = [part for part in named if id(part.tensor) not in own]
    return Held(batch, batch_size(x) or 0, data, others, real, x, known=len(others) < len(named))


def match(held: Held, out: Any, found: Findings) -> tuple[Hook, Hook, str]:
    """``real(batch) -> x``, ``pick(G's output) -> x̂`` and how the user writes the data: what has one shape in both."""
    data, made = held.data, list(parts(out, "out"))
    ours, theirs = ({part.keys: part.tensor.shape for part in nest} for nest in (data, made))
    where = list(ours if held.real else theirs)
    if len(where) > 1 and all(ours.get(keys) == theirs.get(keys) for keys in where):
        return _nested(held, where, out, found)
    fits = [(part, sample) for part in data for sample in made if sample.tensor.shape == part.tensor.shape]
    if not fits or (held.real is not None and len(data) > 1):
        raise mismatch(data, made, held.real is None)
    candidates = list(dict.fromkeys(part.name for part, _ in fits))
    if len(candidates) > 1:
        shape = f"{' and '.join(candidates)} have the shape of G's output, {tuple(fits[0][0].tensor.shape)}"
        raise unclear(f"Which tensor of the batch is the data? {shape}.", *(line(real=name) for name in candidates[:2]))
    (name, keys, tensor), (its_name, its_keys, _) = fits[0]
    if len(fits) > 1:
        names = " and ".join(sample.name for _, sample in fits)
        ask = f"Which part of G's output is the sample? {names} have the data's shape."
        raise unclear(ask, line(generate=f"G(z)[{its_keys[0]!r}]"))
    how = "given (real)" if held.real else f"{name}, has the shape of G's output"
    found.rows.append(("data", describe(tensor), how))
    if its_keys:
        found.rows.append(("G's sample", its_name, "the part of its output that has the data's shape"))
    pick = partial(get, keys=its_keys)
    return (held.real, pick, UNNAMED) if held.real else (partial(get, keys=keys), pick, name)


def _nested(held: Held, where: list[tuple[Any, ...]], out: Any, found: Findings) -> tuple[Hook, Hook, str]:
    """A sample of several tensors, which stand under the same keys in G's output and in the data."""
    nest = tree_flatten(held.x if held.real else only_tensors(out))[1]
    gather = lambda source: tree_unflatten([get(source, keys) for keys in where], nest)  # noqa: E731
    shapes = [describe(get(out, keys)) for keys in where]
    if len({*shapes}) < len(shapes) and not isinstance(out, Mapping):
        doubt = "Several data have one shape: taken for G's outputs in that order. Else give"
        found.warnings.append(f"{doubt} {line(real='...')}.")
    found.rows.append(("data", ", ".join(shapes), "given (real)" if held.real else "as G gives them"))
    return held.real or gather, gather, UNNAMED


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
        seen = f"Adapter.mask does not fit the data x, {describe(x)}: {first_line(error)}."
        raise unclear(seen, line(mask="lambda x: torch.ones_like(x)")) from error
    if moves and not any(moves):
        raise CoopInitError("Adapter.mask is 0 everywhere: nothing may move. It is 1 where the chain may move x.")


def spread(real: Hook, batches: list[Any], team: Team = ALONE) -> list[float]:
    """σ of each tensor of the data, over the batches that are like the first one; constant data are refused."""
    seen = [real(batches[0])]
    for batch in batches[1:]:
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


def compare_ranges(x: Any, made: Any, name: str, found: Findings) -> None:
    """Warn if G's sample, whose graph is there, cannot reach the range of the data, which the user writes as `name`."""
    for ours, theirs in zip(tree_leaves(x), tree_leaves(made), strict=True):
        (low, high), (first, last) = (map(float, torch.aminmax(leaf.detach())) for leaf in (ours, theirs))
        span = f"[{low:.3g}, {high:.3g}]"
        found.rows.append(("range", span, f"of the data; G starts at [{first:.3g}, {last:.3g}]"))
        node = last_operation(theirs)
        end = next((word for word in SPANS if node is not None and node.name().startswith(word)), None)
        if end is None:
            continue
        bottom = SPANS[end]
        slack = 0.01 * (1 - bottom)
        beyond = low < bottom - slack or high > 1 + slack
        if beyond or bottom < 0 <= low:
            body = rescaled(name, low, high, bottom)
            seen = " (the first batch's range: take that of your data set)" * (" - (" in body)
            spans = f"G's output spans [{bottom}, 1] ({end.lower()}), your data {span}"
            spans += ": G can never reach them." if beyond else " only."
            found.warnings.append(f"{spans} Scale them as your loop does, e.g. {line(real=body)}{seen}.")
