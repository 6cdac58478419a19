"""G's weights averaged over the last iterations: the generator that is handed over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coopinit_plugin.method.energy_mode import running_statistics


class AveragedGenerator:
    """The running mean of G's weights, and of its running statistics; its other buffers are left as they are.

    Taught by noisy targets, G's weights circle about where they are going; their mean lies nearer (Polyak & Juditsky
    1992; for GANs Yazıcı et al. 2019). The first iterations are averaged evenly; in the later ones `decay` is the share
    of the mean that is kept, and 0 hands over the last iteration. Layers that G shares with D are left alone.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, decay: float) -> None:
        shared = {id(parameter) for parameter in discriminator.parameters()}
        trained = [p for p in generator.parameters() if p.requires_grad and id(p) not in shared]
        self._decay = decay
        self.live: list[Tensor] = [*trained, *running_statistics(generator)] if decay > 0 else []  # G's own
        self.tensors = [tensor.detach().clone() for tensor in self.live]  # their means

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take what an iteration, counted from 1, has made of G."""
        if self.tensors:
            torch._foreach_lerp_(self.tensors, self.live, max(1 - self._decay, 1 / iteration))

    @torch.no_grad()
    def hand_over(self) -> None:
        """Write the mean into G."""
        for tensor, mean in zip(self.live, self.tensors, strict=True):
            tensor.copy_(mean)
