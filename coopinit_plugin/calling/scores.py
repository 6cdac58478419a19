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
from coopinit_plugin.calling.latents import first_layer
from coopinit_plugin.calling.sigmoid import Call, Sigmoids, is_probability, logit, may_be_probability
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import per_sample
from coopinit_plugin.method.recorder import Record, recorded
from coopinit_plugin.nests import describe, first_line, get

KEYS = ("logits", "logit", "score", "scores", "validity", "adv")  # of a dict, the score
JOINED = "D(torch.cat([batch['A'], x], 1))"


class Scored(NamedTuple):
    """A discriminator that was called: its score, whether that is taken before a final sigmoid, what was found."""

    score: Call
    ends_in_sigmoid: bool
    rows: list[Row]
    warnings: list[str]


def find(
    D: nn.Module, held: Held, x: Any, z: Any, beside: Condition | None, keys: tuple[Any, ...] | None, given: Adapter
) -> Scored:
    """How D is scored, proved by a forward pass on the data x.

    G takes z, and the condition `beside`; `keys` is where the data stand in the batch, if they are one tensor of it.
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
    before = logit(call, f, record, sigmoids)
    rows.append(("D's score", describe(f), f"{how}; {before[1]}" if before else how))
    if before is not None:
        return Scored(before[0], True, rows, [])
    return Scored(call, False, rows, [] if given.score is not None else _warnings(f, how))


def _warnings(f: Tensor, how: str) -> list[str]:
    """What is doubtful about a score that was found."""
    scales = (
        "D gives a list: read as one score map per scale, their means summed. If one of them is another task's "
        f"head, say which counts: {line(score='D(x)[0]')}."
    )
    probability = (
        "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, give the "
        f"logit: {line(score='torch.logit(D(x), 1e-6)')}."
    )
    return [scales] * how.startswith("sum of the means") + [probability] * may_be_probability(f)


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
        raise CoopInitError(
            "D's logits on the first real batch are not finite. Check D's weights (were they loaded from a run "
            "that had diverged?) and the range of the data."
        )


def _refused(D: nn.Module, x: Any, n: int, error: Exception, record: Record) -> CoopInitError:
    """Why D may not take x, and the line to write."""
    order = [(call.name, call.module) for call in record.begun]
    first, needed = first_layer(order[1:] or order), arguments(D)[0]
    why, bodies = "", ["D(x, batch[1])", JOINED]
    if len(needed) > 1:
        known = {"z": "z", **dict.fromkeys(CONDITIONS, "batch[1]")}
        why = f"Its forward needs {', '.join(needed)}; labels may have to be one-hot."
        bodies = [f"D(x, {', '.join(known.get(name.lower(), f'{name}=...') for name in needed[1:])})"]
    elif "is invalid for input of size" in str(error):
        why = f"Does it group the batch (minibatch statistics, pac)? Then {n} must be a multiple of the group."
        bodies = ["D(x)"]
    elif first is not None and isinstance(x, Tensor) and first.takes_images() and first.width > x.shape[1]:
        why, bodies = f"takes {first.width} channels, the data have {x.shape[1]}: a condition joined to x?", [JOINED]
    elif first is not None and isinstance(x, Tensor) and isinstance(first.layer, nn.Linear):
        width, size = first.width, x.numel() // max(n, 1)
        why = f"takes {width} numbers, x has {size}"
        if width == size:
            why, bodies = f"takes {width} numbers: x flattened?", ["D(x.flatten(1))"]
        elif width > size and width % size == 0:
            why += f": {width // size} samples in one (pac), or a condition joined to x?"
            bodies = [f"D(x.reshape(-1, {width}))", JOINED]
        elif width > size:
            labels = f"torch.nn.functional.one_hot(batch[1], {width - size}).float()"
            why, bodies = f"{why}: a condition joined to x?", [f"D(torch.cat([x, {labels}], 1))"]
    why = f"Its first layer, {first.name}, {why}" if first is not None and why.startswith("takes") else why
    seen = f"D ({type(D).__name__}) does not take the data {describe(x)}: {first_line(error)}"
    return unclear(f"{seen}\n{why} How does your loop call it?".replace("\n ", "\n"), *(line(score=b) for b in bodies))


def pick_score(out: Any, n: int, shapes: list[tuple[int, ...]], unit: bool) -> tuple[Callable[[Any], Tensor], str]:
    """Which part of D's output is the score, one number per sample: ``(pick, how)``, ``pick(out)`` is the score.

    A tensor is; of a tuple the first element (heads of other tasks follow it); a list is one map per scale, whose means
    are summed; a list of lists holds features whose last is the score. A dict tells by a single value or a known key.

    Args:
        out: D's output.
        n: Samples in the batch.
        shapes: Shapes of one sample, to know scores per time step.
        unit: Whether all the data lie in [0, 1], so that a probability of each number may be its reconstruction.
    """
    where: list[tuple[Any, ...]] = [()]
    how = "D(x)"
    if isinstance(out, tuple) and out:
        where, how = [(0,)], "D(x)[0], the first of a tuple"
        for i, part in enumerate(out[1:], 1):  # a lone number, such as an auxiliary loss, is no rival
            if isinstance(part, Tensor) and part.ndim and part.numel() >= n and is_score(part, n, shapes):
                raise _which(out, f" (elements 0 and {i} could both be it; is one of them the score, or their sum?)")
    elif isinstance(out, list) and out and all(isinstance(part, Tensor) for part in out):
        where, how = [(i,) for i in range(len(out))], f"sum of the means of D(x)'s {len(out)} scales"
    elif isinstance(out, list) and out and all(isinstance(part, (list, tuple)) and part for part in out):
        where, how = [(i, -1) for i in range(len(out))], f"sum over {len(out)} scales, the last of each"
    elif isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = ["adv_output"] if "adv_output" in tensors else [key for key in KEYS if key in tensors]
        key = next((keys[0] for keys in (tensors, known) if len(keys) == 1), None)
        where, how = [() if key is None else (key,)], f"D(x)[{key!r}]"
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
    return inner[0] == 1 or (len(inner) == 2 and inner[-1] == 1 and bool(series))


def one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str) -> None:
    """Refuse what is not the score alone."""
    if is_score(f, n, data_shapes):
        return
    if not f.is_floating_point():
        raise _which(f, f" ({name} is {describe(f)}, no floating-point score)")
    count = f.numel() // max(f.shape[0], 1) if f.ndim else 1
    lines = [line(score=f"{name}.flatten(1).mean(1)")]
    if tuple(f.shape[1:]) in data_shapes:  # the error of an autoencoder is low on real
        lines = [line(score=f"({name} - x).abs().flatten(1).mean(1)", real_is_high="False"), *lines]
    seen = f"D gives {count} numbers per sample, {name} of shape {tuple(f.shape)}"
    raise unclear(f"{seen}: scores to average, classes of which one counts, or a reconstruction?", *lines)


def _which(out: Any, why: str = "") -> CoopInitError:
    """The question which part of D's output is the score; a part of one number a sample is suggested."""
    named = dict(out if isinstance(out, Mapping) else enumerate(out if isinstance(out, (tuple, list)) else ()))
    single = [key for key, f in named.items() if isinstance(f, Tensor) and f.ndim and f.numel() == f.shape[0]]
    asked = f"Which part of D's output is the score? D(x) gave {describe(out)}{why}."
    return unclear(asked, line(score=f"D(x)[{[*single, *named, 0][0]!r}]"))
