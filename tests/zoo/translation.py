"""Image to image: G starts from an image of the batch."""

from __future__ import annotations

import torch
from torch import nn

from zoo.entry import Entry, Module, N, least_squares, net


class UNet(Module):
    """Two scales, dropout that stays on, a skip."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__(down=nn.Conv2d(source, 6, 4, 2, 1), drop=nn.Dropout(0.5), up=nn.ConvTranspose2d(6, 6, 4, 2, 1))
        self.out = nn.Conv2d(6 + source, target, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.out(torch.cat([self.up(self.drop(self.down(x)).relu()), x], 1)))


def patch_d(channels: int) -> nn.Module:
    return net(nn.Conv2d(channels, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(6, 1, 3, padding=1))


def pairs(source: int, target: int, scale: int = 1) -> list[dict[str, object]]:
    return [
        {
            "A": torch.rand(N, source, 8, 8) * 2 - 1,
            "B": torch.rand(N, target, 8 * scale, 8 * scale) * 2 - 1,
            "A_paths": [""] * N,
        }
        for _ in range(2)
    ]


class UpscaleG(Module):
    def __init__(self) -> None:
        super().__init__(conv=nn.Conv2d(3, 6, 3, padding=1), up=nn.ConvTranspose2d(6, 3, 4, 2, 1))

    def forward(self, x):
        return self.up(self.conv(x).relu())


def of(key):
    """A hook that gives G a tensor of the batch."""
    return lambda n, device, batch: batch[key]


SOURCE = ((N, 1, 8, 8),)

ENTRIES = [
    Entry(
        "told apart by channels, dict",
        lambda: (UNet(1, 3), patch_d(3), pairs(1, 3)),
        SOURCE,
        real=lambda batch: batch["B"],
        adapter={"latent": of("A")},
        d_loss=least_squares,
    ),
    Entry(
        "told apart by channels, tuple",
        lambda: (UNet(1, 3), patch_d(3), [(b["B"], b["A"]) for b in pairs(1, 3)]),
        SOURCE,
        real=lambda batch: batch[0],
        adapter={"latent": of(1)},
    ),
    Entry(
        "told apart by size",
        lambda: (UpscaleG(), patch_d(3), pairs(3, 3, scale=2)),
        ((N, 3, 8, 8),),
        real=lambda batch: batch["B"],
        adapter={"latent": of("A")},
    ),
    Entry(
        "one shape, both named",
        lambda: (UNet(3, 3), patch_d(3), pairs(3, 3)),
        ((N, 3, 8, 8),),
        real=lambda batch: batch["B"],
        adapter={"real": lambda batch: batch["B"], "latent": of("A")},
    ),
    Entry(
        "one shape, the source named",
        lambda: (UNet(3, 3), patch_d(3), pairs(3, 3)),
        ((N, 3, 8, 8),),
        real=lambda batch: batch["B"],
        adapter={"latent": of("A")},
    ),
    Entry(
        "D sees the source too",
        lambda: (UNet(1, 3), patch_d(4), pairs(1, 3)),
        SOURCE,
        real=lambda batch: batch["B"],
        logit=lambda D, x, batch: D(torch.cat([batch["A"], x], 1)),
        adapter={"latent": of("A"), "score": lambda D, x, z, batch: D(torch.cat([batch["A"], x], 1))},
    ),
]
