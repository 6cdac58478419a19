"""Copies of the user's networks, on which the warm-up works: nothing that they do reaches the originals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import few, overlapping, repeats, tensors_of, unwrap
from coopinit_plugin.host.rebound import rebind
from coopinit_plugin.method.energy_mode import keep_frozen_layers
from coopinit_plugin.nests import HALF, first_line


def copies(generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers that they share stay shared.

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
    named = [
        (f"{letter}.{name}", t) for letter, net in zip("GD", plain, strict=True) for name, t in tensors_of(net).items()
    ]
    if shared := overlapping(dict(named)):
        raise CoopInitError(
            f"{few(shared)}, but are not one tensor, so that their copies would not change together. Give each its own "
            "memory, tensor.clone(), or make them one, e.g. layer.weight = other.weight."
        )
    tensors = [tensor for net in plain for tensor in tensors_held(net)]
    folded = [t for t in tensors if repeats(t) and not isinstance(t, nn.Parameter)]  # cannot be written in place
    computed = [t for t in tensors if not t.is_leaf]  # refused by deepcopy
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in (*folded, *computed)}
    try:
        ours = copy.deepcopy(plain, memo)
    except Exception as error:
        raise CoopInitError(
            f"The networks cannot be copied, and the warm-up works on copies (copy.deepcopy: {first_line(error)}). "
            "Take locks, open files and the like off the modules during the call, or give the class a __deepcopy__."
        ) from error
    rebind(memo)
    for net in ours:
        for child in net.modules():
            if "_original_forward" in vars(child):  # by Accelerator.prepare, which gave it a forward that casts
                vars(child)["forward"] = vars(child).pop("_original_forward")
            vars(child).pop("_is_accelerate_prepared", None)
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


def checked(name: str, module: Any) -> nn.Module:
    """The module inside its wrappers; refused if it cannot be copied, trained or written to."""
    if not isinstance(module, nn.Module):
        hint = f"Give an instance: {module.__name__}(...)." if isinstance(module, type) else "Wrap its parts in one."
        hint = "Does the function that makes it return it?" if module is None else hint
        raise CoopInitError(f"{name} is a {type(module).__name__}; expected a torch.nn.Module. {hint}")
    plain = unwrap(module)
    if problem := next(_problems(module, plain), None):
        raise CoopInitError(f"{name} ({type(plain).__name__}) {problem}")
    return plain


def _problems(module: nn.Module, plain: nn.Module) -> Iterator[str]:
    """What stands against copying, training and writing to a module, or to the plain one inside it."""
    kinds = {kind.__name__ for child in module.modules() for kind in type(child).__mro__}
    for kind in kinds & {"FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}:
        yield f"is sharded over processes ({kind}). Warm up the plain networks first; shard after that."
    if any(map(is_lazy, plain.parameters())):
        yield "has lazy layers that are not initialised yet. Run one forward pass with a batch before."
    if not any(parameter.is_floating_point() for parameter in plain.parameters()):
        yield "has no parameters. Was the network itself passed, are its layers in an nn.ModuleList, not in a list?"
    moves = {id(parameter) for parameter in trained(plain)}
    for child in plain.modules():
        if isinstance(child, torch.jit.ScriptModule) and moves & set(map(id, child.parameters())):
            yield "is TorchScript, whose layers cannot be seen. Give the module it was made from; script that later."
    for key, tensor in tensors_of(plain).items():
        if tensor.is_meta:
            yield f"has no values yet: {key} is on the meta device. Call to_empty(device=...), initialise."
        if tensor.layout is not torch.strided:
            yield f"holds {key}, a sparse tensor. Make it dense, to_dense(), or a plain attribute in place of a buffer."
        if id(tensor) in moves and repeats(tensor):
            yield (
                f"cannot be written: {key}, {tuple(tensor.shape)}, was made by expand(), so that several of its "
                "elements are one number in memory. Write nn.Parameter(tensor.expand(...).clone()), or expand in "
                "forward."
            )


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: all of them if all are frozen."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.requires_grad] or [p for p in parameters if p.is_floating_point()]


def tensors_held(module: nn.Module) -> list[Tensor]:
    """Every tensor that a submodule holds, however it holds it."""
    leaves = tree_leaves([[value for name, value in vars(m).items() if name != "_modules"] for m in module.modules()])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
