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
from coopinit_plugin.calling.layers import first_run, misfit, rows_line
from coopinit_plugin.calling.outputs import Call, Sigmoids, logit, may_be_probability, one_number, pick_score
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import could_be_labels, describe, first_line

SCALES = (  # what is doubtful about a score that was found
    "D gives a list: read as one score map per scale, their means summed. If only one counts, say which: "
    f"{line(score='D(x)[0]')}."
)
PROBABILITY = (
    "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, write "
    f"{line(score='torch.logit(D(x), 1e-6)')}."
)


class Scored(NamedTuple):
    """The score of a D that was called, whether it is taken before a final sigmoid, and what was found."""

    score: Call
    f: Tensor  # of the real samples
    ends_in_sigmoid: bool
    conditional: bool  # whether D is given something of the batch beside the data
    rows: list[Row]
    warnings: list[str]


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
    rows: list[Row] = []
    if (hook := given.score) is not None:
        call, how = hook, "given (score)"
        with users_hook("score", f"a real batch, x = {describe(x)}"), recorded(D) as record, Sigmoids() as sigmoids:
            f = hook(D, fresh(x), fresh(z), held.batch)
        if not isinstance(f, Tensor) or not f.is_floating_point():
            seen = f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample."
            raise unclear(seen, line(score="D(x)[0]"))
        if f.ndim == 2:  # heads or classes would be averaged as if they were positions
            one_number(f, n, shapes, "D(x)")
        conditional = needs_batch(lambda batch: hook(D, fresh(x), fresh(z), batch))
    else:
        condition = _condition(D, held, beside, fits.keys, given)
        whole, condition, out, record, sigmoids = _passed(D, held, x, condition, fits)
        unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
        pick, how = pick_score(out, n, shapes, unit)
        call, f = (lambda D, x, z, batch: pick(whole(D, x, z, batch))), pick(out)
        conditional = condition is not None
        if condition is not None:
            rows = [condition.row("D")]
        elif _spread(D, x):
            rows = [("D's input", ", ".join(arguments(D)[0]), "one argument for each part of x")]
    if not f.requires_grad:
        seen = "D's score carries no gradient, so that neither the chain nor D can follow it"
        raise unclear(f"{seen}: does it round, compare or detach? Give what it does so to.", line(score="..."))
    if not torch.isfinite(f).all():
        seen = "D's logits on the first real batch are not finite."
        raise CoopInitError(f"{seen} Check D's weights and the range of the data.")
    if (before := logit(call, f, record, sigmoids)) is not None:
        score, where, values = before
        return Scored(score, values, True, conditional, [*rows, ("D's score", describe(f), f"{how}; {where}")], [])
    doubts = {SCALES: how.startswith("sum of the means"), PROBABILITY: given.score is None and may_be_probability(f)}
    warnings = [warning for warning, doubtful in doubts.items() if doubtful]
    return Scored(call, f, False, conditional, [*rows, ("D's score", describe(f), how)], warnings)


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


def _spread(D: nn.Module, x: Any) -> bool:
    """Whether the parts of a nested x are arguments of D."""
    return isinstance(x, (tuple, list)) and 1 < len(x) == len(arguments(D)[0])


def _passed(
    D: nn.Module, held: Held, x: Any, condition: Condition | None, fits: Match
) -> tuple[Call, Condition | None, Any, Record, Sigmoids]:
    """(How D is called on x, the condition in the form that it takes, what it gave, what was seen of the pass)."""
    if condition is not None:
        call: Call = lambda D, x, z, batch: condition.call(D, x, condition.take(batch))  # noqa: E731
    else:
        call = (lambda D, x, z, batch: D(*x)) if _spread(D, x) else (lambda D, x, z, batch: D(x))
    with recorded(D) as record, Sigmoids() as sigmoids:
        try:
            return call, condition, call(D, fresh(x), None, held.batch), record, sigmoids
        except Exception as error:
            failure = error
    rows = condition.as_one_hot(misfit(record), held.batch) if condition is not None else None
    if rows is not None:
        return _passed(D, held, x, rows, fits)
    dtype = next((p.dtype for p in D.parameters() if p.is_floating_point()), None)
    taken = f"D ({type(D).__name__}) does not take the data {describe(x)}"
    if isinstance(x, Tensor) and dtype not in (None, x.dtype):
        cast = {torch.float32: "float()", torch.float64: "double()"}.get(dtype, f"to({dtype})")
        ask = f"{taken}, for its weights are {str(dtype)[6:]}. Convert the data as your loop does."
        raise unclear(ask, line(real=f"{fits.name}.{cast}")) from failure
    why, bodies = _reading(D, held, x, record, condition, failure)
    ask = f"{taken}: {first_line(failure)}\n{why}How does your loop call it?"
    raise unclear(ask, *(line(score=body) for body in bodies)) from failure


def _reading(
    D: nn.Module, held: Held, x: Any, record: Record, condition: Condition | None, failure: Exception
) -> tuple[str, list[str]]:
    """Why D did not take x, by its arguments, its error or the width of its first layer; calls that would fit it."""
    needed, first = arguments(D)[0], first_run(record)
    if len(needed) > 1:
        was = f"It was given {condition.text}. " if condition is not None else ""
        return f"Its forward needs {', '.join(needed)}. {was}", [f"D(x, {', '.join(f'{a}=...' for a in needed[1:])})"]
    if "is invalid for input of size" in str(failure):
        group = "Does it group the batch (minibatch statistics, pac)?"
        return f"{group} Then {held.n} must be a multiple of the group. ", ["D(x)"]
    if not first.width or not isinstance(x, Tensor):
        return "", ["..."]
    width, size = first.width, x.numel() // max(held.n, 1)
    takes = f"Its first layer, {first.name}, takes {width}"
    labels = next((part for part in held.others if could_be_labels(part)), None)
    if first.takes_images and width > x.shape[1]:
        planes, *tail = width - x.shape[1], *x.shape[2:]
        maps = [part.name for part in held.others if part.tensor.shape[1:] == (planes, *tail)]
        sizes = ", ".join(map(str, [planes, *tail]))
        joined = f"{rows_line(labels, planes)}.reshape(-1, {planes}{', 1' * len(tail)}).expand(-1, {sizes})"
        bodies = [f"D(torch.cat([{maps[0]}, x], 1))" if maps else f"D(torch.cat([x, {joined}], 1))"]
        return f"{takes} channels, the data have {x.shape[1]}: a condition joined to x? ", bodies
    if not isinstance(first.layer, nn.Linear):
        return "", ["..."]
    if width == size:
        return f"{takes} numbers: x flattened? ", ["D(x.flatten(1))"]
    has = f"{takes} numbers, x has {size}"
    if width < size:
        return f"{has}. ", ["..."]
    bodies = [f"D(torch.cat([x, {rows_line(labels, width - size)}], 1))"]
    if width % size:
        return f"{has}: a condition joined to x? ", bodies
    packs = f"{width // size} samples in one (pac), or a condition joined to x?"
    return f"{has}: {packs} ", [f"D(x.reshape(-1, {width}))", *bodies]
