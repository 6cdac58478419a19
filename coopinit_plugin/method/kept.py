"""``with kept(training(D), buffers(G)): ...``: each function saves something at once and gives what puts it back."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

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
    return _each(setattr, [(owner, name, getattr(owner, name)) for owner in owners])


def training(*modules: nn.Module) -> Undo:
    """Save every submodule's ``training`` flag."""
    return attributes([child for module in modules for child in module.modules()], "training")


def frozen(module: nn.Module) -> Undo:
    """Save which parameters are trained, and freeze them all."""
    undo = attributes(module.parameters(), "requires_grad")
    for parameter in module.parameters():
        parameter.requires_grad = False
    return undo


def write(tensors: Iterable[Tensor], saved: Iterable[Tensor]) -> None:
    """Write saved values into the tensors."""
    for tensor, value in zip(tensors, saved, strict=True):
        tensor.detach().copy_(value)


def values(tensors: Iterable[Tensor]) -> Undo:
    """Save the tensors' values."""
    live = [*tensors]
    return partial(write, live, [tensor.detach().clone() for tensor in live])


def buffers(*modules: nn.Module) -> Undo:
    """Save every buffer: the same tensor comes back with the same value."""

    def put_back(child: nn.Module, name: str, tensor: Tensor, value: Tensor) -> None:
        child._buffers[name] = tensor.detach_().copy_(value)

    children = [child for module in modules for child in module.modules()]
    found = [(child, name, tensor) for child in children for name, tensor in child._buffers.items()]
    saved = [(child, name, tensor, tensor.detach().clone()) for child, name, tensor in found if tensor is not None]
    return _each(put_back, saved)


def entries(mapping: MutableMapping[Any, Any]) -> Undo:
    """Save what a dictionary holds: the attributes of an object, the environment."""
    saved = dict(mapping)

    def undo() -> None:
        for key in mapping.keys() - saved.keys():
            del mapping[key]
        mapping.update(saved)

    return undo


def _each(put_back: Callable[..., object], saved: list[tuple[Any, ...]]) -> Undo:
    def undo() -> None:
        for given in saved:
            put_back(*given)

    return undo
