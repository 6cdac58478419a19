"""Everything about networks and the process that a warm-up has to leave as it was."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import numpy
import torch
from torch import Tensor, nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def bits(tensor: Tensor | None) -> bytes | None:
    """The tensor's numbers as they lie in memory order of its indices: NaN equals itself, 0 is not −0."""
    return (
        None if tensor is None else tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


def state_bits(*modules: nn.Module) -> list[dict[str, bytes]]:
    return [{key: bits(value) for key, value in module.state_dict().items()} for module in modules]


class Snapshot:
    """The state at one time: of modules, a loader, an Accelerator, and of the process."""

    def __init__(self, *modules: nn.Module, loader: object = None, accelerator: object = None) -> None:
        self.modules, self.loader, self.accelerator = modules, loader, accelerator
        self.values = dict(self._values())
        self.surroundings = dict(self._surroundings())

    def assert_unchanged(self) -> None:
        """Not a bit of anything has changed."""
        _same(self.values, dict(self._values()))
        self.assert_only_values_changed()

    def assert_only_values_changed(self) -> None:
        """Parameters and persistent buffers may hold other numbers; all else is as it was."""
        _same(self.surroundings, dict(self._surroundings()))

    def _values(self) -> Iterator[tuple[str, object]]:
        for index, module in enumerate(self.modules):
            for key, value in module.state_dict().items():
                yield f"{index}.{key}: value", bits(value)

    def _surroundings(self) -> Iterator[tuple[str, object]]:
        yield from _world(self.loader, self.accelerator)
        for index, module in enumerate(self.modules):
            for name, child in module.named_modules(remove_duplicate=False):
                yield from _module(f"{index}.{name}", child)


def _module(name: str, module: nn.Module) -> Iterator[tuple[str, object]]:
    yield f"{name}: identity", id(module)
    yield f"{name}: training", module.training
    attributes = vars(module)
    yield f"{name}: attributes", {key: id(value) for key, value in attributes.items() if key != "training"}
    for key, value in attributes.items():
        yield f"{name}.{key}: contents", list(_contents(value, set()))
    for kind in HOOKS:
        yield f"{name}: {kind}", [(key, id(hook)) for key, hook in attributes.get(kind, {}).items()]
    temporary = module._non_persistent_buffers_set
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        yield f"{name}.{key}: tensor", None if tensor is None else _tensor(tensor)
        if key in temporary:
            yield f"{name}.{key}: not persistent", bits(tensor)


def _contents(value: object, seen: set[int]) -> Iterator[object]:
    """The identities of what a container holds, however deep; the numbers of a tensor that is a plain attribute."""
    if isinstance(value, (dict, list, set, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for part in (*value.values(),) if isinstance(value, dict) else value:
            yield id(part)
            yield from _contents(part, seen)
    elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.layout is torch.strided:
        yield value.shape


def _tensor(tensor: Tensor) -> tuple:
    gradient = tensor.grad if tensor.is_leaf else None
    return (
        ("identity", id(tensor)),
        ("type", type(tensor)),
        ("storage", tensor.data_ptr()),
        ("shape", tensor.shape),
        ("memory format", tensor.stride()),
        ("dtype", tensor.dtype),
        ("device", tensor.device),
        ("requires_grad", tensor.requires_grad),
        ("grad", None if gradient is None else (id(gradient), bits(gradient))),
        ("tensor hooks", list(tensor._backward_hooks or {})),
    )


def _world(loader: object, accelerator: object) -> Iterator[tuple[str, object]]:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    yield "Python's random", random.getstate()
    kind, keys, *rest = numpy.random.get_state()
    yield "NumPy's random", (kind, keys.tobytes(), *rest)
    yield "torch's random", bits(torch.get_rng_state())
    for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        generator = getattr(owner, "generator", None)
        yield f"generator of {type(owner).__name__}", None if generator is None else bits(generator.get_state())
    yield "environment", dict(os.environ)
    yield "gradient mode", (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    yield "autocast", (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
    yield "threads", torch.get_num_threads()
    yield "default dtype", torch.get_default_dtype()
    yield "Ctrl-C", signal.getsignal(signal.SIGINT)
    for state in (PartialState, AcceleratorState, GradientState):
        yield state.__name__, dict(state._shared_state)
    if accelerator is not None:
        kept = {key: list(value) if isinstance(value, list) else id(value) for key, value in vars(accelerator).items()}
        yield "accelerator", kept


def _same(before: dict[str, object], after: dict[str, object]) -> None:
    assert list(before) == list(after)
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed: {[(name, _short(before[name]), _short(after[name])) for name in changed[:5]]}"


def _short(value: object) -> str:
    return repr(value)[:200]
