"""What a discriminator gives: which part of its output is the score, and the logit before a final sigmoid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import per_sample
from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import describe, get, items

Call = Callable[[nn.Module, Any, Any, Any], Any]  # D as it is called: (D, x, z, batch) -> output
KEYS = ("logits", "logit", "score", "scores", "validity", "adv")  # of a dict, the score
SIGMOIDS = ("sigmoid", "sigmoid_", "expit", "special_expit", "log_sigmoid", "logsigmoid")  # functions of torch
# Starts of the names of nodes in the graph: reshapes and averages; layers; and parts of the names of what is bounded.
RESHAPES = (
    "View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Alias", "Clone", "Clamp", "ToCopy",
    "UnsafeView",
)  # fmt: skip
LAYERS = ("Addmm", "Mm", "Mv", "Bmm", "Convolution", "AccumulateGrad")
SCALES = (
    "D gives a list: read as one score map per scale, their means summed. If only one counts, say which: "
    f"{line(score='D(x)[0]')}."
)
BOUNDS = ("sigmoid", "tanh", "softmax", "clamp", "atan", "erf", "exp", "sin", "cos", "div", "normal")


def pick_score(
    out: Any, x: Any, n: int, shapes: list[tuple[int, ...]]
) -> tuple[Callable[[Any], Tensor], str, list[str]]:
    """Which part of D's output on x is the score, one number per sample: ``pick(out)``, how that is known, warnings.

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
        warnings = [SCALES]
    elif isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = ["adv_output"] if "adv_output" in tensors else [key for key in KEYS if key in tensors]
        for key in [keys[0] for keys in (known, tensors) if len(keys) == 1]:  # a single value goes before a known key
            where, how = [(key,)], f"D(x)[{key!r}]"
    unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
    for keys in where:
        f, name = get(out, keys), "D(x)" + "".join(f"[{key!r}]" for key in keys)
        if not isinstance(f, Tensor):
            raise _which(out)
        last = last_operation(f)
        sigmoid = last is not None and last.name().startswith("Sigmoid")
        # A probability of each step of a series is a score, unless the data lie in [0, 1]: it may reconstruct them.
        if unit or keys or not sigmoid or f.ndim != 3 or f.shape[-1] != 1:
            one_number(f, n, shapes, name, out)
        if isinstance(out, list) and sigmoid:
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


def one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str, beside: Any = None) -> None:
    """Refuse what is not the score alone; if one of those `beside` it is, that is suggested."""
    if _is_score(f, n, data_shapes):
        return
    if not f.is_floating_point():
        raise _which(f, f" ({name} is {describe(f)}, no floating-point score)")
    seen = f"several numbers per sample, or not the {n} samples first: {name} has shape {tuple(f.shape)}"
    scores = [k for k, part in items(beside).items() if isinstance(part, Tensor) and _is_score(part, n, data_shapes)]
    if len(scores) == 1:
        raise _which(beside, f" ({seen})")
    bodies = [f"{name}.flatten(1).mean(1)", f"{name}[:, 0]"] if f.ndim == 2 else [f"{name}.flatten(1).mean(1)"]
    if n in f.shape[1:] and f.shape[0] != n:
        bodies = [f"{name}.sum(0)" if f.ndim == 2 else f"{name}.movedim({f.shape.index(n)}, 0).flatten(1).mean(1)"]
    elif f.ndim == 2 and torch.allclose(f.detach().sum(1), f.new_ones(len(f))):  # a softmax
        bodies = [f"torch.logit({name}[:, 1], 1e-6)"]
    lines = [line(score=body) for body in bodies]
    if tuple(f.shape[1:]) in data_shapes:  # the error of an autoencoder is low on real
        lines.insert(0, line(score=f"({name} - x).abs().flatten(1).mean(1)", real_is_high="False"))
    raise unclear(f"D gives {seen}. Scores to average, classes of which one counts, or a reconstruction?", *lines)


def _which(out: Any, why: str = "") -> CoopInitError:
    """The question which part of D's output is the score; a part of one number a sample is suggested."""
    named = items(out)
    single = [key for key, f in named.items() if isinstance(f, Tensor) and f.ndim and f.numel() == f.shape[0]]
    asked = f"Which part of D's output is the score? D(x) gave {describe(out)}{why}."
    return unclear(asked, line(score=f"D(x)[{[*single, *named, 0][0]!r}]"))


class Sigmoids(TorchFunctionMode):
    """Inside this context, what every sigmoid is given, module or function, and its node in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        given = args[0].clone() if name == "sigmoid_" else next(iter(args), None)
        result = func(*args, **(kwargs or {}))
        if name in SIGMOIDS:
            self.seen.append((given, result.grad_fn))
        return result


def last_operation(f: Tensor) -> Any:
    """The node of f's graph that is its last operation, but for reshapes and averages."""
    node = f.grad_fn
    while node is not None and node.name().startswith(RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node


def may_be_probability(f: Tensor) -> bool:
    """Whether all scores lie in [0, 1], and not by chance: something that bounds them comes after the last layers."""
    values, waiting, bounded = f.detach(), [f.grad_fn], False
    for node in waiting:  # grows
        if node is not None and not node.name().startswith(LAYERS) and len(waiting) < 1000:
            divides = node.name().startswith("Div") and node.next_functions[-1][0] is None  # by a number
            bounded |= not divides and any(word in node.name().lower() for word in BOUNDS)
            waiting.extend(before for before, _ in node.next_functions if before not in waiting)
    return bounded and f.numel() > 1 and float(values.min()) >= 0 and 0 < float(values.max()) <= 1


def logit(call: Call, f: Tensor, record: Record, sigmoids: Sigmoids) -> tuple[Call, str] | None:
    """The score before D's final sigmoid, and which one that is, told by the recorded pass that ended in f.

    ``None`` if there is no final sigmoid.
    """
    node = last_operation(f)
    places = [place for place, (_, its) in enumerate(sigmoids.seen) if its is node]
    if node is None or not places:
        return None
    last = places[-1] - len(sigmoids.seen)  # from the end
    before = sigmoids.seen[last][0]
    if before.numel() < f.numel() or before.numel() % f.numel():
        return None
    tail = f.shape[1:] if f.ndim and f.numel() == before.numel() else None  # only reshapes lie between
    ended = [call for call in record.ended if isinstance(call.module, nn.Sigmoid)]
    ours = [call.name for call in ended if call.output.grad_fn is node]
    name = ours[0] if ours and [call.name for call in ended].count(ours[0]) == 1 else None

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        if name is None:
            with Sigmoids() as again:
                call(D, x, z, batch)
            given = again.seen[last][0]
        else:  # a hook takes less time than watching every function
            seen: list[Tensor] = []
            with D.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0])):
                call(D, x, z, batch)
            given = seen[-1]
        return given if tail is None else given.reshape(-1, *tail)

    return score, "the logit before its final sigmoid" + (f", {name}" if name else " (a function)")
