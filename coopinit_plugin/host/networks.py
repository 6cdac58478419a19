"""The user's modules and random state: copied, borrowed, and given back as they were."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.signals import held
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


def copies(generator: nn.Module, discriminator: nn.Module, in_place: bool = False) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers that the two share stay shared.

    Half precision becomes single: what Adam changes at a step is lost in eight bits, and so is the hand-over's proof.

    Args:
        generator: The user's.
        discriminator: The user's.
        in_place: Share the memory of parameters and persistent buffers with the user's, where that can be trained in.

    Raises:
        CoopInitError: for what is no module, has no parameters or uninitialised ones, or cannot be copied.
    """
    plain = []
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(module, nn.Module):
            hint = f" Give an instance: {module.__name__}(...)." if isinstance(module, type) else ""
            raise CoopInitError(
                f"{name} is a {type(module).__name__}; expected a torch.nn.Module.{hint} A composite network is best "
                "wrapped in a small nn.Module whose forward calls its parts."
            )
        _refuse_sharded(name, module)
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
        plain.append(module)
    memo = {id(tensor): tensor.detach().clone() for module in plain for tensor in _graph_tensors(module)}
    memo |= _aliases(plain) if in_place else {}
    try:
        ours_g, ours_d = copy.deepcopy((plain[0], plain[1]), memo)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied (copy.deepcopy: {type(error).__name__}: {error}). The warm-up works on "
            "copies so that yours stay whole. Take what cannot be copied (locks, open files, generators, process "
            "groups) off the modules during the call, or give the class a __deepcopy__."
        ) from error
    for module in (ours_g, ours_d):
        _strip_accelerate(module)
        _make_single(module)
        trained = list(module.parameters())
        if not any(parameter.requires_grad for parameter in trained):
            for parameter in trained:
                parameter.requires_grad_(parameter.is_floating_point())
        for parameter in trained:
            parameter.grad = None
    return ours_g, ours_d


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


def give_back(targets: list[tuple[str, nn.Module, State]], backed_up: bool = False) -> None:
    """Write the values into the modules' own tensors: all of them, or none.

    An error or an interrupt on the way puts every tensor back, bit for bit. Identity, device, dtype, memory format and
    flags of the tensors stay.

    Args:
        targets: (how the module is called in messages, the module, the values).
        backed_up: The caller puts everything back itself after an error.

    Raises:
        CoopInitError: where names or shapes differ; nothing has been changed then.
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
        before = None if backed_up else [tensor.detach().clone() for tensor, _ in plan]
        with held(signal.SIGINT) as let_through:
            try:
                for tensor, value in plan:
                    tensor.copy_(value)
                let_through()
            except BaseException:
                if before is not None:
                    for (tensor, _), value in zip(plan, before, strict=True):
                        tensor.copy_(value)
                raise


def _aliases(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """Tensors that share their memory with the user's, by the id of theirs: what ``copy.deepcopy`` takes for copies.

    Left out is what cannot be trained in place: half precision, inference tensors, subclasses of Parameter.
    """
    found: dict[int, Tensor] = {}
    for tensor in (tensor for module in modules for tensor in state_of(module).values()):
        if tensor.dtype in HALF or tensor.is_inference():
            continue
        if type(tensor) is nn.Parameter:
            found[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        elif type(tensor) is Tensor:
            found[id(tensor)] = tensor.detach()
    return found


def _make_single(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in HALF:
            tensor.data = tensor.data.float()


def _refuse_sharded(name: str, module: nn.Module) -> None:
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    if sharding := kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        raise CoopInitError(
            f"{name} is sharded over processes ({sharding.pop()}): no process holds all of its weights, so there is "
            "nothing to copy. Warm up first, on the plain networks: warm_start(G, D, loader), or in a process of its "
            'own with result.save_pretrained("init/") and WarmStart.from_pretrained("init/").load_into(G, D); shard '
            "after that."
        )


def _graph_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors kept as attributes or buffers that still hang on a graph; ``copy.deepcopy`` refuses them."""
    for child in module.modules():
        for kept in tree_leaves([value for name, value in vars(child).items() if name not in ("_modules",)]):
            if isinstance(kept, Tensor) and not kept.is_leaf:
                yield kept


def _strip_accelerate(module: nn.Module) -> None:
    """Undo in a copy what ``Accelerator.prepare`` hung on the module: a forward bound to the original."""
    for child in module.modules():
        if "_original_forward" in vars(child):
            vars(child).pop("forward", None)
            vars(child).pop("_original_forward", None)
        vars(child).pop("_is_accelerate_prepared", None)
