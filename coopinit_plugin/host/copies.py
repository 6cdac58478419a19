"""Copies of the user's networks, on which the warm-up works."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import brief, flaws, tensors_of, unwrap
from coopinit_plugin.method.energy_mode import keep_frozen_layers
from coopinit_plugin.nests import HALF, first_line

SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")  # classes that hold a part of the weights


def copies(generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers that they share stay shared.

    Half precision becomes single, in which Adam's small steps are not lost. A network whose parameters are all frozen
    is trained, too. Layers that the user keeps in evaluation mode stay in it. What cannot be copied is refused.
    """
    plain = checked("generator", generator), checked("discriminator", discriminator)
    if plain[0] is plain[1]:
        raise CoopInitError("generator and discriminator are one and the same module; expected two.")
    if found := flaws(tensors_of(nn.ModuleDict({"G": plain[0], "D": plain[1]}))):
        raise CoopInitError(f"generator and discriminator cannot be copied and written to: {brief(found)}.")
    try:
        ours = deep_copy(plain)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied, and the warm-up works on copies (copy.deepcopy: {first_line(error)}). "
            "Take locks, open files and the like off the modules during the call, or give the class a __deepcopy__."
        ) from error
    for net in ours:
        for child in net.modules():
            own = vars(child)
            if "_original_forward" in own:  # by Accelerator.prepare, which gave it a forward that casts
                own["forward"] = own.pop("_original_forward")
            own.pop("_is_accelerate_prepared", None)
            if isinstance(child, (nn.Embedding, nn.EmbeddingBag)):
                child.sparse = False  # Adam takes no sparse gradients
        for tensor in tensors_of(net).values():
            tensor.grad = None
            if tensor.dtype in HALF:
                tensor.data = tensor.data.float()
        for parameter in trained(net):
            parameter.requires_grad_()
        keep_frozen_layers(net)
    return ours


def deep_copy(networks: Any) -> Any:
    """Copies of one or several networks; tensors that they have computed, which deepcopy refuses, lose their graph."""
    modules = nn.ModuleList(networks).modules() if isinstance(networks, tuple) else networks.modules()
    held = [value for module in modules for value in tree_leaves([*vars(module).values()])]
    computed = {id(t): t.detach().clone() for t in held if isinstance(t, Tensor) and not t.is_leaf}
    return copy.deepcopy(networks, computed)


def checked(name: str, module: Any) -> nn.Module:
    """The module inside its wrappers; refused if it cannot be copied and trained."""
    if not isinstance(module, nn.Module):
        given = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise CoopInitError(
            f"{name} is {given}; expected a torch.nn.Module. Does the function that makes it return it?"
        )
    plain = unwrap(module)
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    trainable = any(parameter.is_floating_point() for parameter in plain.parameters())
    scripts = [child for child in plain.modules() if isinstance(child, torch.jit.ScriptModule)]
    moved = {*trained(plain)}.intersection(parameter for script in scripts for parameter in script.parameters())
    problems = {
        "is sharded over processes. Warm up the plain networks first; shard after that.": not kinds.isdisjoint(SHARDED),
        "has lazy layers. Run one forward pass with a batch before.": any(map(is_lazy, plain.parameters())),
        "has no parameters. Are its layers in a list? An nn.ModuleList makes them known.": not trainable,
        "is TorchScript, whose layers cannot be seen. Give the module that it was made from.": bool(moved),
    }
    for problem, holds in problems.items():
        if holds:
            raise CoopInitError(f"{name} ({type(plain).__name__}) {problem}")
    return plain


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: all of them if all are frozen."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.requires_grad] or [p for p in parameters if p.is_floating_point()]
