"""The user's networks: seen through wrappers, and given new values, all of them or none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.errors import CoopInitError

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


def give_back(targets: list[tuple[str, nn.Module, State]]) -> None:
    """Write the values of each (name in messages, module, values) into the module's own tensors: all of them, or none.

    If names or shapes differ, and after any error or Ctrl-C on the way, nothing has been changed.
    """
    check_fit(targets)
    plan = [(key, own, state[key]) for _, module, state in targets for key, own in state_of(module).items()]
    before = [own.detach().clone() for _, own, _ in plan]
    with torch.inference_mode():  # a network that was made in it can be written to in it alone
        try:
            with held():
                for _, own, value in plan:
                    write(own, value)
                if lost := [key for key, own, value in plan if not holds(own, value)]:
                    raise CoopInitError(
                        f"The weights cannot be written: {few(lost)} would not keep them, as their memory is that of "
                        "another tensor, too. Nothing was changed. Give each a memory of its own: tensor.clone()."
                    )
        except BaseException:
            with held():
                for (_, own, _), value in zip(plan, before, strict=True):
                    write(own, value)
            raise


def check_fit(targets: list[tuple[str, nn.Module, State]]) -> None:
    """Refuse what :func:`give_back` could not write, naming the module, and the first tensors that differ."""
    for name, module, _ in targets:
        if not isinstance(module, nn.Module):
            what = "is missing" if module is None else f"is a {type(module).__name__}"
            raise CoopInitError(f"{name} {what}; expected a torch.nn.Module. Write load_into(G, D).")
    for name, module, state in targets:
        if found := _differences(module, state):
            (_, first, for_first), (_, second, for_second) = (*targets, *targets)[:2]
            swapped = not _differences(first, for_second) + _differences(second, for_first)
            raise CoopInitError(
                f"The weights do not fit {name} ({type(unwrap(module)).__name__}): {few(found)}. Nothing was changed. "
                + "G and D were given in the wrong order: write load_into(G, D)." * swapped
                + "Build the network with the same arguments as the one that was warmed up." * (not swapped)
            )


def averages(ema: Any, generator: nn.Module) -> list[nn.Module]:
    """The averaged copies of G in what the user gave: a module or several, or the helpers that hold one."""
    given = [] if ema is None else [ema] if isinstance(ema, nn.Module) or not isinstance(ema, Iterable) else list(ema)
    own = state_of(generator)
    found = []
    for index, member in enumerate(given):
        inner = [*member.modules()] if isinstance(member, nn.Module) else [*getattr(member, "__dict__", {}).values()]
        inner = [unwrap(module) for module in inner if isinstance(module, nn.Module)]
        fitting = [module for module in inner if not _differences(module, own)]
        fitting.sort(key=lambda module: module is unwrap(generator))  # a helper may hold G itself, too
        if not fitting:
            why = few(_differences(inner[0], own)) if inner else "it holds no torch.nn.Module"
            raise CoopInitError(
                f"The weights of G do not fit ema[{index}] ({type(member).__name__}): {why}. Nothing was changed. Give "
                "averaged copies of G, e.g. ema=[copy.deepcopy(G)]; helpers that hold one are seen through."
            )
        for key, tensor in state_of(fitting[0]).items():
            if tensor.is_meta or (repeats(tensor) and not repeats(own[key])):
                why = "is on the meta device" if tensor.is_meta else "was made by expand()"
                raise CoopInitError(
                    f"ema[{index}] cannot be written: {key} {why}. Nothing was changed. Give a copy with memory of its "
                    "own, e.g. ema=[copy.deepcopy(G)]."
                )
        found.append(fitting[0])
    return found


def repeats(tensor: Tensor) -> bool:
    """Whether elements of the tensor are one number in memory, as after ``expand()``."""
    return tensor.layout is torch.strided and any(
        step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def write(own: Tensor, value: Tensor) -> None:
    """Write the value into the tensor's own memory, each number of it once."""
    for dimension, step in enumerate(own.stride() if repeats(own) else ()):
        if step == 0:
            own, value = own.narrow(dimension, 0, 1), value.narrow(dimension, 0, 1)
    own.copy_(value)


def holds(own: Tensor, value: Tensor) -> bool:
    """Whether the tensor has the value; NaN equals itself."""
    value = value.to(own.device, own.dtype)
    return bool(((own == value) | ((own != own) & (value != value))).all())


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


def _differences(module: nn.Module, given: State) -> list[str]:
    """What stands against writing the values into the module."""
    ours, theirs = ({key: tuple(t.shape) for key, t in state.items()} for state in (state_of(module), given))
    told = {key: f"{key} has shape {ours.get(key)} in the module, {theirs.get(key)} in the weights" for key in ours}
    told |= {key: f"{key} is missing in the weights" for key in ours.keys() - theirs.keys()}
    told |= {key: f"{key} is not in the module" for key in theirs if key not in ours}
    return [words for key, words in told.items() if ours.get(key) != theirs.get(key)]
