"""Whether what a network gives ends in a sigmoid or is bounded otherwise, and the logit before a final sigmoid."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Scoring = Callable[[nn.Module, Any, Any, Any], Any]  # D as it is called: (D, x, z, batch) -> score
SIGMOIDS = ("sigmoid", "sigmoid_", "expit", "special_expit", "log_sigmoid", "logsigmoid")  # functions of torch
# Starts of the names of nodes in the graph: reshapes and averages; layers; and parts of the names of what is bounded.
RESHAPES = (
    "View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Alias", "Clone", "Clamp", "ToCopy",
    "UnsafeView",
)  # fmt: skip
LAYERS = ("Addmm", "Mm", "Mv", "Bmm", "Convolution", "AccumulateGrad")
BOUNDS = ("sigmoid", "tanh", "softmax", "clamp", "atan", "erf", "exp", "sin", "cos", "div", "normal")


class Sigmoids(TorchFunctionMode):
    """Inside this context, what every sigmoid is given, module or function, and its node in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name not in SIGMOIDS:
            return func(*args, **kwargs)
        given = args[0] if args else kwargs["input"]
        given = given.clone() if name == "sigmoid_" else given
        result = func(*args, **kwargs)
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


def before_sigmoid(call: Scoring, f: Tensor, sigmoids: Sigmoids) -> Scoring | None:
    """The score before D's final sigmoid, told by the pass that ended in f; ``None`` if there is no final sigmoid."""
    node = last_operation(f)
    places = [place for place, (_, its) in enumerate(sigmoids.seen) if its is node]
    if node is None or not places:
        return None
    last = places[-1] - len(sigmoids.seen)  # from the end
    before = sigmoids.seen[last][0]
    if before.numel() < f.numel() or before.numel() % f.numel():
        return None
    tail = f.shape[1:] if f.ndim and f.numel() == before.numel() else None  # only reshapes lie between

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        with Sigmoids() as again:
            call(D, x, z, batch)
        logit: Tensor = again.seen[last][0]
        return logit if tail is None else logit.reshape(-1, *tail)

    return score
