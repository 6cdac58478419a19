"""Unconditional images and volumes: how G takes its latent, and layers that trip a warm-up."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from zoo.entry import Entry, Module, N, batches, hinge, net


def image_g(channels: int = 3, z: int = 4, norm: bool = True) -> nn.Sequential:
    """A DCGAN G to 8×8 from (N, z, 1, 1)."""
    return net(
        nn.ConvTranspose2d(z, 6, 4),
        *([nn.BatchNorm2d(6)] if norm else []),
        nn.ReLU(True),
        nn.ConvTranspose2d(6, channels, 4, 2, 1),
        nn.Tanh(),
    )


def image_d(channels: int = 3, norm: bool = True, *, end: int = 1) -> nn.Sequential:
    """A DCGAN D of 8×8: (N, end, 1, 1)."""
    return net(
        nn.Conv2d(channels, 5, 4, 2, 1),
        *([nn.BatchNorm2d(5)] if norm else []),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(5, end, 4),
    )


class FlatG(Module):
    """(N, d) through a Linear, then reshaped; the width stands in an attribute."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(z_dim=4, project=nn.Linear(4, 6 * 16), up=nn.ConvTranspose2d(6, channels, 4, 2, 1))

    def forward(self, z):
        return torch.tanh(self.up(self.project(z).view(-1, 6, 4, 4).relu()))


class StyleG(Module):
    """``G([z]) -> (image, latents)``; the list is changed in place, as in rosinality's."""

    def __init__(self) -> None:
        super().__init__(
            style=net(nn.Linear(4, 6), nn.LeakyReLU(0.2)),
            constant=nn.Parameter(torch.randn(1, 6, 4, 4)),
            up=nn.ConvTranspose2d(6, 3, 4, 2, 1),
        )
        self.style_dim = 4

    def forward(self, styles, return_latents=False, noise=None):
        styles[0] = self.style(styles[0])
        x = self.constant * styles[0][:, :, None, None]
        x = x + 0.1 * torch.randn_like(x)  # noise drawn inside
        return self.up(x), None


class StddevD(Module):
    """Minibatch standard deviation in groups of four."""

    def __init__(self) -> None:
        super().__init__(conv=nn.Conv2d(3, 5, 4, 2, 1), minibatch_stddev=MinibatchStdDev(), end=nn.Linear(6 * 16, 1))

    def forward(self, x):
        return self.end(self.minibatch_stddev(self.conv(x).relu()).flatten(1))


class MinibatchStdDev(nn.Module):
    def forward(self, x):
        y = x.view(4, -1, *x.shape[1:])
        y = (y.var(0, correction=0) + 1e-8).sqrt().mean([1, 2, 3]).repeat(4)
        return torch.cat([x, y[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


class MappingLastG(Module):
    """Layers registered in another order than they run; only the attribute tells the latent."""

    def __init__(self) -> None:
        super().__init__(synthesis=nn.ConvTranspose2d(6, 3, 4, 2, 1), mapping=nn.Linear(4, 6 * 16))
        self.latent_size = 4

    def forward(self, z):
        return self.synthesis(self.mapping(z).view(-1, 6, 4, 4))


class GraphBufferG(FlatG):
    """A buffer that keeps the graph of the last pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(6))

    def forward(self, z):
        h = self.project(z).view(-1, 6, 4, 4)
        self.average = 0.9 * self.average + 0.1 * h.mean([0, 2, 3])
        return torch.tanh(self.up(h - 0.01 * self.average[None, :, None, None]))


class KeepsFeaturesD(Module):
    """Outputs kept as attributes, which ``copy.deepcopy`` refuses."""

    def __init__(self) -> None:
        super().__init__(conv=nn.Conv2d(3, 5, 4, 2, 1), end=nn.Conv2d(5, 1, 4))
        self.features = None

    def forward(self, x):
        self.features = self.conv(x).relu()
        return self.end(self.features).flatten()


class InPlaceFirstD(Module):
    """Its first operation changes x."""

    def __init__(self) -> None:
        super().__init__(end=nn.Conv2d(3, 1, 8))

    def forward(self, x):
        x.mul_(0.5)
        return self.end(x).flatten(1)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def old_sn(module: nn.Module) -> nn.Module:
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            old_spectral_norm(layer)
    return module


def new_sn(module: nn.Module) -> nn.Module:
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            spectral_norm(layer)
    return module


def weighted(module: nn.Module) -> nn.Module:
    weight_norm(module.project)
    return module


def volume_pair() -> tuple[nn.Module, nn.Module]:
    G = net(nn.ConvTranspose3d(4, 5, 2), nn.ReLU(), nn.ConvTranspose3d(5, 1, 4, 2, 1), nn.Tanh())
    return G, net(nn.Conv3d(1, 5, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv3d(5, 1, 2))


def odd_pair() -> tuple[nn.Module, nn.Module]:
    """7×5 images."""
    G = net(nn.Linear(4, 35), nn.Tanh(), nn.Unflatten(1, (1, 7, 5)))
    return G, net(nn.Flatten(), nn.Linear(35, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))


SQUARE = ((N, 4, 1, 1),)

ENTRIES = [
    Entry("DCGAN, (N, d, 1, 1)", lambda: (image_g(), image_d(), batches(3, 8, 8)), SQUARE, shows=("BatchNorm2d",)),
    Entry("grey images", lambda: (image_g(1), image_d(1), batches(1, 8, 8)), SQUARE),
    Entry("two channels", lambda: (image_g(2), image_d(2), batches(2, 8, 8)), SQUARE),
    Entry("four channels", lambda: (image_g(4), image_d(4), batches(4, 8, 8)), SQUARE),
    Entry("odd sizes, dropout in D", lambda: (*odd_pair(), batches(1, 7, 5)), shows=("Dropout",)),
    Entry("volumes", lambda: (*volume_pair(), batches(1, 4, 4, 4)), ((N, 4, 1, 1, 1),)),
    Entry("(N, d) and an attribute", lambda: (FlatG(), image_d(), batches(3, 8, 8)), shows=("G.z_dim = 4",)),
    Entry("G([z]) -> (image, ...)", lambda: (StyleG(), image_d(), batches(3, 8, 8)), shows=("out[0]",)),
    Entry("mapping registered last", lambda: (MappingLastG(), image_d(), batches(3, 8, 8)), shows=("latent_size",)),
    Entry("minibatch statistics", lambda: (FlatG(), StddevD(), batches(3, 8, 8)), shows=("MinibatchStdDev",)),
    Entry("buffer keeping its graph", lambda: (GraphBufferG(), image_d(), batches(3, 8, 8))),
    Entry("D keeping its features", lambda: (FlatG(), KeepsFeaturesD(), batches(3, 8, 8))),
    Entry(
        "first layer in place",
        lambda: (FlatG(), InPlaceFirstD(), batches(3, 8, 8)),
        logit=lambda D, x, batch: D(x.clone()),
    ),
    Entry(
        "old spectral norm",
        lambda: (FlatG(), old_sn(image_d(norm=False)), batches(3, 8, 8)),
        d_loss=hinge,
        shows=("SpectralNorm",),
    ),
    Entry(
        "new spectral norm",
        lambda: (FlatG(), new_sn(image_d(norm=False)), batches(3, 8, 8)),
        d_loss=hinge,
        shows=("SpectralNorm",),
    ),
    Entry(
        "weight norm in G",
        lambda: (weighted(FlatG()), image_d(), batches(3, 8, 8)),
        shows=("WeightNorm",),
    ),
    Entry("frozen as built", lambda: (frozen(FlatG()), frozen(image_d()), batches(3, 8, 8)), shows=("all frozen",)),
    Entry(
        "DataParallel",
        lambda: (nn.DataParallel(FlatG()), nn.DataParallel(image_d()), batches(3, 8, 8)),
        shows=("seen through, to FlatG",),
    ),
    Entry(
        "torch.compile",
        lambda: (
            torch.compile(FlatG(), backend="eager"),
            torch.compile(image_d(norm=False), backend="eager"),
            batches(3, 8, 8),
        ),
        shows=("seen through, to FlatG",),
    ),
]
