"""Copies of the user's networks, on which the warm-up works: nothing that they do reaches the originals."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import repeats, unwrap
from coopinit_plugin.host.rebound import Rebinder
from coopinit_plugin.method.energy_mode import keep_frozen_layers
from coopinit_plugin.nests import HALF, first_line


def copies(generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers and memory that they share stay shared.

    Half precision becomes single: what Adam changes at a step is lost in eight bits, and so is the hand-over's proof.
    A network whose parameters are all frozen is trained, too. Layers that the user keeps in evaluation mode stay in
    it. What cannot be copied or trained is refused.
    """
    plain = checked("generator", generator), checked("discriminator", discriminator)
    if plain[0] is plain[1]:
        raise CoopInitError(
            f"generator and discriminator are one and the same module, a {type(plain[0]).__name__}; expected two. "
            "Write warm_start(G, D, loader)."
        )
    tensors = [tensor for module in plain for tensor in tensors_held(module)]
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in tensors if not t.is_leaf}  # refused by deepcopy
    try:
        ours = copy.deepcopy(plain, memo)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied, and the warm-up works on copies (copy.deepcopy: {first_line(error)}). "
            "Take locks, open files and the like off the modules during the call, or give the class a __deepcopy__."
        ) from error
    _settle(ours, {id(memo[id(t)]): t for t in tensors if t.is_leaf and id(t) in memo})
    rebinder = Rebinder(memo)
    for module in ours:
        for child in module.modules():
            rebinder.inside(child)
            _strip_accelerate(child)
            if isinstance(child, (nn.Embedding, nn.EmbeddingBag)):
                child.sparse = False  # Adam takes no sparse gradients
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.grad = None
        for parameter in trained(module):
            parameter.requires_grad_()
        keep_frozen_layers(module)
    return ours


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """The copy on the device; refused if its tensors would not go on sharing the memory that they share."""
    shared = shares_memory(module)
    if shared and not shares_memory(module.to(device)):
        raise CoopInitError(
            f"Tensors of {type(module).__name__} share their memory (is a buffer or a parameter a view of another?), "
            f"which they would not on {device} any more. Move your networks there first, or give each its own: clone()."
        )
    return module.to(device)


def shares_memory(module: nn.Module) -> bool:
    """Whether a buffer or parameter of a module lies in the memory of another, of which it is a view."""
    return max(_uses([*module.parameters(), *module.buffers()]).values(), default=0) > 1


def _uses(tensors: list[Tensor]) -> Counter[int]:
    """How many of the tensors lie in each memory."""
    once = {id(tensor): tensor for tensor in tensors if tensor.layout is torch.strided}
    return Counter(tensor.untyped_storage()._cdata for tensor in once.values())


def checked(name: str, module: Any) -> nn.Module:
    """The module inside its wrappers; refused if it cannot be copied, trained or written to."""
    if not isinstance(module, nn.Module):
        hint = f"Give an instance: {module.__name__}(...)." if isinstance(module, type) else "Wrap its parts in one."
        hint = "Does the function that makes it return it?" if module is None else hint
        raise CoopInitError(f"{name} is a {type(module).__name__}; expected a torch.nn.Module. {hint}")
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    module = unwrap(module)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    moves = {id(parameter) for parameter in trained(module)}
    scripted = [child for child in module.modules() if isinstance(child, torch.jit.ScriptModule)]
    problem = ""
    if sharding := kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        problem = f"is sharded over processes ({sharding.pop()}). Warm up the plain networks first; shard after that."
    elif any(is_lazy(tensor) for tensor in tensors.values()):
        problem = "has lazy layers that are not initialised yet. Run one forward pass with a batch before."
    elif not any(parameter.is_floating_point() for parameter in module.parameters()):
        problem = "has no parameters. Was the network itself passed, are its layers in an nn.ModuleList, not in a list?"
    elif empty := [key for key, tensor in tensors.items() if tensor.is_meta]:
        problem = f"has no values yet: {empty[0]} is on the meta device. Call to_empty(device=...), initialise."
    elif sparse := [key for key, tensor in tensors.items() if tensor.layout is not torch.strided]:
        problem = (
            f"holds {sparse[0]}, a sparse tensor, which cannot be compared or saved. Make it dense, to_dense(), or a "
            "plain attribute in place of a buffer."
        )
    elif any(id(parameter) in moves for child in scripted for parameter in child.parameters()):
        problem = "is TorchScript, whose layers cannot be seen. Give the module it was made from; script that later."
    elif folded := [key for key, tensor in tensors.items() if id(tensor) in moves and repeats(tensor)]:
        problem = (
            f"cannot be written: {folded[0]}, {tuple(tensors[folded[0]].shape)}, was made by expand(), so that several "
            f"of its elements are one number in memory. Make it nn.Parameter(tensor.expand(...).clone()), or expand in "
            "forward."
        )
    if problem:
        raise CoopInitError(f"{name} ({type(module).__name__}) {problem}")
    return module


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: all of them if all are frozen."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.requires_grad] or [p for p in parameters if p.is_floating_point()]


def tensors_held(module: nn.Module) -> list[Tensor]:
    """Every tensor that a submodule holds, however it holds it."""
    leaves = tree_leaves([[value for name, value in vars(m).items() if name != "_modules"] for m in module.modules()])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _settle(copied: tuple[nn.Module, ...], origins: dict[int, Tensor]) -> None:
    """Make copied tensors share memory as their origins do, in single precision, each element in a place of its own."""
    own = {id(t): t for module in copied for t in (*module.parameters(), *module.buffers())}
    others = {id(t): t for module in copied for t in tensors_held(module) if id(t) not in own}
    uses = _uses([origins.get(key, tensor) for key, tensor in (own | others).items()])
    memory: dict[Any, Any] = {}  # what it was, kept so that no other memory gets its address, and what it has become
    for key, tensor in (own | others).items():
        origin = origins.get(key, tensor)
        if origin.layout is not torch.strided:
            continue
        storage, kind = origin.untyped_storage(), torch.float32 if origin.dtype in HALF else origin.dtype
        place = storage._cdata, kind is origin.dtype
        if place in memory or (key in own and uses[storage._cdata] > 1):
            if place not in memory:
                flat = torch.empty(0, dtype=origin.dtype, device=origin.device).set_(storage)
                memory[place] = storage, flat.to(kind, copy=True).untyped_storage()
            data = torch.empty(0, dtype=kind, device=origin.device)
            data.set_(memory[place][1], origin.storage_offset(), origin.shape, origin.stride())
        elif key in own:
            data = tensor.data.to(kind)
        else:
            continue
        tensor.data = data.clone(memory_format=torch.contiguous_format) if key in own and repeats(data) else data


def _strip_accelerate(child: nn.Module) -> None:
    """Undo in a copied module what ``Accelerator.prepare`` hung on it: a forward that casts."""
    if "_original_forward" in vars(child):
        vars(child)["forward"] = vars(child).pop("_original_forward")
    vars(child).pop("_is_accelerate_prepared", None)
