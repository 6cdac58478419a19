"""A DCGAN, ready to be trained from a random or from a warm start."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.dcgan.data import Task
from examples.dcgan.networks import Discriminator, Generator
from examples.dcgan.train import train
from examples.helpers.runs import Run

BATCH = 64


def start(task: Task, seed: int, *, warm: bool, width: float = 1.0, batch_norm: bool = False) -> Run:
    """A run of `task`; `width` is the networks' channels as a share of the usual ones."""
    torch.manual_seed(seed)
    if task.networks is not None:
        G, D = task.networks()
    else:
        G = Generator(task.size, width=int(64 * width))
        D = Discriminator(task.size, width=int(32 * width), batch_norm=batch_norm)
    loader = DataLoader(task.dataset, BATCH, shuffle=True, drop_last=True)
    return Run(
        task,
        seed,
        warm,
        loop=lambda keep_going: train(G, D, loader, keep_going, warm_start=warm),
        sample=lambda: sample(G, task.samples),
    )


@torch.no_grad()
def sample(G: nn.Module, n: int) -> Tensor:
    """`n` samples, always from the same latents, G in evaluation mode; torch's own random state stays as it is."""
    z = torch.randn(n, G.nz, 1, 1, generator=torch.Generator().manual_seed(0))
    G.eval()
    samples = torch.cat([G(part) for part in z.split(1000)])
    G.train()
    return samples
