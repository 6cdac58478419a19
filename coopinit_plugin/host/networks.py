"""The user's networks: seen through wrappers, copied for the warm-up, and given new values, all of them or none."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.kept import values
from coopinit_plugin.nests import HALF, first_line

State = dict[str, Tensor]


def unwrap(module: nn.Module) -> nn.Module:
    """The plain module inside DDP, DataParallel and ``torch.compile``, in any order."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inside := module.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            module = inside
        else:
            return module


def device_of(module: nn.Module) -> torch.device | None:
    """The device of the module's first parameter."""
    return next((parameter.device for parameter in module.parameters()), None)


def copies(generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers that the two share stay shared.

    Half precision becomes single: what Adam changes at a step is lost in eight bits, and so is the hand-over's proof.
    A network whose parameters are all frozen is trained, too. What cannot be copied or trained is refused.
    """
    plain = _plain("generator", generator), _plain("discriminator", discriminator)
    memo = {id(tensor): tensor.detach().clone() for module in plain for tensor in _graph_tensors(module)}
    try:
        ours = copy.deepcopy(plain, memo)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied, and the warm-up works on copies (copy.deepcopy: {first_line(error)}). "
            "Take locks, open files and the like off the modules during the call, or give the class a __deepcopy__."
        ) from error
    for module in ours:
        _strip_accelerate(module)
        parameters = list(module.parameters())
        for tensor in (*parameters, *module.buffers()):
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
            tensor.grad = None
        if not any(parameter.requires_grad for parameter in parameters):
            for parameter in parameters:
                parameter.requires_grad_(parameter.is_floating_point())
    return ours


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
    plan: list[tuple[Tensor, Tensor]] = []
    for name, module, state in targets:
        own = state_of(module)
        if problems := list(_differences(own, state)):
            raise CoopInitError(
                f"The weights do not fit {name} ({type(unwrap(module)).__name__}): {few(problems)}. Nothing was "
                "changed. Build the network with the same arguments as the one that was warmed up."
            )
        plan += [(own[key], state[key]) for key in own]
    with torch.inference_mode(False), torch.no_grad():
        put_back = values(tensor for tensor, _ in plan)
        try:
            with held():
                for tensor, value in plan:
                    tensor.copy_(value)
        except BaseException:
            with held():
                put_back()
            raise


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


def _differences(own: State, given: State) -> Iterator[str]:
    for key in {**own, **given}:
        if key not in given:
            yield f"{key} is missing in the weights"
        elif key not in own:
            yield f"{key} is not in the module"
        elif (ours := tuple(own[key].shape)) != (theirs := tuple(given[key].shape)):
            yield f"{key} has shape {ours} in the module, {theirs} in the weights"


def _plain(name: str, module: Any) -> nn.Module:
    """The module inside its wrappers, if it can be copied and trained."""
    if not isinstance(module, nn.Module):
        hint = f"Give an instance: {module.__name__}(...)." if isinstance(module, type) else "Wrap its parts in one."
        raise CoopInitError(f"{name} is a {type(module).__name__}; expected a torch.nn.Module. {hint}")
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    module, parameters = unwrap(module), list(module.parameters())
    problem = ""
    if sharding := kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        problem = f"is sharded over processes ({sharding.pop()}). Warm up the plain networks first; shard after that."
    elif any(is_lazy(parameter) for parameter in parameters):
        problem = "has lazy layers that are not initialised yet. Run one forward pass with a batch before."
    elif not any(parameter.is_floating_point() for parameter in parameters):
        problem = "has no parameters. Was the network itself passed, are its layers in an nn.ModuleList, not in a list?"
    if problem:
        raise CoopInitError(f"{name} ({type(module).__name__}) {problem}")
    return module


def _graph_tensors(module: nn.Module) -> list[Tensor]:
    """Tensors kept as attributes or buffers that still hang on a graph; ``copy.deepcopy`` refuses them."""
    leaves = tree_leaves([[value for name, value in vars(m).items() if name != "_modules"] for m in module.modules()])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_leaf]


def _strip_accelerate(module: nn.Module) -> None:
    """Undo in a copy what ``Accelerator.prepare`` hung on the module: a forward bound to the original."""
    for child in module.modules():
        for name in ("_original_forward", "forward") if "_original_forward" in vars(child) else ():
            del vars(child)[name]
        vars(child).pop("_is_accelerate_prepared", None)
