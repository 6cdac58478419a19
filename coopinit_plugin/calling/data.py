"""Which tensor of a batch is the data, which part of G's output the sample, and whether the two fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.calling.traits import bounded_output
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import Part, describe, first_line, get, only_tensors, parts

Row = tuple[str, str, str]


class Match(NamedTuple):
    """Data and samples of one form.

    Attributes:
        real: ``(batch) -> x``.
        pick: ``(G's output) -> x̂``.
        keys: Where a single tensor of data stands in the batch.
        name: How the user writes it.
        rows: What was found.
        warnings: What is doubtful.
    """

    real: Callable[[Any], Any]
    pick: Callable[[Any], Any]
    keys: tuple[Any, ...] | None
    name: str
    rows: list[Row]
    warnings: list[str]


def refuse_no_data(batch: Any, named: list[Part], data: list[Part]) -> None:
    """Say what is in a batch that holds nothing like data."""
    if not named:
        held = getattr(batch, "__dict__", {})
        where = f"batch.{next(key for key in held)}" if held else 'batch["image"]'
        raise CoopInitError(
            f"A batch of your loader is a {type(batch).__name__} in which no tensor was found. Say where the "
            f"data are: adapter=coopinit_plugin.Adapter(real=lambda batch: {where})"
        )
    if data:
        return
    shown = "; ".join(f"{part.name} is {describe(part.tensor)}" for part in named)
    whole = [part for part in named if part.tensor.ndim >= 3]
    if whole:
        raise CoopInitError(
            f"The data are whole numbers ({shown}), but D and the Langevin chain need floating point in the range "
            "that G produces. Say how your loop scales them, e.g. for a G that ends in tanh: "
            f"adapter=coopinit_plugin.Adapter(real=lambda batch: {whole[0].name}.float() / 127.5 - 1)"
        )
    raise CoopInitError(
        f"No data found in a batch: {shown}. Expected a floating-point tensor of shape (N, ...), such as images "
        "(N, C, H, W); these look like labels. Let the loader yield the data too, or say where they are: "
        "adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0])"
    )


def given_data(real: Callable[[Any], Any], batch: Any) -> Any:
    """What the user's `real` makes of a batch, checked."""
    try:
        x = real(batch)
    except Exception as error:
        raise CoopInitError(
            f"Adapter.real failed on a batch, {describe(batch)}: {first_line(error)}\n"
            "It is a function of one batch of the loader, e.g. real=lambda batch: batch[0]"
        ) from error
    leaves = tree_leaves(x)
    if not leaves or not all(isinstance(leaf, torch.Tensor) and leaf.is_floating_point() for leaf in leaves):
        raise CoopInitError(
            f"Adapter.real returned {describe(x)}; expected a floating-point tensor (N, ...) or a nest of such, "
            "in the range that G produces, e.g. real=lambda batch: batch[0].float() / 127.5 - 1"
        )
    return x


def match(
    data: list[Part], out: Any, source: tuple[Any, ...] | None, real: Callable[[Any], Any] | None, x: Any
) -> Match:
    """The data and the sample are the parts of batch and output that have one shape.

    Args:
        data: Parts that may be the data: of what `real` gave, else of the batch.
        out: G's output.
        source: Keys of what G translates, which is not the data.
        real: The user's hook.
        x: What it gave.

    Raises:
        CoopInitError: where none or several fit.
    """
    made = list(parts(out, "out"))
    order = _same_nest(data, made) if source is None and len(made) > 1 else None
    if order is not None:
        return _nested(data, order, out, real, x)
    fits = [
        (ours, theirs)
        for ours in data
        for theirs in made
        if theirs.tensor.shape == ours.tensor.shape and (real is not None or ours.keys != source)
    ]
    if not fits or (real is not None and len(data) > 1):
        raise CoopInitError(mismatch(data, made))
    candidates = list(dict.fromkeys(ours.name for ours, _ in fits))
    if len(candidates) > 1:
        raise CoopInitError(
            f"Which tensor of the batch is the data? {' and '.join(candidates)} have the shape of G's output, "
            f"{tuple(fits[0][0].tensor.shape)}. Say it: adapter=coopinit_plugin.Adapter(real=lambda batch: "
            f"{candidates[0]})"
        )
    if len(fits) > 1:
        names = " and ".join(theirs.name for _, theirs in fits)
        raise CoopInitError(
            f"Which part of G's output is the sample? {names} have the data's shape. Say it: "
            f"adapter=coopinit_plugin.Adapter(generate=lambda G, z: G(z)[{fits[0][1].keys[0]!r}])"
        )
    ours, theirs = fits[0]
    rows = [("data", describe(ours.tensor), "given (real)" if real else f"{ours.name}, has the shape of G's output")]
    if theirs.keys:
        rows.append(("G's sample", theirs.name, "the part of its output that has the data's shape"))
    keys, where = ours.keys, theirs.keys
    taken = real or (lambda batch: get(batch, keys))
    return Match(taken, lambda out: get(out, where), None if real else keys, ours.name, rows, [])


def _same_nest(data: list[Part], made: list[Part]) -> list[Part] | None:
    """The data in the order of G's output, by key where both have keys, else as they come."""
    named = {part.keys[-1]: part for part in data if part.keys}
    keys = [part.keys[-1] for part in made]
    if len(made) != len(data):
        return None
    by_key = all(isinstance(key, str) for key in keys) and set(named) == set(keys)
    order = [named[key] for key in keys] if by_key else data
    return order if [part.tensor.shape for part in order] == [part.tensor.shape for part in made] else None


def _nested(data: list[Part], order: list[Part], out: Any, real: Callable[[Any], Any] | None, x: Any) -> Match:
    shapes = [part.tensor.shape for part in data]
    warnings = []
    if len(set(shapes)) < len(shapes) and not isinstance(out, Mapping):
        names = ", ".join(part.name for part in data)
        warnings.append(f"{names} have one shape: taken for G's outputs in that order. Else give Adapter(real=...).")
    rows = [("data", ", ".join(describe(part.tensor) for part in order), "given (real)" if real else "as G gives them")]
    where = [part.keys for part in order]
    if real is None:
        nest = tree_flatten(only_tensors(out))[1]
        return Match(
            lambda batch: tree_unflatten([get(batch, keys) for keys in where], nest),
            only_tensors,
            None,
            "",
            rows,
            warnings,
        )
    given, back = tree_flatten(x)[1], [where.index(part.keys) for part in data]

    def pick(out: Any) -> Any:
        made = [part.tensor for part in parts(out)]
        return tree_unflatten([made[index] for index in back], given)

    return Match(real, pick, None, "", rows, warnings)


def mismatch(data: list[Part], made: list[Part]) -> str:
    """Why G's output cannot be compared with the data, and the line that mends it where it is a matter of layout."""
    gave = ", ".join(str(tuple(part.tensor.shape)) for part in made) or "no tensor"
    have = ", ".join(f"{part.name} {tuple(part.tensor.shape)}" for part in data)
    hint = next((line for ours in data for theirs in made if (line := _layout(ours, theirs))), None)
    line = f"real={hint}" if hint else "real=lambda batch: ..., generate=lambda G, z: ..."
    return (
        f"G's output does not match the data: G gave {gave}, the loader gives {have}. D compares the two, so "
        "their shapes must be the same. Resize or reorder the loader's data, or G; or say how your own loop "
        f"makes them alike: adapter=coopinit_plugin.Adapter({line})"
    )


def _layout(ours: Part, theirs: Part) -> str | None:
    have, want = tuple(ours.tensor.shape[1:]), tuple(theirs.tensor.shape[1:])
    if math.prod(have) != math.prod(want):
        return None
    if len(want) == 1:
        return f"lambda batch: {ours.name}.flatten(1)"
    if len(have) == len(want) == 2 and have == want[::-1]:
        return f"lambda batch: {ours.name}.transpose(1, 2)"
    if len(have) == len(want) == 3 and have == (*want[1:], want[0]):
        return f"lambda batch: {ours.name}.permute(0, 3, 1, 2)"
    return f"lambda batch: {ours.name}.reshape(-1, {', '.join(map(str, want))})"


def check(x: Any) -> None:
    """Refuse data that cannot be learnt from."""
    for leaf in tree_leaves(x):
        if leaf.ndim < 2:
            raise CoopInitError(
                f"The data have shape {tuple(leaf.shape)}; expected (N, ...) with at least two dimensions. For one "
                "number per sample: adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0].unsqueeze(1))"
            )
        if not torch.isfinite(leaf).all():
            raise CoopInitError(
                f"The data are not finite: {int((~torch.isfinite(leaf)).sum())} of {leaf.numel()} numbers of the "
                "first batch are NaN or infinite. Clean or drop those samples in the dataset (torch.nan_to_num)."
            )
        if leaf.numel() and float(leaf.max()) == float(leaf.min()):
            raise CoopInitError(
                f"The data are constant: every number of the first batch is {float(leaf.max()):g}. There is "
                "nothing to learn from it; check the loader's transforms and its scaling."
            )


def ranges(G: nn.Module, x: Any, fake: Any, name: str) -> tuple[list[Row], list[str]]:
    """(Rows, warnings): the data's range against G's; `name` is how the user writes the data."""
    rows = []
    for ours, theirs in zip(tree_leaves(fake), tree_leaves(x), strict=True):
        low, high = float(theirs.min()), float(theirs.max())
        start = f"of the data; G starts at [{float(ours.min()):.3g}, {float(ours.max()):.3g}]"
        rows.append(("range", f"[{low:.3g}, {high:.3g}]", start))
    bound = bounded_output(G)
    if bound is None or len(rows) > 1:
        return rows, []
    function, bottom, top = bound
    spans = f"G's output spans [{bottom:g}, {top:g}] ({function}), your data"
    if low < bottom - 0.01 * (top - bottom) or high > top + 0.01 * (top - bottom):
        scaled = f"{name} / 127.5 - 1" if high > 2 else f"({name} + 1) / 2"
        return rows, [
            f"{spans} [{low:.3g}, {high:.3g}]: G can never reach them. Scale the data as your loop does, e.g. "
            f"Adapter(real=lambda batch: {scaled})."
        ]
    if bottom < 0 <= low:
        return rows, [
            f"{spans} only [{low:.3g}, {high:.3g}]. If your loop scales them first, say so: "
            f"Adapter(real=lambda batch: {name} * 2 - 1)."
        ]
    return rows, []
