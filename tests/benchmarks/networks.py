"""The pairs that the benchmarks run: a DCGAN, a small StyleGAN2 and one so small that only the host's work counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu


@dataclass(frozen=True)
class Case:
    """A pair, made anew at every call, and what it is run on.

    Attributes:
        make: (G, D), as a user would build them; D gives one logit a sample, (N,).
        size: Height and width of an image, of three channels.
        batch: Samples.
        latent: Shape of one latent.
    """

    make: Callable[[], tuple[nn.Module, nn.Module]]
    size: int
    batch: int
    latent: tuple[int, ...]

    def pair(self, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
        """The same two networks at every call."""
        torch.manual_seed(0)
        G, D = self.make()
        return G.to(device), D.to(device)

    def data(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """(Images in [-1, 1], latents), one batch."""
        shape = self.batch, 3, self.size, self.size
        return torch.rand(shape, device=device) * 2 - 1, torch.randn(self.batch, *self.latent, device=device)


def dcgan(size: int, width: int = 64, z: int = 100) -> tuple[nn.Module, nn.Module]:
    """Radford et al. (2016), from and down to 4×4, BatchNorm in both."""
    widths = [width * 2**i for i in range(size.bit_length() - 3)]
    up = [nn.ConvTranspose2d(z, widths[-1], 4, bias=False), nn.BatchNorm2d(widths[-1]), nn.ReLU(True)]
    for wide, narrow in itertools.pairwise(reversed(widths)):
        up += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(True)]
    down = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for narrow, wide in itertools.pairwise(widths):
        down += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, True)]
    G = nn.Sequential(*up, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())
    D = nn.Sequential(*down, nn.Conv2d(widths[-1], 1, 4, bias=False), nn.Flatten(0))
    for layer in (*G, *D):
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return G, D


class Modulated(nn.Module):
    """A convolution whose weights each sample's style scales, then noise (Karras et al. 2020)."""

    def __init__(self, inside: int, outside: int, style: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, 3, 3))
        self.style = nn.Linear(style, inside)
        self.noise = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, _, height, width = x.shape
        weight = self.weight * (1 + self.style(w))[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), padding=1, groups=n)
        y = y.view(n, -1, height, width)
        return leaky_relu(y + self.noise * torch.randn(n, 1, height, width, device=x.device), 0.2)


class StyleG(nn.Module):
    """Latents to images by modulated convolutions, with an RGB skip at every resolution."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        style = [layer for _ in range(4) for layer in (nn.Linear(width, width), nn.LeakyReLU(0.2))]
        self.mapping = nn.Sequential(*style)
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        resolutions = size.bit_length() - 2
        self.convs = nn.ModuleList(Modulated(width, width, width) for _ in range(2 * resolutions))
        self.rgb = nn.ModuleList(nn.Conv2d(width, 3, 1) for _ in range(resolutions))

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        x, image = self.constant.expand(len(z), -1, -1, -1), None
        for i, rgb in enumerate(self.rgb):
            if image is not None:
                x, image = (interpolate(a, scale_factor=2, mode="bilinear") for a in (x, image))
            x = self.convs[2 * i + 1](self.convs[2 * i](x, w), w)
            image = rgb(x) if image is None else image + rgb(x)
        return image


class StyleD(nn.Module):
    """Residual blocks, the batch's standard deviation, two linear layers."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        blocks = range(size.bit_length() - 3)
        self.convs = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)]) for _ in blocks
        )
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in blocks)
        self.last = nn.Conv2d(width + 1, width, 3, 1, 1)
        self.ends = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(self.first(x), 0.2)
        for (first, second), skip in zip(self.convs, self.skips, strict=True):
            y = leaky_relu(second(leaky_relu(first(x), 0.2)), 0.2)
            x = (nn.functional.avg_pool2d(y, 2) + skip(nn.functional.avg_pool2d(x, 2))) / 2**0.5
        spread = (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(x), 1, *x.shape[2:])
        return self.ends(leaky_relu(self.last(torch.cat([x, spread], 1)), 0.2)).flatten()


def style_pair(size: int = 64, width: int = 32) -> tuple[nn.Module, nn.Module]:
    return StyleG(size, width), StyleD(size, width)


CASES = {
    "DCGAN 32²": Case(lambda: dcgan(32), 32, 32, (100, 1, 1)),
    "DCGAN 64²": Case(lambda: dcgan(64), 64, 32, (100, 1, 1)),
    "StyleGAN2-like 64²": Case(style_pair, 64, 16, (32,)),
    "tiny 8²": Case(lambda: dcgan(8, width=4, z=8), 8, 8, (8, 1, 1)),
}
