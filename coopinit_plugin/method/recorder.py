"""Which submodules a forward pass calls, in which order, with what."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass
class Call:
    """One call of a submodule."""

    name: str  # empty for the network itself
    module: nn.Module
    output: Any = None  # None while it runs or if it failed
    shape: tuple[int, ...] | None = None  # of its first argument, None if that is no tensor
    dtype: torch.dtype | None = None  # of the same


@dataclass
class Record:
    """The calls of a pass."""

    begun: list[Call] = field(default_factory=list)  # in the order in which they began; those that failed, too
    ended: list[Call] = field(default_factory=list)  # in the order in which they ended


@contextmanager
def recorded(network: nn.Module) -> Iterator[Record]:
    """Record the calls of `network` and of all its submodules inside the context; TorchScript takes no hooks."""
    record, running = Record(), list[Call]()
    named = [(name, m) for name, m in network.named_modules() if not isinstance(m, torch.jit.ScriptModule)]

    def begin(name: str, module: nn.Module, given: Any) -> None:  # no table of modules: torch.compile traces hooks
        call = Call(name, module)
        if given and isinstance(given[0], Tensor):
            call.shape, call.dtype = tuple(given[0].shape), given[0].dtype
        running.append(call)
        record.begun.append(call)

    def end(module: nn.Module, given: Any, output: Any) -> None:
        while running and (call := running.pop()).module is not module:
            pass  # a call inside this one that failed, and was caught
        call.output = output
        record.ended.append(call)

    handles = [child.register_forward_pre_hook(partial(begin, name)) for name, child in named]
    handles += [child.register_forward_hook(end) for _, child in named]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def traced(network: nn.Module, f: Callable[[], Tensor]) -> tuple[Tensor, list[nn.Module], float]:
    """What f gives, the modules it called, in their order, and the relative rounding of their coarsest number."""
    with recorded(network) as record:
        output = f()
    given = [leaf for call in record.ended for leaf in tree_leaves(call.output) if isinstance(leaf, Tensor)]
    rounding = max((torch.finfo(leaf.dtype).eps for leaf in given if leaf.is_floating_point()), default=0.0)
    return output, [call.module for call in record.ended], rounding
