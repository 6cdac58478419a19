"""A GAN small enough for a pilot of seconds."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import softplus


def data(count: int = 640, batch: int = 32) -> list:
    """Batches (x, label) of two clusters in the plane."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (count,), generator=generator)
    x = 0.3 * torch.randn(count, 2, generator=generator) + 2.0 * label[:, None] - 1
    return [list(part) for part in zip(x.split(batch), label.split(batch), strict=True)]


def make(seed: int) -> tuple:
    torch.manual_seed(seed)
    G = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
    D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    return G, D, torch.optim.Adam(G.parameters(), 1e-3), torch.optim.Adam(D.parameters(), 1e-3)


def step(G, D, batch, adam_g, adam_d) -> dict:
    real = batch[0]
    fake = G(torch.randn(len(real), 4))
    loss_d = softplus(-D(real)).mean() + softplus(D(fake.detach())).mean()
    adam_d.zero_grad()
    loss_d.backward()
    adam_d.step()
    loss_g = softplus(-D(fake)).mean()
    adam_g.zero_grad()
    loss_g.backward()
    adam_g.step()
    return {"d": loss_d, "g": loss_g.item()}
