"""How the score is taken from a discriminator's output: which part, and the logit where it ends in a sigmoid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from coopinit_plugin.calling.conditions import CONDITIONS, arguments
from coopinit_plugin.calling.latents import first_layer
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import unwrap
from coopinit_plugin.method import recorder
from coopinit_plugin.method.pair import per_sample
from coopinit_plugin.nests import describe

Call = Callable[[nn.Module, Any, Any, Any], Any]
RESHAPES = (
    *("View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Alias", "Clone", "Clamp"),
    *("ToCopy", "UnsafeView"),
)
LAYERS = ("Addmm", "Mm", "Mv", "Bmm", "Convolution")
KEYS = ("logits", "logit", "score", "scores", "validity", "adv")


def pick_score(
    out: Any, n: int, data_shapes: list[tuple[int, ...]], unit: bool = True
) -> tuple[Callable[[Any], Tensor], str]:
    """Which part of D's output is the score, one number per sample.

    A tensor is; of a tuple the first element (heads of other tasks follow it); a list is one map per scale, whose means
    are summed; a list of lists holds features whose last is the score. A dict tells by a single value or a known key.

    Args:
        out: D's output.
        n: Samples in the batch.
        data_shapes: Shapes of one sample, to know scores per time step.
        unit: Whether all the data lie in [0, 1], where a probability of each number may be its reconstruction.

    Returns:
        (pick, how): ``pick(out)`` is the score.

    Raises:
        CoopInitError: where two readings are possible; the message shows the line to write.
    """
    if isinstance(out, Tensor):
        if unit or final_sigmoid(out) is None or out.ndim != 3 or out.shape[-1] != 1:
            one_number(out, n, data_shapes, "D(x)")
        return (lambda out: out), "D(x)"
    if isinstance(out, tuple) and out and isinstance(out[0], Tensor):
        rivals = [i for i, part in enumerate(out[1:], 1) if _rivals(part, n, data_shapes)]
        if rivals:
            raise _which(out, f"elements 0 and {rivals[0]} could both be it; is one of them the score, or their sum?")
        one_number(out[0], n, data_shapes, "D(x)[0]")
        return (lambda out: out[0]), "D(x)[0], the first of a tuple"
    if isinstance(out, list) and out and all(isinstance(part, (Tensor, list, tuple)) and len(part) for part in out):
        last = [part if isinstance(part, Tensor) else part[-1] for part in out]
        if all(isinstance(part, Tensor) for part in last):
            for i, part in enumerate(last):
                name = f"D(x)[{i}]" if isinstance(out[i], Tensor) else f"D(x)[{i}][-1]"
                one_number(part, n, data_shapes, name)
                if final_sigmoid(part) is not None:
                    raise _which(out, f"{name} is a probability; each one's logit is torch.logit(p, 1e-6)")
            if all(isinstance(part, Tensor) for part in out):
                return (lambda out: _sum_of_means(out, n)), f"sum of the means of D(x)'s {len(out)} scales"
            if not any(isinstance(part, Tensor) for part in out):
                return (
                    lambda out: _sum_of_means([part[-1] for part in out], n)
                ), f"sum over {len(out)} scales, the last of each"
    if isinstance(out, Mapping):
        tensors = [key for key, value in out.items() if isinstance(value, Tensor)]
        known = ["adv_output"] if "adv_output" in tensors else [key for key in KEYS if key in tensors]
        if len(tensors) == 1 or len(known) == 1:
            key = tensors[0] if len(tensors) == 1 else known[0]
            one_number(out[key], n, data_shapes, f"D(x)[{key!r}]")
            return (lambda out: out[key]), f"D(x)[{key!r}]"
    raise _which(out, "")


def _sum_of_means(maps: Any, n: int) -> Tensor:
    scores = [per_sample(part, n) for part in maps]
    return torch.stack([score if score.numel() == n else score.mean().expand(n) for score in scores]).sum(0)


def _rivals(part: Any, n: int, data_shapes: list[tuple[int, ...]]) -> bool:
    """Whether another element of a tuple could be the score as well; a lone number, as an auxiliary loss, is not."""
    return isinstance(part, Tensor) and part.ndim > 0 and part.numel() >= n and is_score(part, n, data_shapes)


def is_score(f: Tensor, n: int, data_shapes: list[tuple[int, ...]]) -> bool:
    """Whether f is one number a sample, a patch map or a score per time step."""
    inner = tuple(f.shape[1:])
    if not f.is_floating_point() or 0 in f.shape:
        return False
    if all(size == 1 for size in inner):  # also batch means, packed samples and patches that were flattened
        return f.ndim == 0 or f.numel() % n == 0 or n % f.shape[0] == 0
    if f.shape[0] != n or inner in data_shapes:
        return False
    series = any(len(shape) == 2 for shape in data_shapes)
    if len(inner) == 1:
        return any(inner[0] in shape for shape in data_shapes if len(shape) == 2)
    return inner[0] == 1 or (len(inner) == 2 and inner[-1] == 1 and series)


def one_number(f: Tensor, n: int, data_shapes: list[tuple[int, ...]], name: str) -> None:
    """Refuse what is not the score alone."""
    if is_score(f, n, data_shapes):
        return
    if not f.is_floating_point():
        raise _which(f, f"{name} is {describe(f)}, no floating-point score")
    count = f.numel() // max(f.shape[0], 1) if f.ndim else 1
    line = f"{name}.flatten(1).mean(1))"
    if tuple(f.shape[1:]) in data_shapes:  # the error of an autoencoder is low on real
        line = (
            f"({name} - x).abs().flatten(1).mean(1), real_is_high=False) for a reconstruction, else "
            f"Adapter(score=lambda D, x, z, batch: {line}"
        )
    raise CoopInitError(
        f"D gives {count} numbers per sample, {name} of shape {tuple(f.shape)}: scores to average, classes of which "
        "one counts, or a reconstruction? Say it, e.g. "
        f"adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: {line}"
    )


def _which(out: Any, why: str) -> CoopInitError:
    reason = f" ({why})" if why else ""
    named = (
        list(out.items())
        if isinstance(out, Mapping)
        else list(enumerate(out))
        if isinstance(out, (tuple, list))
        else []
    )
    single = [key for key, part in named if isinstance(part, Tensor) and part.ndim and part.numel() == part.shape[0]]
    key = single[0] if single else named[0][0] if named else 0
    return CoopInitError(
        f"Which part of D's output is the score? D(x) gave {describe(out)}{reason}. Say it, e.g. "
        f"adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x)[{key!r}])"
    )


def refused_input(
    D: nn.Module, x: Any, n: int, error: Exception, order: list[tuple[str, nn.Module]]
) -> tuple[str, str]:
    """(Why D may not take x, the end of the line to write); `order` is of the modules that ran."""
    needed = arguments(D)[0]
    if len(needed) > 1:
        known = {"z": "z", **dict.fromkeys(CONDITIONS, "batch[1]")}
        rest = ", ".join(known.get(name.lower(), f"{name}=...") for name in needed[1:])
        onehot = " (or one-hot: torch.nn.functional.one_hot(batch[1], 10).float())" if "batch[1]" in rest else ""
        return f"Its forward needs {', '.join(needed)}{onehot}. ", f"D(x, {rest}))"
    first, leaf = first_layer(order[1:] or order), x if isinstance(x, Tensor) else None
    joined = "D(torch.cat([batch['A'], x], 1)))"
    if first is not None and leaf is not None:
        width, size = first[1], leaf.numel() // max(n, 1)
        if isinstance(first[0], _ConvNd) and width > leaf.shape[1]:
            why = f"Its first layer, {first[2]}, takes {width} channels, the data have {leaf.shape[1]}"
            return f"{why}: does it see a condition joined to x? ", joined
        if isinstance(first[0], nn.Linear) and leaf.ndim > 2 and width == size:
            return f"Its first layer, {first[2]}, takes {width} numbers: x flattened. ", "D(x.flatten(1)))"
        if isinstance(first[0], nn.Linear) and width > size and width % size == 0:
            packs = f"{width // size} samples in one (pac), or a condition joined to x"
            return f"Its first layer, {first[2]}, takes {width} numbers, x has {size}: {packs}? ", (
                f"D(x.reshape(-1, {width}))) or {joined}"
            )
        if isinstance(first[0], nn.Linear) and width > size:
            why = f"Its first layer, {first[2]}, takes {width} numbers, x has {size}: is a condition joined to x? "
            return why, f"D(torch.cat([x, torch.nn.functional.one_hot(batch[1], {width - size}).float()], 1)))"
    if "is invalid for input of size" in str(error):
        return (
            f"Does it group the batch (minibatch statistics, pac)? Then {n} must be a multiple of the group. ",
            "D(x))",
        )
    return "", "D(x, batch[1])) or, where D sees a condition beside x, " + joined


def last_operation(f: Tensor) -> Any:
    """The node of f's graph that is its last operation, but for reshapes and averages."""
    node = f.grad_fn
    while node is not None and node.name().startswith(RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node


def final_sigmoid(f: Tensor) -> Any:
    """The node of f's graph that is a sigmoid, where that was the last operation."""
    node = last_operation(f)
    return node if node is not None and node.name().startswith("Sigmoid") else None


def may_be_probability(f: Tensor) -> bool:
    """Whether all scores lie in [0, 1], and not by chance: no layer without bounds gave them."""
    node, values = last_operation(f), f.detach()
    unbounded = node is not None and node.name().startswith(LAYERS)
    return not unbounded and f.numel() > 1 and float(values.min()) >= 0 and 0 < float(values.max()) <= 1


class Sigmoids(TorchFunctionMode):
    """Keep what every sigmoid, module or function, was given inside the context, and its node in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Tensor] = []
        self.nodes: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ("sigmoid", "sigmoid_", "expit", "special_expit"):
            return func(*args, **(kwargs or {}))
        self.taken.append(args[0].clone() if func.__name__ == "sigmoid_" else args[0])
        result = func(*args, **(kwargs or {}))
        # The node is for the look at D, which is before D is compiled; to ask for it would split the compiled graph.
        self.nodes.append(None if torch.compiler.is_compiling() else result.grad_fn)
        return result


def logit_score(
    call: Call, f: Tensor, seen: list[recorder.Call], sigmoids: Sigmoids
) -> tuple[Callable[..., Tensor], str] | None:
    """The score before D's final sigmoid, (score, how); ``None`` where none is seen.

    Args:
        call: How D is called, ``(D, x, z, batch)``.
        f: What D gave in the pass recorded.
        seen: Submodules of that pass with their outputs.
        sigmoids: The sigmoids of that pass.
    """
    node = final_sigmoid(f)
    index = next((i for i, found in enumerate(sigmoids.nodes) if found is not None and found is node), None)
    if index is None:
        return None
    if sigmoids.taken[index].numel() < f.numel() or sigmoids.taken[index].numel() % f.numel():
        return None
    tail = f.shape[1:] if f.ndim and f.numel() == sigmoids.taken[index].numel() else None
    ours = [call.name for call in seen if isinstance(call.module, nn.Sigmoid) and call.output.grad_fn is node]
    if ours and [call.name for call in seen].count(ours[0]) == 1:
        return _before_module(call, ours[0], tail), f"the logit before its final sigmoid, {ours[0]}"
    from_end = len(sigmoids.nodes) - index

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        with Sigmoids() as again:
            call(D, x, z, batch)
        return _as(again.taken[-from_end], tail)

    return score, "the logit before its final sigmoid (a function)"


def _as(logit: Tensor, tail: torch.Size | None) -> Tensor:
    """The logit in the shape that D gives its probabilities in, where reshapes alone lie between."""
    return logit if tail is None else logit.reshape(-1, *tail)


def _before_module(call: Call, name: str, tail: torch.Size | None) -> Callable[..., Tensor]:
    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        taken: list[Tensor] = []
        sigmoid = unwrap(D).get_submodule(name)
        handle = sigmoid.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            call(D, x, z, batch)
        finally:
            handle.remove()
        return _as(taken[-1], tail)

    return score
