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
from coopinit_plugin.calling.layers import First, first_run, joined_line, misfit, rows_line
from coopinit_plugin.calling.outputs import Call, Sigmoids, logit, may_be_probability, one_number, pick_score
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import describe, first_line

PROBABILITY = (
    "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, write "
    f"{line(score='torch.logit(D(x), 1e-6)')}."
)


class Scored(NamedTuple):
    """The score of a D that was called, whether it is taken before a final sigmoid, and what was found."""

    score: Call
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
    warnings: list[str] = []
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
        spread = isinstance(x, (tuple, list)) and 1 < len(x) == len(arguments(D)[0])
        condition = _condition(D, held, beside, fits.keys, given)
        whole, condition, out, record, sigmoids = _passed(D, held, x, condition, spread, fits.name)
        pick, how, warnings = pick_score(out, x, n, shapes)
        call, f = (lambda D, x, z, batch: pick(whole(D, x, z, batch))), pick(out)
        conditional = condition is not None
        if condition is not None:
            rows = [condition.row("D")]
        elif spread:
            rows = [("D's input", ", ".join(arguments(D)[0]), "one argument for each part of x")]
    if not f.requires_grad:
        seen = "D's score carries no gradient, so that neither the chain nor D can follow it"
        raise unclear(f"{seen}: does it round, compare or detach? Give what it does so to.", line(score="..."))
    if not torch.isfinite(f).all():
        seen = "D's logits on the first real batch are not finite."
        raise CoopInitError(f"{seen} Check D's weights and the range of the data.")
    if (before := logit(call, f, record, sigmoids)) is not None:
        score, where = before
        return Scored(score, True, conditional, [*rows, ("D's score", describe(f), f"{how}; {where}")], [])
    if given.score is None and may_be_probability(f):
        warnings.append(PROBABILITY)
    return Scored(call, False, conditional, [*rows, ("D's score", describe(f), how)], warnings)


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


def _passed(
    D: nn.Module, held: Held, x: Any, condition: Condition | None, spread: bool, name: str
) -> tuple[Call, Condition | None, Any, Record, Sigmoids]:
    """(How D is called on x, the condition in the form that it takes, what it gave, what was seen of the pass).

    With `spread` the parts of x are its arguments; the user writes the data as `name`.
    """

    def call(D: nn.Module, x: Any, z: Any, batch: Any) -> Any:
        if condition is not None:
            return condition.call(D, x, condition.take(batch))
        return D(*x) if spread else D(x)

    with recorded(D) as record, Sigmoids() as sigmoids:
        try:
            return call, condition, call(D, fresh(x), None, held.batch), record, sigmoids
        except Exception as error:
            failure = error
    rows = condition.as_one_hot(misfit(record), held.batch) if condition is not None else None
    if rows is not None:
        return _passed(D, held, x, rows, spread, name)
    why, hooks = _reading(D, held, x, first_run(record), condition, name)
    taken = f"D ({type(D).__name__}) does not take the data {describe(x)}: {first_line(failure)}"
    raise unclear(f"{taken}\n{why} How does your loop call it?", line(**hooks)) from failure


def _reading(
    D: nn.Module, held: Held, x: Any, first: First, condition: Condition | None, name: str
) -> tuple[str, dict[str, str]]:
    """Why D did not take x, by its weights, its arguments or its first layer; the hook that would fit it."""
    needed, dtype = arguments(D)[0], next((p.dtype for p in D.parameters() if p.is_floating_point()), None)
    if isinstance(x, Tensor) and dtype not in (None, x.dtype):
        cast = {torch.float32: "float()", torch.float64: "double()"}.get(dtype, f"to({dtype})")
        return f"Its weights are {str(dtype)[6:]}.", {"real": f"{name}.{cast}"}
    if len(needed) > 1:
        was = f" It was given {condition.text}." if condition is not None else ""
        others = ", ".join(f"{argument}=..." for argument in needed[1:])
        return f"Its forward needs {', '.join(needed)}.{was}", {"score": f"D(x, {others})"}
    if not isinstance(x, Tensor) or not (first.takes_images or isinstance(first.layer, nn.Linear)):
        return "", {"score": "D(...)"}
    has = x.shape[1] if first.takes_images else x.numel() // max(held.n, 1)
    more = first.width - has
    seen = f"Its first layer, {first.name}, takes {first.width} {'channels' if first.takes_images else 'numbers'}"
    if more > 0:
        packs = held.labels is None and first.width % has == 0
        body = f"D(x.reshape(-1, {first.width}))" if packs else f"D({joined_line('x', held.labels, more)})"
        if first.takes_images:
            size = (more, *x.shape[2:])
            maps = [part.name for part in held.others if part.tensor.shape[1:] == size]
            wide = f".reshape(-1, {more}{', 1' * len(size[1:])}).expand(-1, {str(size)[1:-1]})"
            joined = f"{maps[0]}, x" if maps else f"x, {rows_line(held.labels, more)}{wide}"
            body = f"D(torch.cat([{joined}], 1))"
        return f"{seen}, x has {has}: a condition joined to x, or several samples in one?", {"score": body}
    flat = more == 0 and not first.takes_images
    return f"{seen}, x has {has}.", {"score": "D(x.flatten(1))" if flat else "D(...)"}
