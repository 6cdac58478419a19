"""The logit of a discriminator that ends in a sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from coopinit_plugin.method.recorder import Record

Call = Callable[[nn.Module, Any, Any, Any], Any]  # D as it is called: (D, x, z, batch) -> output
RESHAPES = (
    "View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Alias", "Clone", "Clamp", "ToCopy",
    "UnsafeView",
)  # fmt: skip
LAYERS = ("Addmm", "Mm", "Mv", "Bmm", "Convolution", "AccumulateGrad")
BOUNDS = (  # operations whose results are bounded, which may make a probability
    "sigmoid", "tanh", "softmax", "clamp", "hardtanh", "atan", "erf", "exp", "sin", "cos", "div", "normal",
)  # fmt: skip


class Sigmoids(TorchFunctionMode):
    """Inside this context, what every sigmoid is given, module or function, and its node in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []
        self.nodes: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in (
            "sigmoid",
            "sigmoid_",
            "expit",
            "special_expit",
            "log_sigmoid",
            "logsigmoid",
        ):
            return func(*args, **(kwargs or {}))
        self.given.append(args[0].clone() if func.__name__ == "sigmoid_" else args[0])
        result = func(*args, **(kwargs or {}))
        self.nodes.append(result.grad_fn)
        return result


def last_operation(f: Tensor) -> Any:
    """The node of f's graph that is its last operation, but for reshapes and averages."""
    node = f.grad_fn
    while node is not None and node.name().startswith(RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node


def is_probability(f: Tensor) -> bool:
    """Whether a sigmoid was the last operation."""
    node = last_operation(f)
    return node is not None and node.name().startswith("Sigmoid")


def may_be_probability(f: Tensor) -> bool:
    """Whether all scores lie in [0, 1], and not by chance: something that bounds them comes after the last layers."""
    values, waiting, bounded = f.detach(), [f.grad_fn], False
    for node in waiting:  # grows
        if node is not None and not node.name().startswith(LAYERS) and len(waiting) < 1000:
            divides = node.name().startswith("Div") and node.next_functions[-1][0] is None  # by a number
            bounded |= not divides and any(word in node.name().lower() for word in BOUNDS)
            waiting.extend(before for before, _ in node.next_functions if before not in waiting)
    return bounded and f.numel() > 1 and float(values.min()) >= 0 and 0 < float(values.max()) <= 1


def logit(call: Call, f: Tensor, record: Record, sigmoids: Sigmoids) -> tuple[Call, str, Tensor] | None:
    """The score before D's final sigmoid, which one that is, and what it gave in the recorded pass that ended in f.

    ``None`` if there is no final sigmoid.
    """
    node = last_operation(f)
    from_end = next((i for i, its in enumerate(reversed(sigmoids.nodes), 1) if its is node), 0)
    before = sigmoids.given[-from_end] if from_end else None
    if node is None or before is None or before.numel() < f.numel() or before.numel() % f.numel():
        return None
    tail = f.shape[1:] if f.ndim and f.numel() == before.numel() else None  # only reshapes lie between
    ended = [call.name for call in record.ended if isinstance(call.module, nn.Sigmoid)]
    ours = [call.name for call in record.ended if call.name in ended and call.output.grad_fn is node]
    name = ours[0] if ours and ended.count(ours[0]) == 1 else None

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        if name is None:
            with Sigmoids() as again:
                call(D, x, z, batch)
            taken = again.given[-from_end]
        else:  # a hook takes less time than watching every function
            seen: list[Tensor] = []
            with D.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0])):
                call(D, x, z, batch)
            taken = seen[-1]
        return taken if tail is None else taken.reshape(-1, *tail)

    found = before if tail is None else before.reshape(-1, *tail)
    return score, "the logit before its final sigmoid" + (f", {name}" if name else " (a function)"), found
