"""The score of a discriminator: what D is called with, and which part of its output counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, Row, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import Condition, arguments, conditions_of
from coopinit_plugin.calling.data import Held, Match
from coopinit_plugin.calling.layers import First, first_run, misfit, rows_line
from coopinit_plugin.calling.outputs import one_number, pick_score
from coopinit_plugin.calling.sigmoid import Call, Sigmoids, logit, may_be_probability
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import could_be_labels, describe, first_line


class Scored(NamedTuple):
    """The score of a D that was called, whether it is taken before a final sigmoid, and what was found."""

    score: Call
    f: Tensor  # of the real samples
    ends_in_sigmoid: bool
    rows: list[Row]
    warnings: list[str]
    condition: Condition | None = None  # that was found

    def conditional(self, D: nn.Module, x: Any, z: Any) -> bool:
        """Whether D is given something of the batch beside the data."""
        return self.condition is not None or needs_batch(lambda batch: self.score(D, fresh(x), fresh(z), batch))


class Watched(NamedTuple):
    """A forward pass of D."""

    record: Record
    sigmoids: Sigmoids
    out: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """What D gave; what it raised."""
        if self.error is not None:
            raise self.error
        return self.out


def _watched(call: Call, D: nn.Module, x: Any, z: Any, batch: Any) -> Watched:
    with recorded(D) as record, Sigmoids() as sigmoids:
        try:
            return Watched(record, sigmoids, call(D, fresh(x), fresh(z), batch))
        except Exception as error:
            return Watched(record, sigmoids, error=error)


def needs_batch(score: Callable[[Any], Any]) -> bool:
    """Whether a score takes something from the batch beside x, such as labels: asked by giving it none."""
    try:
        with torch.no_grad():
            score(None)
    except (TypeError, AttributeError, LookupError, ValueError, RuntimeError, AssertionError, StopIteration):
        return True  # errors of other kinds are not about what D was given
    return False


def find(D: nn.Module, held: Held, x: Any, z: Any, beside: Condition | None, fits: Match, given: Adapter) -> Scored:
    """How D is scored, proved by a forward pass on the data x; G takes z and the condition `beside`."""
    n, shapes = tree_leaves(x)[0].shape[0], [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)]
    condition: Condition | None = None
    rows: list[Row] = []
    if given.score is not None:
        call: Call = given.score
        watched = _watched(call, D, x, z, held.batch)
        with users_hook("score", f"a real batch, x = {describe(x)}"):
            f = watched.result()
        if not isinstance(f, Tensor) or not f.is_floating_point():
            seen = f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample."
            raise unclear(seen, line(score="D(x)[0]"))
        if f.ndim == 2:  # heads or classes would be averaged as if they were positions
            one_number(f, n, shapes, "D(x)")
        how = "given (score)"
    else:
        condition = _condition(D, held, beside, fits.keys, given)
        whole = _call(D, x, condition)
        watched = _watched(whole, D, x, None, held.batch)
        if watched.error is not None and condition is not None:
            rows_of_it = condition.as_one_hot(misfit(watched.record), held.batch)
            if rows_of_it is not None:
                condition, whole = rows_of_it, _call(D, x, rows_of_it)
                watched = _watched(whole, D, x, None, held.batch)
        if watched.error is not None:
            raise _refused(D, held, x, fits.name, watched, condition) from watched.error
        unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
        pick, how = pick_score(watched.out, n, shapes, unit)
        call, f = (lambda D, x, z, batch: pick(whole(D, x, z, batch))), pick(watched.out)
        rows = [condition.row("D")] if condition is not None else _parts_of(D, x)
    _check(f)
    if (before := logit(call, f, watched.record, watched.sigmoids)) is not None:
        score, where, values = before
        return Scored(score, values, True, [*rows, ("D's score", describe(f), f"{how}; {where}")], [], condition)
    doubts = _warnings(f, how) if given.score is None else []
    return Scored(call, f, False, [*rows, ("D's score", describe(f), how)], doubts, condition)


def _warnings(f: Tensor, how: str) -> list[str]:
    """What is doubtful about a score that was found."""
    scales = "D gives a list: read as one score map per scale, their means summed. If only one counts, say which:"
    probability = "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, write"
    doubts = [
        (how.startswith("sum of the means"), f"{scales} {line(score='D(x)[0]')}."),
        (may_be_probability(f), f"{probability} {line(score='torch.logit(D(x), 1e-6)')}."),
    ]
    return [warning for doubtful, warning in doubts if doubtful]


def _condition(D: nn.Module, held: Held, beside: Condition | None, keys: Any, given: Adapter) -> Condition | None:
    """What D is given beside the data, if anything."""
    keys_of_g = beside.keys if beside is not None else None  # what G is given as it is, D is given, too
    same = [part for part in held.others if keys_of_g in (None, part.keys)]
    conditions = conditions_of(D, "D", same, keys if keys is not None else ())
    if not conditions:
        return None
    condition = next((c for c in conditions if beside is not None and c.text == beside.text), conditions[0])
    if condition.position is None and beside is None and given.latent is None:
        seen = f"D may take labels ({condition.name!r}, optional), but G takes none. Does your loop pass them?"
        raise unclear(seen, line(score="D(x)"), line(score=f"D(x, {condition.code})"))
    return condition


def _parts_of(D: nn.Module, x: Any) -> list[Row]:
    """The line of the table for a nested x that is spread over D's arguments; none for any other."""
    required = arguments(D)[0]
    if not (isinstance(x, (tuple, list)) and len(x) > 1 and len(required) == len(x)):
        return []
    return [("D's input", ", ".join(required), "one argument for each part of x")]


def _call(D: nn.Module, x: Any, condition: Condition | None) -> Call:
    """How D is called: ``D(x)``, with its condition, or with a nested x spread over its arguments."""
    if condition is not None:
        return lambda D, x, z, batch: condition.call(D, x, condition.take(batch))
    if _parts_of(D, x):
        return lambda D, x, z, batch: D(*x)
    return lambda D, x, z, batch: D(x)


def _check(f: Tensor) -> None:
    """Refuse a score that neither the chain nor D can follow."""
    if not f.requires_grad:
        seen = "D's score carries no gradient, so that neither the chain nor D can follow it"
        raise unclear(f"{seen}: does it round, compare or detach? Give what it does so to.", line(score="..."))
    if not torch.isfinite(f).all():
        seen = "D's logits on the first real batch are not finite."
        raise CoopInitError(f"{seen} Check D's weights and the range of the data.")


def _refused(
    D: nn.Module, held: Held, x: Any, name: str, watched: Watched, condition: Condition | None
) -> CoopInitError:
    """Why D may not take x, and the line to write."""
    first, needed, error, n = first_run(watched.record), arguments(D)[0], watched.error, held.n
    dtype = next((p.dtype for p in D.parameters() if p.is_floating_point()), None)
    why, bodies = "", ["..."]
    if isinstance(x, Tensor) and dtype not in (None, x.dtype):
        cast = {torch.float32: "float()", torch.float64: "double()"}.get(dtype, f"to({dtype})")
        seen = f"D ({type(D).__name__}) does not take the data {describe(x)}, for its weights are {str(dtype)[6:]}"
        return unclear(f"{seen}. Convert the data as your loop does.", line(real=f"{name}.{cast}"))
    if len(needed) > 1:
        why = f"Its forward needs {', '.join(needed)}. "
        why += f"It was given {condition.text}. " if condition is not None else ""
        bodies = [f"D(x, {', '.join(f'{name}=...' for name in needed[1:])})"]
    elif "is invalid for input of size" in str(error):
        why = f"Does it group the batch (minibatch statistics, pac)? Then {n} must be a multiple of the group. "
        bodies = ["D(x)"]
    elif first is not None and isinstance(x, Tensor):
        reading, bodies = _width(first, x, n, held) or ("", bodies)
        why = reading and f"Its first layer, {first.name}, takes {reading} "
    seen = f"D ({type(D).__name__}) does not take the data {describe(x)}: {first_line(error) if error else ''}"
    return unclear(f"{seen}\n{why}How does your loop call it?", *(line(score=body) for body in bodies))


def _width(first: First, x: Tensor, n: int, held: Held) -> tuple[str, list[str]] | None:
    """What the width of D's first layer tells, and the calls that would fit it."""
    width, size = first.width, x.numel() // max(n, 1)
    beside = next((part for part in held.others if could_be_labels(part)), None)

    def joined(more: int) -> str:
        return f"D(torch.cat([x, {rows_line(beside, more)}], 1))"

    if first.takes_images() and width > x.shape[1]:
        shape = (width - x.shape[1], *x.shape[2:])
        maps = [part.name for part in held.others if part.tensor.shape[1:] == shape]
        planes = f"{rows_line(beside, shape[0])}.reshape(-1, {shape[0]}{', 1' * len(shape[1:])})"
        planes += f".expand(-1, {str(shape)[1:]}"
        bodies = [f"D(torch.cat([{maps[0]}, x], 1))" if maps else f"D(torch.cat([x, {planes}], 1))"]
        return f"{width} channels, the data have {x.shape[1]}: a condition joined to x?", bodies
    if not isinstance(first.layer, nn.Linear):
        return None
    if width == size:
        return f"{width} numbers: x flattened?", ["D(x.flatten(1))"]
    has = f"{width} numbers, x has {size}"
    if width < size:
        return f"{has}.", ["..."]
    if width % size:
        return f"{has}: a condition joined to x?", [joined(width - size)]
    packs = f"{width // size} samples in one (pac), or a condition joined to x?"
    return f"{has}: {packs}", [f"D(x.reshape(-1, {width}))", joined(width - size)]
