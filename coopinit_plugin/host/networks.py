"""The user's networks: seen through wrappers, and given new values, all of them or none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.kept import values

State = dict[str, Tensor]


def unwrap(module: nn.Module) -> nn.Module:
    """The plain module inside DDP, DataParallel and ``torch.compile``, in any order."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inside := dict(module.named_children()).get("_orig_mod"), nn.Module):
            module = inside
        else:
            return module


def device_of(module: nn.Module) -> torch.device | None:
    """The device of the module's first parameter."""
    return next((parameter.device for parameter in module.parameters()), None)


def state_of(module: nn.Module) -> State:
    """Parameters and persistent buffers under the plain module's keys, the live tensors themselves."""
    return {key: value for key, value in unwrap(module).state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def cpu_copy(state: State, like: State | None = None) -> State:
    """The values, contiguous, on the CPU, in the dtypes of `like`; tied tensors stay one tensor."""
    taken = {}
    for key, value in state.items():
        kind = (like or state)[key].dtype
        taken[id(value)] = value.detach().to("cpu", kind, copy=True, memory_format=torch.contiguous_format)
    return {key: taken[id(value)] for key, value in state.items()}


def tensors_of(module: nn.Module) -> State:
    """Every parameter and buffer, those that are not saved with the module included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def give_back(targets: list[tuple[str, nn.Module, State]]) -> None:
    """Write the values of each (name in messages, module, values) into the module's own tensors: all of them, or none.

    If they do not fit, and after any error or Ctrl-C on the way, nothing has been changed.
    """
    _check_fit(targets)
    plan = [(own, state[key]) for _, module, state in targets for key, own in state_of(module).items()]
    plan = [(own, value) for own, value in plan if not repeats(own)]  # those that do have their value
    put_back = values(own for own, _ in plan)
    with torch.inference_mode():  # a network that was made in it can be written to in it alone
        try:
            with held():
                for own, value in plan:
                    own.copy_(value)
        except BaseException:
            with held():
                put_back()
            raise


def _check_fit(targets: list[tuple[str, nn.Module, State]]) -> None:
    """Refuse what :func:`give_back` could not write, naming the module, and the first tensors that stand against it."""
    for name, module, _ in targets:
        if not isinstance(module, nn.Module):
            what = "is missing" if module is None else f"is a {type(module).__name__}"
            raise CoopInitError(f"{name} {what}; expected a torch.nn.Module. Write load_into(G, D).")
    for name, module, state in targets:
        if found := obstacles(module, state):
            (_, first, for_first), (_, second, for_second) = (*targets, *targets)[:2]
            swapped = not obstacles(first, for_second) + obstacles(second, for_first)
            hint = "Build the network with the same arguments as the one that was warmed up."
            hint = "G and D were given in the wrong order: write load_into(G, D)." if swapped else hint
            kind = type(unwrap(module)).__name__
            raise CoopInitError(f"The weights do not fit {name} ({kind}): {few(found)}. Nothing was changed. {hint}")


def averages(ema: Any, generator: nn.Module) -> list[nn.Module]:
    """The averaged copies of G in what the user gave: a module or several, or the helpers that hold one."""
    given = [] if ema is None else [ema] if isinstance(ema, nn.Module) or not isinstance(ema, Iterable) else [*ema]
    own, found = state_of(generator), []
    for index, member in enumerate(given):
        inside = member.modules() if isinstance(member, nn.Module) else getattr(member, "__dict__", {}).values()
        inner = [unwrap(module) for module in inside if isinstance(module, nn.Module)]
        inner.sort(key=lambda module: module is generator)  # a helper may hold G itself, too
        fitting = next((module for module in inner if not obstacles(module, own)), None)
        if fitting is None:
            why = few(obstacles(inner[0], own)) if inner else "it holds no torch.nn.Module"
            raise CoopInitError(
                f"The weights of G do not fit ema[{index}] ({type(member).__name__}): {why}. Nothing was changed. Give "
                "averaged copies of G, e.g. ema=[copy.deepcopy(G)]; helpers that hold one are seen through."
            )
        found.append(fitting)
    return found


def obstacles(module: nn.Module, given: State) -> list[str]:
    """What stands against writing the values into the module's own tensors."""
    ours, found = state_of(module), []
    for key in {**ours, **given}:
        if key not in given:
            found.append(f"{key} is missing in the weights")
        elif key not in ours:
            found.append(f"{key} is not in the module")
        elif (here := tuple(ours[key].shape)) != (there := tuple(given[key].shape)):
            found.append(f"{key} has shape {here} in the module, {there} in the weights")
    if found:
        return found
    same = {own for key, own in ours.items() if repeats(own) and own.equal(given[key].to(own))}
    return flaws(ours, {own for own in ours.values() if isinstance(own, nn.Parameter) or repeats(own)} - same)


def flaws(tensors: State, written: Container[Tensor]) -> list[str]:
    """What stands against copying tensors and writing new values to some of them, each with what to do."""
    found, spans = [], []
    for tensor, name in {tensor: name for name, tensor in tensors.items()}.items():  # each once, by identity
        if tensor.is_meta:
            found.append(f"{name} is on the meta device: call to_empty(device=...), initialise")
        elif tensor.layout is not torch.strided:
            found.append(f"{name} is sparse: make it dense, to_dense(), or a plain attribute")
        elif repeats(tensor) and tensor in written:
            found.append(f"{name} was made by expand(), so that its elements are one number in memory: clone() it")
        elif tensor.numel():
            elements = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            end = tensor.data_ptr() + elements * tensor.element_size()
            spans.append((tensor.data_ptr(), end, name, tensor in written))
    last = (0, "", False)  # of the tensor that reaches farthest: its end, its name, whether it is written
    for begin, end, name, is_written in sorted(spans):
        if begin < last[0] and (is_written or last[2]):
            found.append(
                f"{last[1]} and {name} share their memory: clone() one, or tie them, layer.weight = its.weight"
            )
        last = max(last, (end, name, is_written))
    return found


def repeats(tensor: Tensor) -> bool:
    """Whether elements of the tensor are one number in memory, as after ``expand()``."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return False
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def few(problems: list[str]) -> str:
    """The first three, and how many more there are."""
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C back until the end, in the main thread, which alone can."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():  # None: a handler not of Python's
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)
