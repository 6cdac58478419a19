"""The training loop of a GAN on windows of a signal as its user has it, and the two lines that give it a warm start."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

import coopinit_plugin  # ← added, 1 of 2


def train(
    G: nn.Module,
    D: nn.Module,
    loader: Iterable,
    keep_going: Callable[[int], bool],
    warm_start: bool = True,
) -> coopinit_plugin.WarmStart | None:
    """Train for as long as `keep_going` says; it is told the number of iterations done, 0 at first."""
    bce = nn.BCELoss()
    optimizer_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))

    result = None
    if warm_start:
        result = coopinit_plugin.warm_start(G, D, loader)  # ← added, 2 of 2

    iterations, going = 0, keep_going(0)
    while going:
        for (real,) in loader:
            fake = G(torch.randn(len(real), G.nz))
            p_real, p_fake = D(real), D(fake.detach())
            loss_d = bce(p_real, torch.ones_like(p_real)) + bce(p_fake, torch.zeros_like(p_fake))
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()

            p_fake = D(fake)
            loss_g = bce(p_fake, torch.ones_like(p_fake))
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()

            iterations += 1
            going = keep_going(iterations)
            if not going:
                break
    return result
