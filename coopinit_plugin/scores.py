"""How the score is taken from a discriminator's output: which part, and the logit where it ends in a sigmoid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from coopinit_plugin.adapter import per_sample
from coopinit_plugin.batch_parts import describe
from coopinit_plugin.borrowed import unwrap
from coopinit_plugin.errors import CoopInitError

Call = Callable[[nn.Module, Any, Any], Any]
RESHAPES = ("View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Select", "Alias", "Clone")
KEYS = ("adv_output", "logits", "logit", "score", "scores")


def pick_score(out: Any, n: int, data_shapes: list[tuple[int, ...]]) -> tuple[Callable[[Any], Tensor], str]:
    """Which part of D's output is the score, one number per sample.

    A tensor is; of a tuple the first element (heads of other tasks follow it); a list is one map per scale, whose means
    are summed; a list of lists holds features whose last is the score. A dict tells by a single value or a known key.

    Args:
        out: D's output.
        n: Samples in the batch.
        data_shapes: Shapes of one sample, to know scores per time step.

    Returns:
        (pick, how): ``pick(out)`` is the score.

    Raises:
        CoopInitError: where two readings are possible; the message shows the line to write.
    """
    if isinstance(out, Tensor):
        _one_number(out, n, data_shapes, "D(x)")
        return (lambda out: out), "D(x)"
    if isinstance(out, tuple) and out and isinstance(out[0], Tensor):
        _one_number(out[0], n, data_shapes, "D(x)[0]")
        same = [i for i, part in enumerate(out[1:], 1) if isinstance(part, Tensor) and part.shape == out[0].shape]
        if same and out[0].ndim:
            raise _which(out, f"elements 0 and {same[0]} have one shape; is one of them the score, or their sum?")
        return (lambda out: out[0]), "D(x)[0], the first of a tuple"
    if isinstance(out, list) and out and all(isinstance(part, (Tensor, list, tuple)) for part in out):
        last = [part if isinstance(part, Tensor) else part[-1] for part in out]
        if all(isinstance(part, Tensor) for part in last):
            for i, part in enumerate(last):
                _one_number(part, n, data_shapes, f"D(x)[{i}]")
            if isinstance(out[0], Tensor):
                return (lambda out: _sum_of_means(out, n)), f"sum of the means of D(x)'s {len(out)} scales"
            return (lambda out: _sum_of_means([p[-1] for p in out], n)), f"sum over {len(out)} scales, the last of each"
    if isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = [key for key in KEYS if key in tensors]
        key = tensors[0] if len(tensors) == 1 else known[0] if known else None
        if key is not None:
            _one_number(out[key], n, data_shapes, f"D(x)[{key!r}]")
            return (lambda out: out[key]), f"D(x)[{key!r}]"
    raise _which(out, "")


def _sum_of_means(maps: Any, n: int) -> Tensor:
    scores = [per_sample(part, n) for part in maps]
    return torch.stack([score if score.numel() == n else score.mean().expand(n) for score in scores]).sum(0)


def _one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str) -> None:
    """Refuse what is not one score a sample, a patch map or a score per time step."""
    if not f.is_floating_point():
        raise _which(f, f"{name} is {describe(f)}, no floating-point score")
    inner = tuple(f.shape[1:])
    per_step = len(inner) == 1 and any(inner[0] in shape[:2] for shape in data_shapes if len(shape) == 2)
    patch = len(inner) >= 2 and (inner[0] == 1 or inner[-1] == 1) and f.shape[0] == n and inner not in data_shapes
    single = len(inner) == 0 or all(size == 1 for size in inner)
    whole = f.ndim == 0 or f.shape[0] == n or f.numel() % n == 0 or n % f.shape[0] == 0
    if (single and whole) or patch or (per_step and f.shape[0] == n):
        return
    count = f.numel() // max(f.shape[0], 1)
    raise CoopInitError(
        f"D gives {count} numbers per sample, {name} of shape {tuple(f.shape)}: scores to average, classes of which "
        "one counts, or a reconstruction? Say it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: "
        f"{name}.flatten(1).mean(1))"
    )


def _which(out: Any, why: str) -> CoopInitError:
    reason = f" ({why})" if why else ""
    key = next(iter(out)) if isinstance(out, Mapping) and out else 0
    return CoopInitError(
        f"Which part of D's output is the score? D(x) gave {describe(out)}{reason}. Say it, e.g. "
        f"adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x)[{key!r}])"
    )


def ends_in_sigmoid(f: Tensor) -> bool:
    """Whether f's last operation, reshapes and averages aside, was a sigmoid."""
    node = f.grad_fn
    while node is not None and node.name().startswith(RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")


class Sigmoids(TorchFunctionMode):
    """Keep what is given to every sigmoid, module or function, inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("sigmoid", "sigmoid_"):
            self.taken.append(args[0].clone() if func.__name__ == "sigmoid_" else args[0])
        return func(*args, **(kwargs or {}))


def logit_score(
    call: Call, f: Tensor, seen: list[tuple[str, nn.Module, Any, Any]], taken: list[Tensor]
) -> tuple[Any, str]:
    """The score before D's final sigmoid.

    Args:
        call: How D is called.
        f: The probabilities that D gave in the pass recorded.
        seen: Submodules of that pass with their outputs.
        taken: What was given to each sigmoid in that pass.

    Returns:
        (score, how).
    """
    modules = [name for name, m, _, o in seen if isinstance(m, nn.Sigmoid) and _same(o, f)]
    if modules and [name for name, m, _, _ in seen if isinstance(m, nn.Sigmoid)].count(modules[-1]) == 1:
        return _before_module(call, modules[-1]), f"the logit before its final sigmoid, {modules[-1]}"
    from_end = next((i for i, given in enumerate(reversed(taken), 1) if _same(given.sigmoid(), f)), 1)

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        with Sigmoids() as sigmoids:
            call(D, x, batch)
        return sigmoids.taken[-from_end]

    return score, "the logit before its final sigmoid (a function)"


def _before_module(call: Call, name: str) -> Callable[..., Tensor]:
    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        taken: list[Tensor] = []
        sigmoid = unwrap(D).get_submodule(name)
        handle = sigmoid.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            call(D, x, batch)
        finally:
            handle.remove()
        return taken[-1]

    return score


def _same(a: Any, f: Tensor) -> bool:
    return isinstance(a, Tensor) and a.numel() == f.numel() and torch.equal(a.detach().flatten(), f.detach().flatten())
