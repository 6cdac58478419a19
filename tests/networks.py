"""Small networks, loaders and layers that the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from snapshot import bits, state_bits
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin import Adapter, WarmStartConfig, warm_start

Z = 3  # size of every latent here


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same numbers every time, and no trace of it in the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mlp_pair(data: int = 2, hidden: int = 8, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    with seeded(seed):
        G = nn.Sequential(nn.Linear(Z, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, data))
        D = nn.Sequential(nn.Linear(data, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))
    return G, D


def conv_pair(*, norm: bool = True, patch: bool = False, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A DCGAN of 4×4 images with two channels."""
    with seeded(seed):
        G = nn.Sequential(
            nn.Unflatten(1, (Z, 1, 1)),
            nn.ConvTranspose2d(Z, 6, 2, bias=not norm),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 2, 4, 2, 1),
            nn.Tanh(),
        )
        D = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(5, 6, 2, 2, bias=not norm),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(6, 1, 1) if patch else nn.Sequential(nn.Conv2d(6, 1, 2), nn.Flatten()),
        )
    return G, D


def vectors(count: int = 4, size: int = 32, data: int = 2, seed: int = 0) -> list[torch.Tensor]:
    """Batches of correlated points away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(data, data, generator=generator)
    return [torch.randn(size, data, generator=generator) @ mix + 1 for _ in range(count)]


def simple_pair() -> tuple[nn.Module, nn.Module]:
    """A D of two hidden units, which cannot tell a grid of 25 Gaussians from its outline, and a G that could."""
    with seeded(0):
        G = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        D = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 1))
    return G, D


def grid() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.cartesian_prod(*[torch.arange(5.0) - 2] * 2)
    chosen = torch.randint(25, (4, 64), generator=generator)
    return list(centres[chosen] + 0.05 * torch.randn(4, 64, 2, generator=generator))


def images(count: int = 4, size: int = 32, seed: int = 0) -> list[torch.Tensor]:
    """Batches of 2×4×4 images in [−1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.tanh(torch.randn(size, 2, 4, 4, generator=generator) + 0.3) for _ in range(count)]


WEIGHT_NORMS = {
    "spectral": parametrizations.spectral_norm,
    "old spectral": nn.utils.spectral_norm,
    "weight": parametrizations.weight_norm,
    "old weight": nn.utils.weight_norm,
}


def hooks(**given) -> Adapter:
    """Every hook given, so that nothing has to be inferred."""
    plain = {
        "real": lambda batch: batch,
        "latent": lambda n, device, batch: torch.randn(n, Z, device=device),
        "generate": lambda G, z: G(z),
        "score": lambda D, x, z, batch: D(x),
    }
    return Adapter(**{**plain, **given})


def short(**given) -> WarmStartConfig:
    """Three iterations."""
    return WarmStartConfig(**{"iterations": 3, **given})


class Fuse:
    """Counts how often it is lit, in all copies of a module together, and blows at a given time."""

    def __init__(self, at: int | None = None, error: type[BaseException] = ValueError) -> None:
        self.at, self.error, self.lit = at, error, 0

    def __deepcopy__(self, memo):
        return self

    def light(self) -> None:
        self.lit += 1
        if self.lit == self.at:
            raise self.error("injected by the test")


class Fused(nn.Module):
    """Passes its input on, until its fuse blows."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def forward(self, x):
        self.fuse.light()
        return x


class FusedLoader:
    """A list of batches, endlessly, that fails at a given batch."""

    def __init__(self, batches: list, fuse: Fuse) -> None:
        self.batches, self.fuse = batches, fuse

    def __iter__(self):
        for batch in self.batches:
            self.fuse.light()
            yield batch


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def warm(G, D, loader, *, adapter=None, **given):
    config = given.pop("config", short())
    return warm_start(G, D, loader, config=config, adapter=adapter or hooks(), progress=False, **given)


def assert_warmed(result, G, D) -> None:
    """The user's networks hold the result's weights, to the bit."""
    assert state_bits(G, D) == [
        {key: bits(value) for key, value in state.items()}
        for state in (result.generator_state, result.discriminator_state)
    ]


class Counting(nn.Module):
    """Keeps a count of its calls in a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        return x


class Injected(Exception):
    """Raised by the test."""
