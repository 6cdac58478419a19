"""The user's networks: seen through wrappers, and given new values, all of them or none."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.kept import values

Tensors = dict[str, Tensor]


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


def state_of(module: nn.Module) -> Tensors:
    """Parameters and persistent buffers under the plain module's keys, the live tensors themselves."""
    return {key: value for key, value in unwrap(module).state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def cpu_copy(state: Tensors, like: Tensors | None = None) -> Tensors:
    """The values, contiguous, on the CPU, in the dtypes of `like`; tied tensors stay one tensor."""
    taken = {}
    for key, value in state.items():
        kind = (like or state)[key].dtype
        taken[id(value)] = value.detach().to("cpu", kind, copy=True, memory_format=torch.contiguous_format)
    return {key: taken[id(value)] for key, value in state.items()}


def tensors_of(module: nn.Module) -> Tensors:
    """Every parameter and buffer, those that are not saved with the module included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def give_back(targets: list[tuple[str, nn.Module, Tensors]]) -> None:
    """Write the values of each (name in messages, module, values) into the module's own tensors: all of them, or none.

    If they do not fit, and after any error or Ctrl-C on the way, nothing has been changed.
    """
    for name, module, state in targets:
        if not isinstance(module, nn.Module):
            given = type(module).__name__
            raise CoopInitError(f"{name} is a {given}; expected a torch.nn.Module. Write load_into(G, D).")
        if found := obstacles(module, state):
            raise CoopInitError(
                f"The weights do not fit {name} ({type(unwrap(module)).__name__}): {brief(found)}. Nothing was "
                "changed. Build the network with the same arguments as the one that was warmed up; if G and D are in "
                "the wrong order, write load_into(G, D)."
            )
    plan = [(own, state[key]) for _, module, state in targets for key, own in state_of(module).items()]
    put_back = values(own for own, _ in plan)
    with torch.inference_mode():  # a network that was made in it can be written to in it alone
        try:
            for own, value in plan:
                own.copy_(value)
        except BaseException:
            restored = False
            while not restored:
                with suppress(KeyboardInterrupt):  # another Ctrl-C begins this anew
                    put_back()
                    restored = True
            raise


def averages(ema: Any, generator: nn.Module) -> list[nn.Module]:
    """The averaged copies of G in what the user gave: a module or several, or modules that hold one."""
    given = [] if ema is None else [ema] if isinstance(ema, nn.Module) or not isinstance(ema, Iterable) else [*ema]
    own, found = state_of(generator), []
    for index, member in enumerate(given):
        inside = [unwrap(module) for module in member.modules()] if isinstance(member, nn.Module) else []
        inside.sort(key=lambda module: module is generator)  # it may hold G itself, too
        fitting = [module for module in inside if not obstacles(module, own)]
        if not fitting:
            why = brief(obstacles(inside[0], own)) if inside else "it is no torch.nn.Module"
            what = f"The weights of G do not fit ema[{index}] ({type(member).__name__}): {why}"
            raise CoopInitError(f"{what}. Nothing was changed. Give averaged copies of G, e.g. ema=[copy.deepcopy(G)].")
        found.append(fitting[0])
    return found


def obstacles(module: nn.Module, given: Tensors) -> list[str]:
    """What stands against writing the values into the module's own tensors."""
    ours, found = state_of(module), []
    for key in {**ours, **given}:
        if key not in given:
            found.append(f"{key} is missing in the weights")
        elif key not in ours:
            found.append(f"{key} is not in the module")
        elif (here := tuple(ours[key].shape)) != (there := tuple(given[key].shape)):
            found.append(f"{key} has shape {here} in the module, {there} in the weights")
    return found or flaws(ours)


def flaws(tensors: Tensors) -> list[str]:
    """What stands against copying tensors and writing new values to them, each with what to do."""
    found, spans = [], []
    for tensor, name in {tensor: name for name, tensor in tensors.items()}.items():  # each once, by identity
        if tensor.is_meta:
            found.append(f"{name} is on the meta device: call to_empty(device=...), initialise")
        elif tensor.layout is not torch.strided:
            found.append(f"{name} is sparse: make it dense, to_dense(), or a plain attribute")
        elif any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)):
            found.append(f"{name} was made by expand(), so that its elements are one number in memory: clone() it")
        elif tensor.numel():
            reach = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
            begin = tensor.data_ptr()
            spans.append((begin, begin + reach * tensor.element_size(), name))
    for (_, end, first), (begin, _, second) in pairwise(sorted(spans)):
        if begin < end and any(isinstance(tensors[name], nn.Parameter) for name in (first, second)):
            found.append(
                f"{first} and {second} share their memory: clone() one, or tie them, layer.weight = its.weight"
            )
    return found


def brief(problems: list[str]) -> str:
    """The first three, and how many more there are."""
    return "; ".join(problems[:3]) + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")
