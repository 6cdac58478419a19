"""Passes through the copies under guard: how they are called, and proof that they alone compute."""

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
from coopinit_plugin.calling.proof import unreached
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.copies import trained
from coopinit_plugin.host.networks import device_of, tensors_of, unwrap
from coopinit_plugin.method.energy_mode import likelihood_mode, running_statistics
from coopinit_plugin.method.kept import buffers, frozen, kept, training, values
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.nests import first_line

Users = tuple[nn.Module, nn.Module]  # the user's own G and D


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
