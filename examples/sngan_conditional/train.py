"""The training script as its user has it, and the three lines that give it a warm start."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

import coopinit_plugin  # ← added, 1 of 3
from examples.sngan_conditional.trainer import Trainer


def train(
    netG: nn.Module,
    netD: nn.Module,
    dataloader: Iterable,
    keep_going: Callable[[int], bool],
    warm_start: bool = True,
) -> coopinit_plugin.WarmStart | None:
    """Train for as long as `keep_going` says; it is told the number of iterations done, 0 at first."""
    trainer = Trainer(netD, netG, dataloader, on_step=keep_going)

    result = None
    if warm_start:
        config = coopinit_plugin.WarmStartConfig(handover="hinge")  # ← added, 2 of 3: the loss that follows
        result = coopinit_plugin.warm_start(netG, netD, dataloader, config=config)  # ← added, 3 of 3

    trainer.train()
    return result
