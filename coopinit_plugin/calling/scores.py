"""The score of a discriminator: what D is called with, and which part of its output counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, Row, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import CONDITIONS, Condition, arguments, conditions_of
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.latents import First, first_run
from coopinit_plugin.calling.sigmoid import Call, Sigmoids, is_probability, logit, may_be_probability
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import per_sample
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import describe, first_line, get, items

KEYS = ("logits", "logit", "score", "scores", "validity", "adv")  # of a dict, the score
JOINED = "D(torch.cat([batch['A'], x], 1))"


class Scored(NamedTuple):
    """The score of a D that was called, whether it is taken before a final sigmoid, and what was found."""

    score: Call
    ends_in_sigmoid: bool
    rows: list[Row]
    warnings: list[str]


def find(
    D: nn.Module, held: Held, x: Any, z: Any, beside: Condition | None, keys: tuple[Any, ...] | None, given: Adapter
) -> Scored:
    """How D is scored, proved by a forward pass on the data x.

    G takes z and the condition `beside`; `keys` is where the data stand in the batch, if they are one tensor of it.
    """
    n, shapes = tree_leaves(x)[0].shape[0], [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)]
    if given.score is not None:
        call: Call = given.score
        rows: list[Row] = []
        with users_hook("score", f"a real batch, x = {describe(x)}"), recorded(D) as record, Sigmoids() as sigmoids:
            f = call(D, fresh(x), fresh(z), held.batch)
        if not isinstance(f, Tensor) or not f.is_floating_point():
            seen = f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample."
            raise unclear(seen, line(score="D(x)[0]"))
        if f.ndim == 2:  # heads or classes would be averaged as if they were positions
            one_number(f, n, shapes, "D(x)")
        how = "given (score)"
    else:
        whole, rows = _call(D, held, x, beside, keys, given)
        try:
            with recorded(D) as record, Sigmoids() as sigmoids:
                out = whole(D, fresh(x), None, held.batch)
        except Exception as error:
            raise _refused(D, x, n, error, record) from error
        unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
        pick, how = pick_score(out, n, shapes, unit)
        call, f = (lambda D, x, z, batch: pick(whole(D, x, z, batch))), pick(out)
    _check(f)
    if (before := logit(call, f, record, sigmoids)) is not None:
        return Scored(before[0], True, [*rows, ("D's score", describe(f), f"{how}; {before[1]}")], [])
    doubts = _warnings(f, how) if given.score is None else []
    return Scored(call, False, [*rows, ("D's score", describe(f), how)], doubts)


def _warnings(f: Tensor, how: str) -> list[str]:
    """What is doubtful about a score that was found."""
    scales = "D gives a list: read as one score map per scale, their means summed. If only one counts, say which:"
    probability = "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, write"
    doubts = [
        (how.startswith("sum of the means"), f"{scales} {line(score='D(x)[0]')}."),
        (may_be_probability(f), f"{probability} {line(score='torch.logit(D(x), 1e-6)')}."),
    ]
    return [warning for doubtful, warning in doubts if doubtful]


def _call(
    D: nn.Module, held: Held, x: Any, beside: Condition | None, keys: Any, given: Adapter
) -> tuple[Call, list[Row]]:
    """How D is called: ``D(x)``, with its condition, or with a nested x spread over its arguments."""
    keys_of_g = beside.keys if beside is not None else None  # what G is given as it is, D is given, too
    same = [part for part in held.others if keys_of_g in (None, part.keys)]
    conditions = conditions_of(D, "D", same, keys if keys is not None else ())
    if conditions:
        condition = next((c for c in conditions if beside is not None and c.text == beside.text), conditions[0])
        if condition.position is None and beside is None and given.latent is None:
            seen = f"D may take labels ({condition.name!r}, optional), but G takes none. Does your loop pass them?"
            raise unclear(seen, line(score="D(x)"), line(score="D(x, batch[1])"))
        return (lambda D, x, z, batch: condition.call(D, x, condition.take(batch))), [condition.row("D")]
    required = arguments(D)[0]
    if isinstance(x, (tuple, list)) and len(x) > 1 and len(required) == len(x):
        return (lambda D, x, z, batch: D(*x)), [("D's input", ", ".join(required), "one argument for each part of x")]
    return (lambda D, x, z, batch: D(x)), []


def _check(f: Tensor) -> None:
    """Refuse a score that neither the chain nor D can follow."""
    if not f.requires_grad:
        seen = "D's score carries no gradient, so that neither the chain nor D can follow it"
        raise unclear(f"{seen}: does it round, compare or detach? Give what it does so to.", line(score="..."))
    if not torch.isfinite(f).all():
        seen = "D's logits on the first real batch are not finite."
        raise CoopInitError(f"{seen} Check D's weights and the range of the data.")


def _refused(D: nn.Module, x: Any, n: int, error: Exception, record: Record) -> CoopInitError:
    """Why D may not take x, and the line to write."""
    first, needed = first_run(record), arguments(D)[0]
    why, bodies = "", ["D(x, batch[1])", JOINED]
    if len(needed) > 1:
        known = {"z": "z", **dict.fromkeys(CONDITIONS, "batch[1]")}
        why = f"Its forward needs {', '.join(needed)}; labels may have to be one-hot. "
        bodies = [f"D(x, {', '.join(known.get(name.lower(), f'{name}=...') for name in needed[1:])})"]
    elif "is invalid for input of size" in str(error):
        why = f"Does it group the batch (minibatch statistics, pac)? Then {n} must be a multiple of the group. "
        bodies = ["D(x)"]
    elif first is not None and isinstance(x, Tensor):
        reading, bodies = _width(first, x, n) or ("", bodies)
        why = reading and f"Its first layer, {first.name}, takes {reading} "
    seen = f"D ({type(D).__name__}) does not take the data {describe(x)}: {first_line(error)}"
    return unclear(f"{seen}\n{why}How does your loop call it?", *(line(score=body) for body in bodies))


def _width(first: First, x: Tensor, n: int) -> tuple[str, list[str]] | None:
    """What the width of D's first layer tells, and the calls that would fit it."""
    width, size = first.width, x.numel() // max(n, 1)
    if first.takes_images() and width > x.shape[1]:
        return f"{width} channels, the data have {x.shape[1]}: a condition joined to x?", [JOINED]
    if not isinstance(first.layer, nn.Linear):
        return None
    if width == size:
        return f"{width} numbers: x flattened?", ["D(x.flatten(1))"]
    has = f"{width} numbers, x has {size}"
    if width < size:
        return f"{has}.", ["..."]
    if width % size:
        labels = f"torch.nn.functional.one_hot(batch[1], {width - size}).float()"
        return f"{has}: a condition joined to x?", [f"D(torch.cat([x, {labels}], 1))"]
    packs = f"{width // size} samples in one (pac), or a condition joined to x?"
    return f"{has}: {packs}", [f"D(x.reshape(-1, {width}))", JOINED]


def pick_score(out: Any, n: int, shapes: list[tuple[int, ...]], unit: bool) -> tuple[Callable[[Any], Tensor], str]:
    """Which part of D's output is the score, one number per sample: ``(pick, how)``, ``pick(out)`` is the score.

    A tensor is; of a tuple the first element (heads of other tasks follow it); a list is one map per scale, whose means
    are summed; a list of lists holds features whose last is the score. A dict tells by a single value or a known key.
    If all data lie in [0, 1] (`unit`), a probability of each of their numbers may be a reconstruction.
    """
    where: list[tuple[Any, ...]] = [()]
    how = "D(x)"
    if isinstance(out, tuple) and out:
        where, how = [(0,)], "D(x)[0], the first of a tuple"
        for i, part in enumerate(out[1:], 1):  # a lone number, such as an auxiliary loss, is no rival
            if isinstance(part, Tensor) and part.ndim and part.numel() >= n and is_score(part, n, shapes):
                raise _which(out, f" (elements 0 and {i} could both be it; is one of them the score, or their sum?)")
    elif isinstance(out, list) and out and all(isinstance(part, (list, tuple)) and part for part in out):
        where, how = [(i, -1) for i in range(len(out))], f"sum over {len(out)} scales, the last of each"
    elif isinstance(out, list) and out:
        where, how = [(i,) for i in range(len(out))], f"sum of the means of D(x)'s {len(out)} scales"
    elif isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = ["adv_output"] if "adv_output" in tensors else [key for key in KEYS if key in tensors]
        for key in [keys[0] for keys in (known, tensors) if len(keys) == 1]:  # a single value goes before a known key
            where, how = [(key,)], f"D(x)[{key!r}]"
    for keys in where:
        f, name = get(out, keys), "D(x)" + "".join(f"[{key!r}]" for key in keys)
        if not isinstance(f, Tensor):
            raise _which(out)
        if unit or keys or not is_probability(f) or f.ndim != 3 or f.shape[-1] != 1:
            one_number(f, n, shapes, name)
        if isinstance(out, list) and is_probability(f):
            raise _which(out, f" ({name} is a probability; each one's logit is torch.logit(p, 1e-6))")
    if isinstance(out, list):
        return (lambda out: _sum_of_means([get(out, keys) for keys in where], n)), how
    return (lambda out: get(out, where[0])), how


def _sum_of_means(maps: list[Tensor], n: int) -> Tensor:
    scores = [per_sample(part, n) for part in maps]
    return torch.stack([score if score.numel() == n else score.mean().expand(n) for score in scores]).sum(0)


def is_score(f: Tensor, n: int, data_shapes: list[tuple[int, ...]]) -> bool:
    """Whether f is one number a sample, a patch map or a score per time step."""
    inner = tuple(f.shape[1:])
    if not f.is_floating_point() or 0 in f.shape:
        return False
    if all(size == 1 for size in inner):  # also batch means, packed samples and patches that were flattened
        return f.ndim == 0 or f.numel() % n == 0 or n % f.shape[0] == 0
    if f.shape[0] != n or inner in data_shapes:
        return False
    series = [shape for shape in data_shapes if len(shape) == 2]
    if len(inner) == 1:
        return any(inner[0] in shape for shape in series)
    return inner[0] == 1 or (len(inner) == 2 and inner[1] == 1 and bool(series))


def one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str) -> None:
    """Refuse what is not the score alone."""
    if is_score(f, n, data_shapes):
        return
    if not f.is_floating_point():
        raise _which(f, f" ({name} is {describe(f)}, no floating-point score)")
    lines = [line(score=f"{name}.flatten(1).mean(1)")]
    if tuple(f.shape[1:]) in data_shapes:  # the error of an autoencoder is low on real
        lines = [line(score=f"({name} - x).abs().flatten(1).mean(1)", real_is_high="False"), *lines]
    seen = f"D gives {f.numel() // max(len(f), 1)} numbers per sample, {name} of shape {tuple(f.shape)}"
    raise unclear(f"{seen}: scores to average, classes of which one counts, or a reconstruction?", *lines)


def _which(out: Any, why: str = "") -> CoopInitError:
    """The question which part of D's output is the score; a part of one number a sample is suggested."""
    named = items(out)
    single = [key for key, f in named.items() if isinstance(f, Tensor) and f.ndim and f.numel() == f.shape[0]]
    asked = f"Which part of D's output is the score? D(x) gave {describe(out)}{why}."
    return unclear(asked, line(score=f"D(x)[{[*single, *named, 0][0]!r}]"))
