"""The user's networks: seen through wrappers, copied for the warm-up, and given new values, all of them or none."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.kept import kept, values
from coopinit_plugin.nests import HALF

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
    A network whose parameters are all frozen is trained, too.

    Raises:
        CoopInitError: for what is no module, has no parameters or uninitialised ones, or cannot be copied.
    """
    plain = _plain("generator", generator), _plain("discriminator", discriminator)
    memo = {id(tensor): tensor.detach().clone() for module in plain for tensor in _graph_tensors(module)}
    try:
        ours = copy.deepcopy(plain, memo)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied (copy.deepcopy: {type(error).__name__}: {error}). The warm-up works on "
            "copies so that yours stay whole. Take what cannot be copied (locks, open files, generators, process "
            "groups) off the modules during the call, or give the class a __deepcopy__."
        ) from error
    for module in ours:
        _strip_accelerate(module)
        parameters = list(module.parameters())
        for tensor in (*parameters, *module.buffers()):
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
        all_frozen = not any(parameter.requires_grad for parameter in parameters)
        for parameter in parameters:
            parameter.requires_grad_(parameter.is_floating_point() if all_frozen else parameter.requires_grad)
            parameter.grad = None
    return ours


def state_of(module: nn.Module) -> State:
    """Parameters and persistent buffers under the plain module's keys, the live tensors themselves."""
    return {key: value for key, value in unwrap(module).state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def cpu_copy(state: State, like: State | None = None) -> State:
    """The values, contiguous, on the CPU, in the dtypes of `like`; tied tensors stay one tensor."""
    taken: dict[int, Tensor] = {}
    for key, value in state.items():
        if id(value) not in taken:
            taken[id(value)] = value.detach().to("cpu", (like or state)[key].dtype, copy=True).contiguous()
    return {key: taken[id(value)] for key, value in state.items()}


def give_back(targets: list[tuple[str, nn.Module, State]]) -> None:
    """Write the values into the modules' own tensors: all of them, or none.

    An error or an interrupt on the way puts every tensor back, bit for bit. Identity, device, dtype, memory format and
    flags of the tensors stay.

    Args:
        targets: (how the module is called in messages, the module, the values).

    Raises:
        CoopInitError: if names or shapes differ; nothing has been changed then.
    """
    plan: list[tuple[Tensor, Tensor]] = []
    for name, module, state in targets:
        own = state_of(module)
        problems = [f"{key} is missing in the weights" for key in own if key not in state]
        problems += [f"{key} is not in the module" for key in state if key not in own]
        problems += [
            f"{key} has shape {tuple(own[key].shape)} in the module, {tuple(state[key].shape)} in the weights"
            for key in own
            if key in state and own[key].shape != state[key].shape
        ]
        if problems:
            more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
            raise CoopInitError(
                f"The weights do not fit {name} ({type(unwrap(module)).__name__}): {'; '.join(problems[:3])}{more}. "
                "Nothing was changed. Build the network with the same arguments as the one that was warmed up."
            )
        plan += [(own[key], state[key]) for key in own]
    with torch.inference_mode(False), torch.no_grad():
        put_back = values(tensor for tensor, _ in plan)
        with held() as let_through:
            try:
                for tensor, value in plan:
                    tensor.copy_(value)
                let_through()
            except BaseException:
                put_back()
                raise


@contextmanager
def held() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back inside, in the main thread, which alone can; a second one is forgotten.

    Yields a function that passes a Ctrl-C that has come to the handler that was there before. If it is not called, the
    Ctrl-C arrives at the end.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():  # None: a handler not of Python's
        yield lambda: None
        return
    arrived: list[Any] = []

    def let_through() -> None:
        if arrived and callable(handler):
            frame, arrived[:] = arrived[0], []
            handler(signal.SIGINT, frame)

    def undo() -> None:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, lambda _, frame: arrived.append(frame))
    with kept(undo):
        yield let_through


def _plain(name: str, module: Any) -> nn.Module:
    """The module inside its wrappers, if it can be copied and trained."""
    if not isinstance(module, nn.Module):
        hint = f" Give an instance: {module.__name__}(...)." if isinstance(module, type) else ""
        raise CoopInitError(
            f"{name} is a {type(module).__name__}; expected a torch.nn.Module.{hint} A composite network is best "
            "wrapped in a small nn.Module whose forward calls its parts."
        )
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    if sharding := kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        raise CoopInitError(
            f"{name} is sharded over processes ({sharding.pop()}): no process holds all of its weights, so there is "
            "nothing to copy. Warm up first, on the plain networks: warm_start(G, D, loader), or in a process of its "
            'own with result.save_pretrained("init/") and WarmStart.from_pretrained("init/").load_into(G, D); shard '
            "after that."
        )
    module = unwrap(module)
    parameters = list(module.parameters())
    if any(is_lazy(parameter) for parameter in parameters):
        raise CoopInitError(
            f"{name} ({type(module).__name__}) has lazy layers that are not initialised yet. Run one forward pass "
            "before warm_start, with a batch of the real size."
        )
    if not any(parameter.is_floating_point() for parameter in parameters):
        raise CoopInitError(
            f"{name} ({type(module).__name__}) has no parameters: there is nothing to train. Was the network "
            "itself passed, and are its layers registered (nn.ModuleList instead of a list)?"
        )
    return module


def _graph_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors kept as attributes or buffers that still hang on a graph; ``copy.deepcopy`` refuses them."""
    for child in module.modules():
        for leaf in tree_leaves([value for name, value in vars(child).items() if name != "_modules"]):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                yield leaf


def _strip_accelerate(module: nn.Module) -> None:
    """Undo in a copy what ``Accelerator.prepare`` hung on the module: a forward bound to the original."""
    for child in module.modules():
        hung = ("forward", "_original_forward") if "_original_forward" in vars(child) else ()
        for name in (*hung, "_is_accelerate_prepared"):
            vars(child).pop(name, None)
