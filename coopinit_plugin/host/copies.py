"""Copies of the user's networks, on which the warm-up works, and proof that the copies alone compute."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.calling.data import check_mask
from coopinit_plugin.calling.inspection import look
from coopinit_plugin.calling.proof import unreached
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import device_of, few, flaws, tensors_of, unwrap
from coopinit_plugin.method.energy_mode import keep_frozen_layers, likelihood_mode, running_statistics
from coopinit_plugin.method.kept import buffers, frozen, kept, training, values
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.nests import HALF, first_line

SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine")  # classes that hold a part of the weights

Users = tuple[nn.Module, nn.Module]  # the user's own G and D


def copies(generator: nn.Module, discriminator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Plain copies of both networks, ready to be trained; layers that they share stay shared.

    Half precision becomes single, in which Adam's small steps are not lost. A network whose parameters are all frozen
    is trained, too. Layers that the user keeps in evaluation mode stay in it. What cannot be copied is refused.
    """
    plain = checked("generator", generator), checked("discriminator", discriminator)
    if plain[0] is plain[1]:
        raise CoopInitError("generator and discriminator are one and the same module; expected two.")
    if found := flaws(tensors_of(nn.ModuleDict({"G": plain[0], "D": plain[1]}))):
        raise CoopInitError(f"generator and discriminator cannot be copied and written to: {few(found)}.")
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


def seen(users: Users, G: nn.Module, D: nn.Module, batch: Any, given: Adapter, loss_named: bool = False) -> Adapter:
    """How G and D, copies of the user's, are called; an error if they are in the wrong order, too."""
    device = device_of(G) or torch.device("cpu")
    with _trial(users):
        try:
            return look(G, D, batch, device, given, loss_named)
        except CoopInitError as error:
            problem = error
        with suppress(Exception):
            look(D, G, batch, device, given, loss_named)
            problem = CoopInitError(
                f"G and D are in the wrong order: {type(users[1]).__name__}, given second, makes samples of the data's "
                f"shape, which {type(users[0]).__name__}, given first, scores. Give the generator first."
            )
        raise problem


def prove(users: Users, pair: Pair, batch: Any, device: torch.device) -> list[str]:
    """Run the copies once in every way in which the warm-up will; the parameters of D that no gradient reaches."""
    as_found = training(pair.G, pair.D), buffers(pair.G, pair.D), values(pair.D.parameters())
    with _trial(users), kept(*as_found):
        pair.G.train()
        likelihood_mode(pair.D)
        x, z, batch = pair.draw(batch, device)
        check_mask(pair.mask, x)
        leaves, nest = tree_flatten(x)
        with kept(frozen(pair.D)):
            inputs = [leaf.detach().requires_grad_() for leaf in leaves]
            input_gradient(lambda samples: pair.score(samples, z, batch), inputs, nest)
        missed = unreached("D", pair.D, pair.score(x, z, batch).square().mean())
        with torch.no_grad():
            pair.D.train()
            pair.score(x, z, batch)
        pair.after_d_step()
    return missed


@contextmanager
def _trial(users: Users) -> Iterator[None]:
    """Try the copies out inside: what fails is said, and nothing reaches the user's networks.

    What would change a tensor of theirs is stopped, attributes are put back; the error names what was reached.
    """
    nets = nn.ModuleDict({"G": unwrap(users[0]), "D": unwrap(users[1])})
    names = {tensor: name for name, tensor in tensors_of(nets).items()}
    held = [value for child in nets.modules() for value in tree_leaves([*vars(child).values()])]
    places = {_memory(value): (names.get(value, "tensors"), False) for value in filter(_memory, held)}
    live = {*trained(nets["G"]), *trained(nets["D"]), *running_statistics(nets)}
    places |= {_memory(tensor): (names[tensor], True) for tensor in filter(_memory, live)}
    contents = [part for child in nets.modules() for part in _containers(vars(child), set())]
    reached, failure = "", None
    try:
        with _Guard(places):
            yield
    except _Reached as name:
        reached = str(name)
    except Exception as error:
        failure = error
    finally:
        for holder, was in contents:
            if _ids(holder) != _ids(was):
                reached = reached or "attributes"
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(was)
    if reached:
        raise CoopInitError(
            f"The warm-up works on copies of G and D, but they reach your own {reached}: a function that was set on "
            "the network (a wrapped or compiled forward, a hook, a lambda), or a hook of the Adapter, holds the "
            "original. Nothing was changed. Set it after the warm-up, make it a method, or let it use the module that "
            "it is given, as in hook(module, input, output) or Adapter(score=lambda D, x, z, batch: ...)."
        ) from failure
    if isinstance(failure, CoopInitError):
        raise failure
    if failure is not None:
        raise CoopInitError(
            f"A trial pass through copies of G and D fails: {first_line(failure)}. Your networks are untouched. "
            "torch.utils.checkpoint needs use_reentrant=False here; BatchNorm needs a larger batch_size than 1."
        ) from failure


class _Reached(BaseException):
    """A tensor of the user's was reached. No ``except Exception`` on the way takes it for a failed attempt."""


class _Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops operations of torch, before they run, that use a live tensor or write to any other of the user's."""

    def __init__(self, places: dict[int | None, tuple[str, bool]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = places  # by memory: the tensor's name, and whether it is live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        for argument in func._schema.arguments:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for leaf in tree_leaves(given.get(argument.name)):
                name, live = self._places.get(_memory(leaf), ("", False))
                if live or (writes and name):
                    raise _Reached(name)
        return func(*args, **(kwargs or {}))


def _memory(value: Any) -> int | None:
    """Which memory a dense tensor lies in; ``None`` for anything else."""
    dense = isinstance(value, Tensor) and value.layout is torch.strided and value.numel() > 0
    return value.untyped_storage()._cdata if dense else None


def _containers(holder: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """(Container, what it holds now): the holder, and those in it."""
    if isinstance(holder, (dict, list, set)) and id(holder) not in seen:
        seen.add(id(holder))
        yield holder, copy.copy(holder)
        for value in holder.values() if isinstance(holder, dict) else holder:
            yield from _containers(value, seen)


def _ids(holder: Any) -> list[int]:
    return [id(part) for part in (*holder, *(holder.values() if isinstance(holder, dict) else ()))]
