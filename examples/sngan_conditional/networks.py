"""A class-conditional SNGAN (Miyato and Koyama 2018) for small images: conditional BatchNorm in G, a projecting D."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm whose scale and shift belong to the class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x) * self.scale(y)[:, :, None, None] + self.shift(y)[:, :, None, None]


class GBlock(nn.Module):
    """Residual block that doubles the side."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (ConditionalBatchNorm2d(channels, classes) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(h, y))) + F.interpolate(x, scale_factor=2)


class Generator(nn.Module):
    """Latents (N, nz) and labels (N,) to images (N, channels, S, S) in [−1, 1], S = 2 · 2^blocks."""

    def __init__(self, classes: int = 10, nz: int = 64, width: int = 32, channels: int = 1, blocks: int = 2) -> None:
        super().__init__()
        self.nz, self.classes = nz, classes
        self.linear = nn.Linear(nz, width * 2 * 2)
        self.blocks = nn.ModuleList(GBlock(width, classes) for _ in range(blocks))
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(z).reshape(len(z), -1, 2, 2)
        for block in self.blocks:
            h = block(h, y)
        return self.out(F.relu(self.norm(h))).tanh()


class DBlock(nn.Module):
    """Residual block that halves the side."""

    def __init__(self, into: int, channels: int) -> None:
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(into, channels, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(into, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(F.relu(x))))
        return F.avg_pool2d(h, 2) + F.avg_pool2d(self.skip(x), 2)


class Discriminator(nn.Module):
    """Images and labels to logits (N, 1): a judgement of the image plus the projection of its features on its class."""

    def __init__(self, classes: int = 10, width: int = 32, channels: int = 1, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DBlock(width if index else channels, width) for index in range(blocks)))
        self.linear = spectral_norm(nn.Linear(width, 1))
        self.embedding = spectral_norm(nn.Embedding(classes, width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.relu(self.blocks(x)).sum((2, 3))
        return self.linear(h) + (self.embedding(y) * h).sum(1, keepdim=True)


def pair(
    seed: int, classes: int = 10, channels: int = 1, blocks: int = 2, width: int = 32
) -> tuple[Generator, Discriminator]:
    """G and D, freshly initialised."""
    torch.manual_seed(seed)
    sizes = {"width": width, "channels": channels, "blocks": blocks}
    return Generator(classes, **sizes), Discriminator(classes, **sizes)
