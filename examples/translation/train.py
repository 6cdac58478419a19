"""One-sided translation as in CUT, as its user has it, and the three lines that give it a warm start."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.functional import mse_loss

import coopinit_plugin  # ← added, 1 of 3
from examples.translation.networks import PatchNCE

LR, BETAS = 2e-4, (0.5, 0.999)


def train(
    netG: nn.Module,
    netD: nn.Module,
    loader: Iterable,
    keep_going: Callable[[int], bool],
    warm_start: bool = True,
) -> coopinit_plugin.WarmStart | None:
    """Train for as long as `keep_going` says; it is told the number of iterations done, 0 at first."""
    netF = PatchNCE(netG.widths)
    optimizer_G = torch.optim.Adam([*netG.parameters(), *netF.parameters()], LR, BETAS)
    optimizer_D = torch.optim.Adam(netD.parameters(), LR, BETAS)

    result = None
    if warm_start:
        adapter = coopinit_plugin.presets.cyclegan()  # ← added, 2 of 3: G translates batch["A"], batch["B"] is real
        result = coopinit_plugin.warm_start(netG, netD, loader, adapter=adapter)  # ← added, 3 of 3

    step = 0
    while True:
        for batch in loader:
            if not keep_going(step):
                return result
            real_A, real_B = batch["A"], batch["B"]
            fake_B = netG(real_A)

            f_real, f_fake = netD(real_B), netD(fake_B.detach())
            loss_D = (mse_loss(f_real, torch.ones_like(f_real)) + mse_loss(f_fake, torch.zeros_like(f_fake))) / 2
            optimizer_D.zero_grad()
            loss_D.backward()
            optimizer_D.step()

            f_fake = netD(fake_B)
            loss_GAN = mse_loss(f_fake, torch.ones_like(f_fake))
            loss_NCE = netF(netG.features(fake_B), netG.features(real_A))
            loss_identity = netF(netG.features(netG(real_B)), netG.features(real_B))
            optimizer_G.zero_grad()
            (loss_GAN + (loss_NCE + loss_identity) / 2).backward()
            optimizer_G.step()
            step += 1
