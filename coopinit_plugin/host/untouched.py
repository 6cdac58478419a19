"""Proof, before the first iteration, that the copies alone compute: nothing that they do reaches the originals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.calling.data import check_mask
from coopinit_plugin.calling.inspection import look
from coopinit_plugin.calling.proof import passes, unreached
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.copies import tensors_held, trained
from coopinit_plugin.host.networks import device_of, few, tensors_of, unwrap
from coopinit_plugin.method.energy_mode import likelihood_mode, running_statistics
from coopinit_plugin.method.kept import buffers, frozen, kept, training, values
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.pair import Pair


class _Reached(BaseException):
    """A tensor of the user's was reached. No ``except Exception`` on the way takes it for a failed attempt."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stops operations of torch, before they run, that use a live tensor or write to any other of the user's."""

    def __init__(self, places: dict[int, tuple[str, bool]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = places  # by memory: the tensor's name, and whether it is live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        for argument in func._schema.arguments:
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for leaf in filter(_has_memory, tree_leaves(given.get(argument.name))):
                name, live = self._places.get(leaf.untyped_storage()._cdata, ("", False))
                if live or (writes and name):
                    raise _Reached(name)
        return func(*args, **(kwargs or {}))


def _has_memory(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.numel() > 0


@contextmanager
def untouched(generator: nn.Module, discriminator: nn.Module) -> Iterator[None]:
    """Let nothing inside reach the user's networks: their weights, running statistics, other tensors, attributes.

    What would change a tensor is stopped, attributes are put back; the error names what was reached.
    """
    users = nn.ModuleDict({"G": unwrap(generator), "D": unwrap(discriminator)})
    names = {tensor: name for name, tensor in tensors_of(users).items()}
    live = {*trained(users["G"]), *trained(users["D"]), *running_statistics(users)}
    places = {
        tensor.untyped_storage()._cdata: (names.get(tensor, "tensors"), tensor in live)
        for tensor in sorted(filter(_has_memory, tensors_held(users)), key=live.__contains__)  # in one memory: the live
    }
    contents = [part for child in users.modules() for part in _containers(vars(child), set())]
    found, failure = "", None
    try:
        with _Watch(places):
            yield
    except _Reached as reached:
        found = str(reached)
    except Exception as error:
        failure = error
    finally:
        for holder, was in contents:
            if _ids(holder) != _ids(was):
                found = found or "attributes"
                holder.clear()
                (holder.extend if isinstance(holder, list) else holder.update)(was)
    if found:
        raise CoopInitError(
            f"The warm-up works on copies of G and D, but they reach your own {found}: a function that was set on "
            "the network (a wrapped forward, a hook, a lambda), or a hook of the Adapter, holds the original. Nothing "
            "was changed. Let it use the module that it is given, as in hook(module, input, output) or "
            "Adapter(score=lambda D, x, z, batch: ...), or set it after the warm-up."
        ) from failure
    if failure is not None:
        raise failure


def _containers(holder: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """(Container, what it holds now): the holder, and those in it."""
    if isinstance(holder, (dict, list, set)) and id(holder) not in seen:
        seen.add(id(holder))
        yield holder, copy.copy(holder)
        for value in holder.values() if isinstance(holder, dict) else holder:
            yield from _containers(value, seen)


def _ids(holder: Any) -> list[int]:
    return [id(part) for part in (*holder, *(holder.values() if isinstance(holder, dict) else ()))]


def seen(
    users: tuple[nn.Module, nn.Module], G: nn.Module, D: nn.Module, batch: Any, given: Adapter, loss_named: bool = False
) -> Adapter:
    """How G and D, copies of the user's, are called; an error if they are in the wrong order, too."""
    device = device_of(G) or torch.device("cpu")
    with untouched(*users):
        try:
            return look(G, D, batch, device, given, loss_named)
        except CoopInitError as error:
            problem = error
            with suppress(Exception):
                look(D, G, batch, device, given, loss_named)
                problem = CoopInitError(
                    f"G and D are in the wrong order: {type(users[1]).__name__}, given second, makes samples of the "
                    f"data's shape, which {type(users[0]).__name__}, given first, scores. Give the generator first."
                )
    raise problem


def prove(pair: Pair, batch: Any, device: torch.device) -> list[str]:
    """Run G and D, the copies, once in every way in which the warm-up will, so that what fails fails here.

    Returns the names of the parameters of D that no gradient reaches.
    """
    with kept(training(pair.G, pair.D), buffers(pair.G, pair.D), values(pair.D.parameters())):
        pair.G.train()
        likelihood_mode(pair.D)
        x, z, batch = pair.draw(batch, device)
        check_mask(pair.mask, x)
        leaves, nest = tree_flatten(x)
        inputs = [leaf.detach().requires_grad_() for leaf in leaves]
        with passes("D, for its gradient with respect to its input"), kept(frozen(pair.D)):
            input_gradient(lambda samples: pair.score(samples, z, batch), inputs, nest)
        with passes("D, backward"):
            missed = unreached("D", pair.D, pair.score(x, z, batch).square().mean())
        with passes(f"D, in training mode on {len(leaves[0])} samples"), torch.no_grad():
            pair.D.train()
            pair.score(x, z, batch)
        pair.after_d_step()
        if odd := [name for name, parameter in pair.D.named_parameters() if not torch.isfinite(parameter).all()]:
            raise CoopInitError(f"Adapter.after_d_step makes D's {few(odd)} NaN or infinite: does it divide by a zero?")
    return missed
