"""The pairs of networks: the DCGAN of examples/dcgan with D's ends and norms exchanged, a 1-D DCGAN, an MLP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from examples.dcgan.networks import Discriminator, Generator

Pair = tuple[nn.Module, nn.Module]


def initialise(module: nn.Module) -> None:
    """DCGAN's normal(0, 0.02), for ``network.apply``."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def finished(G: nn.Module, D: nn.Module, norm: str, sigmoid: bool) -> Pair:
    """Both initialised; D with spectral norm on every layer, and its final sigmoid, only where they are wanted."""
    G.apply(initialise)
    D.apply(initialise)
    if not sigmoid:
        D.main = nn.Sequential(*(layer for layer in D.main if not isinstance(layer, nn.Sigmoid)))
    if norm == "spectral":
        for layer in list(D.modules()):
            if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                spectral_norm(layer)
    return G, D


def images(size: int, norm: str, g_width: float, d_width: float, sigmoid: bool) -> Pair:
    G = Generator(size, width=int(64 * g_width))
    D = Discriminator(size, width=int(32 * d_width), batch_norm=norm == "batch")
    return finished(G, D, norm, sigmoid)


def series(norm: str, g_width: float, d_width: float, sigmoid: bool) -> Pair:
    return finished(Generator1d(int(64 * g_width)), Discriminator1d(int(32 * d_width), norm == "batch"), norm, sigmoid)


def vectors(size: int, norm: str, g_width: float, d_width: float, sigmoid: bool) -> Pair:
    return finished(
        MLPGenerator(size, int(128 * g_width)),
        MLPDiscriminator(size, int(128 * d_width), norm == "batch"),
        norm,
        sigmoid,
    )


class Generator1d(nn.Module):
    """Latents (N, 64, 1) to series (N, 3, 32)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nz = 64
        layers: list[nn.Module] = []
        into = self.nz
        for channels, (kernel, stride, padding) in zip(
            (4 * width, 2 * width, width), ((4, 1, 0), (4, 2, 1), (4, 2, 1)), strict=True
        ):
            layers += [nn.ConvTranspose1d(into, channels, kernel, stride, padding, bias=False)]
            layers += [nn.BatchNorm1d(channels), nn.ReLU(True)]
            into = channels
        self.main = nn.Sequential(*layers, nn.ConvTranspose1d(into, 3, 4, 2, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Discriminator1d(nn.Module):
    """Series to the probability of being real, (N,)."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for channels in (width, 2 * width):
            layers.append(nn.Conv1d(channels, 2 * channels, 4, 2, 1))
            layers += [nn.BatchNorm1d(2 * channels)] if batch_norm else []
            layers.append(nn.LeakyReLU(0.2, True))
        self.main = nn.Sequential(*layers, nn.Conv1d(4 * width, 1, 4, 1, 0), nn.Sigmoid(), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class MLPGenerator(nn.Module):
    """Latents (N, 64) to vectors (N, size)."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.nz = 64
        self.main = nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(True),
            nn.Linear(width, width),
            nn.ReLU(True),
            nn.Linear(width, width),
            nn.ReLU(True),
            nn.Linear(width, size),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class MLPDiscriminator(nn.Module):
    """Vectors to the probability of being real, (N,)."""

    def __init__(self, size: int, width: int, batch_norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(size, width), nn.LeakyReLU(0.2, True)]
        for _ in range(2):
            layers.append(nn.Linear(width, width))
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers.append(nn.LeakyReLU(0.2, True))
        self.main = nn.Sequential(*layers, nn.Linear(width, 1), nn.Sigmoid(), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)
