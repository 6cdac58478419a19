"""Copies of the user's networks, on which the warm-up works: nothing that they do reaches the originals."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import few, flaws, repeats, tensors_of, unwrap
from coopinit_plugin.method.energy_mode import keep_frozen_layers
from coopinit_plugin.nests import HALF, first_line

FIXED = (FunctionType, MethodType, CellType, partial, weakref.ref, tuple)  # made anew, since they cannot be changed


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
    named = tensors_of(nn.ModuleDict({"G": plain[0], "D": plain[1]}))
    if shared := flaws(named, {*trained(plain[0]), *trained(plain[1])}):
        raise CoopInitError(f"generator and discriminator cannot be copied: {few(shared)}.")
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
    _rebind(memo)
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
    moves = {*trained(plain)}
    for child in plain.modules():
        if isinstance(child, torch.jit.ScriptModule) and not moves.isdisjoint(child.parameters()):
            yield "is TorchScript, whose layers cannot be seen. Give the module it was made from; script that later."
    if found := flaws(tensors_of(plain), moves):
        yield f"cannot be copied and written to: {few(found)}."


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: all of them if all are frozen."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.requires_grad] or [p for p in parameters if p.is_floating_point()]


def tensors_held(module: nn.Module) -> list[Tensor]:
    """Every tensor that a submodule holds, however it holds it."""
    leaves = tree_leaves([[value for name, value in vars(m).items() if name != "_modules"] for m in module.modules()])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _rebind(memo: dict[int, Any]) -> None:
    """Let the functions that hold an original, which ``copy.deepcopy`` takes as they are, hold its copy instead.

    Such are a wrapped forward (``D.forward = torch.compile(D.forward)``), a hook or a lambda over ``self``, a weak
    reference. The memo of deepcopy tells what each original has become.
    """
    copied = {key: value for key, value in memo.items() if key != id(memo)}  # this one holds the originals
    ours = {id(value) for value in copied.values()}
    known = dict(copied)  # by id: what an original, a function, a variable or a container has become
    alive = []  # whose ids are in use

    def rebound(value: Any) -> Any:
        """The value with the copies in it; itself, if it refers to nothing that was copied."""
        if id(value) in ours and not isinstance(value, FIXED):
            return value
        if id(value) not in known:
            known[id(value)] = value  # if it holds itself
            alive.append(value)
            held, make = _taken_apart(value)
            new = [rebound(part) for part in held]
            if any(a is not b for a, b in zip(new, held, strict=True)):
                known[id(value)] = make(*new)
        return known[id(value)]

    for made in copied.values():
        for holder in (made, getattr(made, "__dict__", None)):
            if isinstance(holder, (MutableMapping, list)):
                for key, value in list(enumerate(holder) if isinstance(holder, list) else holder.items()):
                    if (new := rebound(value)) is not value:
                        holder[key] = new


def _taken_apart(value: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """What a value holds, and what makes such a value of that."""
    if isinstance(value, FunctionType):
        if (plain := vars(value).get("_torchdynamo_orig_callable")) is not None:  # compiled: the copy is not
            return (plain,), lambda function: function
        return (value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)), partial(_function, value)
    if isinstance(value, CellType):  # a variable of the functions inside another one
        return () if value == CellType() else (value.cell_contents,), CellType
    if isinstance(value, MethodType):
        return (value.__func__, value.__self__), MethodType
    if isinstance(value, partial):
        return (value.func, value.args, value.keywords), lambda f, given, named: partial(f, *given, **named)
    if type(value) in (weakref.ref, weakref.WeakMethod):
        return (value(),), type(value)
    if type(value) in (list, tuple, set):
        return (*value,), lambda *parts: type(value)(parts)
    if type(value) is dict:
        return (*value.values(),), lambda *parts: dict(zip(value, parts, strict=True))
    return (), tuple


def _function(old: FunctionType, closure: Any, defaults: Any, named_defaults: Any, attributes: Any) -> FunctionType:
    made = FunctionType(old.__code__, old.__globals__, old.__name__, defaults, closure)
    made.__kwdefaults__ = named_defaults
    vars(made).update(attributes)  # e.g. what it wraps
    return made
