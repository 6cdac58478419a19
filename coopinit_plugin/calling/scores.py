"""The score of a discriminator: what D is called with, and which part of its output counts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, Findings, fresh, line, unclear, users_hook
from coopinit_plugin.calling.advice import joined_line
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.sigmoids import Scoring, Sigmoids, before_sigmoid, last_operation, may_be_probability
from coopinit_plugin.calling.takes import Condition, First, arguments, conditions_of, facts, first_run
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import per_sample
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import describe, first_line, get, items

KEYS = ("adv_output", "logits", "logit", "score", "scores", "validity", "adv")  # of a dict, the score


def needs_batch(score: Callable[[Any], Any]) -> bool:
    """Whether a score takes something from the batch beside x, such as labels: asked by giving it none."""
    try:
        with torch.no_grad():
            score(None)
    except (TypeError, AttributeError, LookupError, ValueError, RuntimeError, AssertionError, StopIteration):
        return True  # errors of other kinds are not about what D was given
    return False


def find(
    D: nn.Module, held: Held, x: Any, z: Any, beside: Condition | None, name: str, given: Adapter, found: Findings
) -> tuple[Scoring, bool, bool]:
    """(How D is scored, whether that is before a final sigmoid, whether with the batch), proved on the data x.

    G takes z and the condition `beside`; the user writes the data as `name`.
    """
    n, shapes = tree_leaves(x)[0].shape[0], [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)]
    warnings: list[str] = []
    if (hook := given.score) is not None:
        call, how = hook, "given (score)"
        with users_hook("score", f"a real batch, x = {describe(x)}"), Sigmoids() as sigmoids:
            f = hook(D, fresh(x), fresh(z), held.batch)
        if not isinstance(f, Tensor) or not f.is_floating_point():
            seen = f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample."
            raise unclear(seen, line(score="D(x)[0]"))
        if f.ndim == 2:  # heads or classes would be averaged as if they were positions
            _one_number(f, n, shapes, "D(x)")
        conditional = needs_batch(lambda batch: hook(D, fresh(x), fresh(z), batch))
    else:
        condition, out, sigmoids = _passed(D, held, x, _condition(D, held, beside, given), name)
        pick, how, warnings = _pick_score(out, n, shapes)
        call, f = (lambda D, x, z, batch: pick(_called(D, x, batch, condition))), pick(out)
        conditional = condition is not None
        found.rows += [condition.row("D")] if condition is not None else []
    if not f.requires_grad:
        seen = "D's score carries no gradient, so that neither the chain nor D can follow it"
        raise unclear(f"{seen}: does it round, compare or detach? Give what it does so to.", line(score="..."))
    if not torch.isfinite(f).all():
        seen = "D's logits on the first real batch are not finite."
        raise CoopInitError(f"{seen} Check D's weights and the range of the data.")
    logit = before_sigmoid(call, f, sigmoids)
    if logit is not None:
        how, warnings = f"{how}; the logit before its final sigmoid", []
    elif may_be_probability(f):
        seen = "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, write"
        warnings.append(f"{seen} {line(score='torch.logit(D(x), 1e-6)')}.")
    found.rows.append(("D's score", describe(f), how))
    found.warnings += warnings
    return logit or call, logit is not None, conditional


def _condition(D: nn.Module, held: Held, beside: Condition | None, given: Adapter) -> Condition | None:
    """What D is given beside the data, if anything: in the form in which G takes it, if D may take that one."""
    conditions = conditions_of(D, "D", held.others)
    if not conditions:
        return None
    condition = next((c for c in conditions if beside is not None and c.text == beside.text), conditions[0])
    if condition.position is None and beside is None and given.latent is None:
        seen = f"D may take labels ({condition.name!r}, optional), but G takes none. Does your loop pass them?"
        raise unclear(seen, line(score="D(x)"), line(score=f"D(x, {condition.code})"))
    return condition


def _called(D: nn.Module, x: Any, batch: Any, condition: Condition | None) -> Any:
    return D(x) if condition is None else condition.call(D, x, condition.take(batch))


def _passed(
    D: nn.Module, held: Held, x: Any, condition: Condition | None, name: str
) -> tuple[Condition | None, Any, Sigmoids]:
    """(The condition in the form that D takes, what D gave on x, the sigmoids seen); the user writes x as `name`."""
    with recorded(D) as record, Sigmoids() as sigmoids:
        try:
            return condition, _called(D, fresh(x), held.batch, condition), sigmoids
        except Exception as error:
            failure = error
    rows = condition.as_one_hot(record, held.batch) if condition is not None else None
    if rows is not None:
        return _passed(D, held, x, rows, name)
    first = first_run(D, record)
    taken = f"D ({type(D).__name__}) does not take the data {describe(x)}: {first_line(failure)}"
    asked = "Does your loop cast x, flatten it, join a condition to it, put several samples in one, or give D more?"
    raise unclear(f"{taken}\n{facts(D, first)} {asked}", line(**_likely(D, held, x, first, name))) from failure


def _likely(D: nn.Module, held: Held, x: Any, first: First, name: str) -> dict[str, str]:
    """What a D that did not take x may want: by its weights, its arguments or its first layer."""
    needed, dtype = arguments(D)[0], next((p.dtype for p in D.parameters() if p.is_floating_point()), None)
    if isinstance(x, Tensor) and dtype not in (None, x.dtype):
        return {"real": f"{name}.to({dtype})"}
    if len(needed) > 1:
        each = isinstance(x, (tuple, list)) and len(x) == len(needed)
        return {"score": "D(*x)" if each else f"D(x, {', '.join(f'{argument}=...' for argument in needed[1:])})"}
    if not isinstance(x, Tensor) or not (first.takes_images or isinstance(first.layer, nn.Linear)):
        return {"score": "D(...)"}
    more = first.width - (x.shape[1] if first.takes_images else x.numel() // max(held.n, 1))
    if first.takes_images and more > 0:
        maps = [part.name for part in held.others if part.tensor.shape[1:] == (more, *x.shape[2:])]
        return {"score": f"D(torch.cat([{[*maps, '...'][0]}, x], 1))"}
    if more > 0 and held.labels is not None:
        flat = "x" if first.takes_images or x.ndim == 2 else "x.flatten(1)"
        return {"score": f"D({joined_line(flat, held.labels, more)})"}
    return {"score": "D(x.flatten(1))" if more == 0 and not first.takes_images else "D(...)"}


def _pick_score(out: Any, n: int, shapes: list[tuple[int, ...]]) -> tuple[Callable[[Any], Tensor], str, list[str]]:
    """Which part of D's output is the score, one number per sample: ``pick(out)``, how that is known, warnings.

    A tensor is; of a tuple the first element (heads of other tasks follow it); a list is one map per scale, whose means
    are summed; a list of lists holds features whose last is the score. A dict tells by a single value or a known key.
    """
    where: list[tuple[Any, ...]] = [()]
    how, warnings = "D(x)", []
    if isinstance(out, tuple) and out:
        where, how = [(0,)], "D(x)[0], the first of a tuple"
        for i, part in enumerate(out[1:], 1):  # a lone number, such as an auxiliary loss, is no rival
            if isinstance(part, Tensor) and part.ndim and part.numel() >= n and _is_score(part, n, shapes):
                raise _which(out, f" (elements 0 and {i} could both be it; is one of them the score, or their sum?)")
    elif isinstance(out, list) and out and all(isinstance(part, (list, tuple)) and part for part in out):
        where, how = [(i, -1) for i in range(len(out))], f"sum over {len(out)} scales, the last of each"
    elif isinstance(out, list) and out:
        where, how = [(i,) for i in range(len(out))], f"sum of the means of D(x)'s {len(out)} scales"
        warnings = [f"D's {len(out)} scores are summed. If only one counts, say which: {line(score='D(x)[0]')}."]
    elif isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = tensors if len(tensors) == 1 else [key for key in KEYS if key in tensors]
        if len(known) == 1:
            where, how = [(known[0],)], f"D(x)[{known[0]!r}]"
    for keys in where:
        f, name = get(out, keys), "D(x)" + "".join(f"[{key!r}]" for key in keys)
        if not isinstance(f, Tensor):
            raise _which(out)
        _one_number(f, n, shapes, name, out)
        last = last_operation(f)
        if isinstance(out, list) and last is not None and last.name().startswith("Sigmoid"):
            raise _which(out, f" ({name} is a probability; each one's logit is torch.logit(p, 1e-6))")
    if not isinstance(out, list):
        return (lambda out: get(out, where[0])), how, warnings

    def summed(out: Any) -> Tensor:
        scores = [per_sample(get(out, keys), n) for keys in where]
        return torch.stack([score if score.numel() == n else score.mean().expand(n) for score in scores]).sum(0)

    return summed, how, warnings


def _is_score(f: Tensor, n: int, data_shapes: list[tuple[int, ...]]) -> bool:
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


def _one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str, beside: Any = None) -> None:
    """Refuse what is not the score alone; if one of those `beside` it is, that is suggested."""
    if _is_score(f, n, data_shapes):
        return
    if not f.is_floating_point():
        raise _which(f, f" ({name} is {describe(f)}, no floating-point score)")
    seen = f"several numbers per sample, or not the {n} samples first: {name} has shape {tuple(f.shape)}"
    if sum(isinstance(part, Tensor) and _is_score(part, n, data_shapes) for part in items(beside).values()) == 1:
        raise _which(beside, f" ({seen})")
    bodies = [f"{name}.flatten(1).mean(1)", f"{name}[:, 0]"] if f.ndim == 2 else [f"{name}.flatten(1).mean(1)"]
    if n in f.shape[1:] and f.shape[0] != n:
        bodies = [f"{name}.sum(0)" if f.ndim == 2 else f"{name}.movedim({f.shape.index(n)}, 0).flatten(1).mean(1)"]
    elif f.ndim == 2 and torch.allclose(f.detach().sum(1), f.new_ones(len(f))):  # a softmax
        bodies = [f"torch.logit({name}[:, 1], 1e-6)"]
    lines = [line(score=body) for body in bodies]
    if tuple(f.shape[1:]) in data_shapes:  # the error of an autoencoder is low on real
        lines.append(line(score=f"({name} - x).abs().flatten(1).mean(1)", real_is_high="False"))
    raise unclear(f"D gives {seen}. Scores to average, classes of which one counts, or a reconstruction?", *lines)


def _which(out: Any, why: str = "") -> CoopInitError:
    """The question which part of D's output is the score; a part of one number a sample is suggested."""
    named = items(out)
    single = [key for key, f in named.items() if isinstance(f, Tensor) and f.ndim and f.numel() == f.shape[0]]
    asked = f"Which part of D's output is the score? D(x) gave {describe(out)}{why}."
    inside = [f".{name}" for name, f in getattr(out, "__dict__", {}).items() if isinstance(f, Tensor)]
    return unclear(asked, line(score="D(x)" + [*(f"[{key!r}]" for key in (*single, *named)), *inside, "[0]"][0]))
