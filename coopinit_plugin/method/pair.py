"""What the method is given: G and D as plain callables, and the processes that share the work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Pair:
    """Plain modules G and D, and how they are called. Samples and latents are tensors or nests of tensors."""

    G: nn.Module
    D: nn.Module
    real: Callable[[Any], Any]  # (batch) -> x, the data in a batch of the loader
    latent: Callable[[int, torch.device, Any], Any]  # (n, device, batch) -> z, n latents
    generate: Callable[[Any], Any]  # (z) -> G(z), with its graph
    logits: Callable[[Any, Any, Any], Tensor]  # (x, z, batch) -> f, high on real, in D's shape, as the user's loss sees
    after_d_step: Callable[[], object]  # what the user's loop does after each step of D
    mask: Callable[[Any], Any]  # (x) -> mask, 1 where the chain may move x; None if it may everywhere

    def draw(self, batch: Any, device: torch.device) -> tuple[Any, Any, Any]:
        """(x, z, batch): the data in the batch, and as many latents."""
        x = self.real(batch)
        return x, self.latent(tree_leaves(x)[0].shape[0], device, batch), batch

    def score(self, x: Any, z: Any, batch: Any) -> Tensor:
        """f(x), one number a sample, high on real: a patch map is averaged over its positions."""
        return per_sample(self.logits(x, z, batch), tree_leaves(x)[0].shape[0])


@dataclass(frozen=True)
class Team:
    """How the processes talk. Without arguments: one process that works alone."""

    count: int = 1
    index: int = 0  # which of them this one is, from 0
    gather: Callable[[Tensor], Tensor] = lambda values: values[None]  # of every process, one row each, in their order
    average: Callable[[list[Tensor]], object] = lambda tensors: None  # each becomes, in place, the mean over all


ALONE = Team()


def per_sample(f: Tensor, n: int) -> Tensor:
    """One score a sample: patch maps averaged over positions; scores that are not per sample left as they are."""
    if f.ndim > 1 and f.shape[0] == n:
        return f.flatten() if f.numel() == n else f.flatten(1).mean(1)
    return f.flatten()


def detached(x: Any) -> Any:
    """The samples without their graph."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)


def release_graphs(module: nn.Module) -> None:
    """Detach buffers that kept the graph of an earlier pass, which a second backward would run into."""
    for buffer in module.buffers():
        if buffer.grad_fn is not None:
            buffer.detach_()
