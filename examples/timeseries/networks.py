"""A one-dimensional DCGAN in its usual form, and the detector: a small one-dimensional CNN."""

from __future__ import annotations

from torch import Tensor, nn


class Generator(nn.Module):
    """Latents (N, nz) to windows (N, channels, 64)."""

    def __init__(self, nz: int = 64, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.nz = nz
        self.project = nn.Linear(nz, 4 * width * 8)
        self.main = nn.Sequential(
            nn.BatchNorm1d(4 * width),
            nn.ReLU(True),
            nn.ConvTranspose1d(4 * width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose1d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(True),
            nn.ConvTranspose1d(width, channels, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.main(self.project(z).reshape(len(z), -1, 8))


class Discriminator(nn.Module):
    """Windows to the probability of being real, (N, 1)."""

    def __init__(self, width: int = 32, batch_norm: bool = False, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for into in (width, 2 * width):
            layers.append(nn.Conv1d(into, 2 * into, 4, 2, 1))
            layers += [nn.BatchNorm1d(2 * into)] if batch_norm else []
            layers.append(nn.LeakyReLU(0.2, True))
        self.main = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 8, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def detector(channels: int = 3, width: int = 16) -> nn.Module:
    """Windows to the logit of a defect, (N, 1)."""
    return nn.Sequential(
        nn.Conv1d(channels, width, 7, padding=3),
        nn.BatchNorm1d(width),
        nn.ReLU(True),
        nn.MaxPool1d(2),
        nn.Conv1d(width, 2 * width, 5, padding=2),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(True),
        nn.MaxPool1d(2),
        nn.Conv1d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(True),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 1),
    )
