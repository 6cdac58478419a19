"""The one way in which anything is put back: ``with kept(training(D), buffers(G)): ...``.

Each of the functions below saves something when it is called and returns what puts it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Undo = Callable[[], None]


@contextmanager
def kept(*undos: Undo) -> Iterator[None]:
    """Call every undo at the end, the last one first, also after an error."""
    with ExitStack() as stack:
        for undo in undos:
            stack.callback(undo)
        yield


def attributes(owners: Iterable[Any], name: str) -> Undo:
    """Save one attribute of each owner."""
    saved = [(owner, getattr(owner, name)) for owner in owners]

    def undo() -> None:
        for owner, value in saved:
            setattr(owner, name, value)

    return undo


def training(*modules: nn.Module) -> Undo:
    """Save every submodule's ``training`` flag."""
    return attributes([child for module in modules for child in module.modules()], "training")


def frozen(module: nn.Module) -> Undo:
    """Save which parameters are trained, and freeze them all."""
    undo = attributes(module.parameters(), "requires_grad")
    for parameter in module.parameters():
        parameter.requires_grad = False
    return undo


def buffers(*modules: nn.Module) -> Undo:
    """Save every buffer: the same tensor comes back with the same value."""
    children = [child for module in modules for child in module.modules()]
    found = [(child, *item) for child in children for item in child._buffers.items()]
    saved = [(child, name, tensor, tensor.detach().clone()) for child, name, tensor in found if tensor is not None]

    def undo() -> None:
        for child, name, tensor, value in saved:
            child._buffers[name] = tensor.detach_().copy_(value)

    return undo


def values(tensors: Iterable[Tensor]) -> Undo:
    """Save the tensors' values."""
    saved = [(tensor, tensor.detach().clone()) for tensor in tensors]

    @torch.no_grad()
    def undo() -> None:
        for tensor, value in saved:
            tensor.copy_(value)

    return undo


def entries(mapping: MutableMapping[Any, Any]) -> Undo:
    """Save what a dictionary holds: the attributes of an object, the environment."""
    saved = dict(mapping)

    def undo() -> None:
        for key in mapping.keys() - saved.keys():
            del mapping[key]
        mapping.update(saved)

    return undo
