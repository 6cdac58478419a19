"""A small ResNet generator, a patch discriminator, and the heads that compare patches, as in CUT (Park et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

PATCHES, TEMPERATURE = 32, 0.07


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Generator(nn.Module):
    """Images (N, C, S, S) to images; its first half is the encoder whose features the patches are compared by."""

    def __init__(self, width: int = 32, channels: int = 1) -> None:
        super().__init__()
        self.widths = (width, 2 * width)
        self.start = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU(), Residual(2 * width)
        )
        self.up = nn.Sequential(
            *(Residual(2 * width) for _ in range(2)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )

    def features(self, x: Tensor) -> list[Tensor]:
        first = self.start(x)
        return [first, self.down(first)]

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.features(x)[-1])


class Discriminator(nn.Sequential):
    """Images to a map of logits (N, 1, S/4, S/4), each of a patch."""

    def __init__(self, width: int = 32, channels: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.InstanceNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )


class PatchNCE(nn.Module):
    """A patch of the translation shall be more like the source's patch at its place than like any other of it."""

    def __init__(self, widths: Sequence[int], out: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(w, out), nn.ReLU(), nn.Linear(out, out)) for w in widths)

    def forward(self, made: list[Tensor], source: list[Tensor]) -> Tensor:
        losses = []
        for head, of_made, of_source in zip(self.heads, made, source, strict=True):
            places = torch.randperm(of_made[0, 0].numel())[:PATCHES]
            query, key = (normalize(head(f.flatten(2)[..., places].mT), dim=-1) for f in (of_made, of_source.detach()))
            alike = query @ key.mT / TEMPERATURE
            losses.append(cross_entropy(alike.flatten(0, 1), torch.arange(len(places)).repeat(len(alike))))
        return torch.stack(losses).mean()
