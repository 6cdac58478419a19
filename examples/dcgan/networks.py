"""The DCGAN of Radford et al. (2016) in its well-known PyTorch form, for images whose side is 8, 16, 32 … pixels."""

from __future__ import annotations

from torch import Tensor, nn


class Generator(nn.Module):
    """Latents (N, nz, 1, 1) to images (N, colours, size, size) in [−1, 1]."""

    def __init__(self, size: int = 8, nz: int = 64, width: int = 64, colours: int = 3) -> None:
        super().__init__()
        self.nz = nz
        doublings = size.bit_length() - 2  # from 2×2
        channels = width * 2 ** (doublings - 1)
        layers = [nn.ConvTranspose2d(nz, channels, 2, 1, 0, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
        for _ in range(doublings - 1):
            layers += [
                nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(True),
            ]
            channels //= 2
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(channels, colours, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Discriminator(nn.Module):
    """Images to the probability of being real, (N,)."""

    def __init__(self, size: int = 8, width: int = 32, batch_norm: bool = False, colours: int = 3) -> None:
        super().__init__()
        channels = width
        layers: list[nn.Module] = [nn.Conv2d(colours, channels, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for _ in range(size.bit_length() - 3):  # down to 2×2
            layers.append(nn.Conv2d(channels, channels * 2, 4, 2, 1))
            channels *= 2
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.LeakyReLU(0.2, True))
        self.main = nn.Sequential(*layers, nn.Conv2d(channels, 1, 2, 1, 0), nn.Sigmoid(), nn.Flatten(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def weights_init(module: nn.Module) -> None:
    """For ``network.apply``."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
