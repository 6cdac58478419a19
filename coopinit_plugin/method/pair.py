"""What the method asks of G and D: samples, scores, and what goes in and out of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.nests import move


@dataclass
class Pair:
    """G and D bound to a complete adapter: the calls of the warm-up.

    Attributes:
        G: The generator, plain.
        D: The discriminator, plain; the chain runs on it.
        adapter: All four hooks given.
        precision: The context in which both are run, e.g. autocast; what comes out is in single precision.
    """

    G: nn.Module
    D: nn.Module
    adapter: Adapter
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    _copies_input: bool | None = None  # whether D's first layer works in place, which its first pass shows

    def real(self, batch: Any) -> Any:
        """The data in one batch."""
        assert self.adapter.real is not None
        return move(self.adapter.real(batch), None)

    def latent(self, n: int, device: torch.device, batch: Any) -> Any:
        """As many latents as there are samples, on the device."""
        assert self.adapter.latent is not None
        return move(self.adapter.latent(n, device, batch), device)

    def draw(self, batch: Any, device: torch.device) -> tuple[Any, Any, Any]:
        """(x, z, batch): the data in the batch, and as many latents."""
        x = self.real(batch)
        return x, self.latent(tree_leaves(x)[0].shape[0], device, batch), batch

    def generate(self, z: Any) -> Any:
        """G(z), the graph kept; z goes in as a container of its own, for G's that change it."""
        assert self.adapter.generate is not None
        release_graphs(self.G)
        with self.precision():
            made = self.adapter.generate(self.G, fresh(z))
        return move(made, None)

    def score(self, x: Any, z: Any, batch: Any) -> Tensor:
        """f(x), high on real, patch maps averaged."""
        return per_sample(self.logits(x, z, batch), tree_leaves(x)[0].shape[0])

    def after_d_step(self) -> None:
        """What the user's loop does after each step of D."""
        if self.adapter.after_d_step is not None:
            self.adapter.after_d_step(self.D)

    def mask(self, x: Any) -> Any:
        """1 where the chain may move x, or ``None``."""
        given = self.adapter.mask
        return given(x) if callable(given) else given

    @staticmethod
    def detached(x: Any) -> Any:
        """The samples without their graph."""
        return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, x)

    def logits(self, x: Any, z: Any, batch: Any) -> Tensor:
        """The numbers that f(x) is the average of, in the shape that D gives them: what the user's loss sees."""
        assert self.adapter.score is not None
        if self._copies_input is not False:
            x = tree_map(torch.clone, x)
        with self.precision():
            f = move(self.adapter.score(self.D, x, fresh(z), batch), None)
        if self._copies_input is None:
            self._copies_input = any(leaf._version for leaf in tree_leaves(x))
        return f if self.adapter.real_is_high else -f


def per_sample(f: Tensor, n: int) -> Tensor:
    """One score a sample: patch maps averaged over positions; scores that are not per sample left as they are."""
    if f.ndim > 1 and f.shape[0] == n:
        return f.flatten() if f.numel() == n else f.flatten(1).mean(1)
    return f.flatten()


def fresh(z: Any) -> Any:
    """The same tensors in new containers."""
    return z if isinstance(z, Tensor) else tree_map(lambda leaf: leaf, z)


def release_graphs(module: nn.Module) -> None:
    """Detach buffers that kept the graph of an earlier pass, which a second backward would run into."""
    for buffer in module.buffers():
        if buffer.grad_fn is not None:
            buffer.detach_()


@contextmanager
def executed(module: nn.Module, seen: list[tuple[str, nn.Module, Any, Any]]) -> Iterator[None]:
    """Record every submodule's call, in the order in which the calls end: (name, module, inputs, output)."""
    handles = [
        child.register_forward_hook(lambda m, given, output, name=name: seen.append((name, m, given, output)))
        for name, child in module.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
