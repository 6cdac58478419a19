"""The Trainer of a GAN library as its user has it: it owns optimizers, loss and loop, and knows no warm start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Trainer:
    """Hinge loss, `n_dis` steps of D for each one of G.

    Args:
        netD: ``netD(x, y)`` to logits.
        netG: ``netG(z, y)`` to images.
        dataloader: Batches of (images, labels).
        n_dis: Steps of D.
        lr: Adam's, for both.
        betas: Adam's, for both.
        on_step: Told the number of G's steps done, 0 at first; ends the training by returning ``False``.
    """

    def __init__(
        self,
        netD: nn.Module,
        netG: nn.Module,
        dataloader: Iterable,
        on_step: Callable[[int], bool],
        n_dis: int = 5,
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.0, 0.9),
    ) -> None:
        self.netD, self.netG, self.dataloader = netD, netG, dataloader
        self.on_step, self.n_dis = on_step, n_dis
        self.optD = torch.optim.Adam(netD.parameters(), lr, betas)
        self.optG = torch.optim.Adam(netG.parameters(), lr, betas)

    def train(self) -> None:
        batches, step = self._batches(), 0
        while self.on_step(step):
            for _ in range(self.n_dis):
                self._train_d(*next(batches))
            self._train_g(len(next(batches)[0]))
            step += 1

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.dataloader

    def _fake(self, n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(self.netG.classes, (n,))
        return self.netG(torch.randn(n, self.netG.nz), y), y

    def _train_d(self, x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            fake, fake_y = self._fake(len(x))
        loss = F.relu(1 - self.netD(x, y)).mean() + F.relu(1 + self.netD(fake, fake_y)).mean()
        self.optD.zero_grad()
        loss.backward()
        self.optD.step()

    def _train_g(self, n: int) -> None:
        fake, fake_y = self._fake(n)
        loss = -self.netD(fake, fake_y).mean()
        self.optG.zero_grad()
        loss.backward()
        self.optG.step()
