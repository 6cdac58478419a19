"""Stacked MNIST 28×28 on the nets of two papers: one run a call, one row a reading.

    python -m examples.study.stacked_mnist --data mnist.npz --net none --seed 0

`--data` is a file with `x_train` (N, 28, 28) uint8, `y_train`, `x_test` and `y_test`, or torchvision's folder of MNIST.
`--net` is the normalisation of D in the DCGAN of VEEGAN and PacGAN at a quarter of its width, the same with none in
either network (`plain-g`), or the net of Unrolled GAN whose D has a quarter or a half of G's channels. Cost is CPU
time in adversarial iterations of the same networks, the warm-up included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.parametrizations import spectral_norm

from examples.study.frechet import frechet, moments
from examples.study.whole_run import Run, Task

IMAGES = 10_000
READINGS = (0, 100, 300, 600, 1000, 1500, 2000, 2500, 3000, 4000, 6000, 8000, 10_000)


def images(place: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (N, 1, 28, 28) in [−1, 1] with their labels, and the test set's."""
    if Path(place).is_file():
        held = np.load(place)
        raw = [torch.from_numpy(held[name]) for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        from torchvision.datasets import MNIST

        sets = [MNIST(place, train=train, download=False) for train in (True, False)]
        raw = [part for one in sets for part in (one.data, one.targets)]
    return tuple(part.long() if part.ndim == 1 else part[:, None] / 127.5 - 1 for part in raw)


class Judge:
    """Counts modes and measures quality by a small classifier of single digits, trained on the images themselves.

    Args:
        x: Training images.
        y: Their labels.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        torch.manual_seed(0)
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * 49, 64), nn.ReLU()),
        )
        self.top = nn.Linear(64, 10)
        adam = torch.optim.Adam([*self.body.parameters(), *self.top.parameters()], 1e-3)
        for _ in range(12):
            for chosen in torch.randperm(len(x)).split(64):
                loss = cross_entropy(self.top(self.body(x[chosen])), y[chosen])
                adam.zero_grad()
                loss.backward()
                adam.step()
        generator = torch.Generator().manual_seed(9)
        self.real = moments(self.look(stacked(x, 10_240, generator))[2])

    @torch.no_grad()
    def look(self, stacks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Mode, whether all three digits are seen with p > 0.9, features) of each stack."""
        features = torch.cat([self.body(part.reshape(-1, 1, 28, 28)) for part in stacks.split(512)])
        sure, digit = self.top(features).softmax(1).max(1)
        digits = digit.view(-1, 3)
        mode = digits @ torch.tensor([100, 10, 1])
        return mode, (sure.view(-1, 3) > 0.9).all(1), features.view(len(stacks), -1)

    def measure(self, stacks: Tensor) -> dict[str, Any]:
        """Modes, modes seen with p > 0.9, share of such samples, Fréchet distance in the classifier's features."""
        mode, good, features = self.look(stacks)
        share = torch.bincount(mode, minlength=1000).double() / len(mode)
        return {
            "modes": len(mode.unique()),
            "modes_of_quality": len(mode[good].unique()),
            "quality": round(float(good.float().mean()), 3),
            "reverse_kl": round(float((share * (share * 1000).clamp_min(1e-12).log()).sum()), 3),
            "frechet": round(frechet(moments(features), self.real)),
            "samples": len(stacks),
        }


def stacked(x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Stacks of three images drawn at random, (n, 3, 28, 28)."""
    return x[torch.randint(len(x), (n, 3), generator=generator)].squeeze(2)


@dataclass(frozen=True)
class Net:
    """One of the papers' networks and how it is trained.

    Attributes:
        make: Gives (G, D).
        latent: Dimensions of z.
        batch: Samples in a batch.
        rates: Adam's learning rates of G and D.
        betas: Of both.
    """

    make: Callable[[], tuple[nn.Module, nn.Module]]
    latent: int = 100
    batch: int = 64
    rates: tuple[float, float] = (2e-4, 2e-4)
    betas: tuple[float, float] = (0.5, 0.999)


def veegan(norm: str) -> tuple[nn.Module, nn.Module]:
    """G of 128-64-32-16 channels with BatchNorm; D of 16-32-64-128 without, with BatchNorm or with spectral norm."""

    def up(taken: int, given: int, more: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(taken, given, 5, 2, 2, more, bias=False), nn.BatchNorm2d(given), nn.ReLU()]

    G = nn.Sequential(
        *(nn.Linear(100, 512), nn.Unflatten(1, (128, 2, 2)), nn.BatchNorm2d(128), nn.ReLU()),
        *(*up(128, 64, 1), *up(64, 32, 0), *up(32, 16, 1), nn.ConvTranspose2d(16, 3, 5, 2, 2, 1), nn.Tanh()),
    )
    layers: list[nn.Module] = []
    widths = (3, 16, 32, 64, 128)
    for depth in range(4):
        layers.append(nn.Conv2d(widths[depth], widths[depth + 1], 5, 2, 2))
        if norm == "batch" and depth:
            layers.append(nn.BatchNorm2d(widths[depth + 1]))
        layers.append(nn.LeakyReLU(0.2))
    D = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 1))
    drawn(G, D)
    if norm == "spectral":
        D = nn.Sequential(*(spectral_norm(layer) if hasattr(layer, "weight") else layer for layer in D))
    return G, D


def unrolled(share: float) -> tuple[nn.Module, nn.Module]:
    """G of 64-32-16-8 channels with BatchNorm; D of 8-16-32 channels, times the share, with BatchNorm."""

    def up(taken: int, given: int, more: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(taken, given, 3, 2, 1, more), nn.BatchNorm2d(given), nn.ReLU()]

    G = nn.Sequential(
        *(nn.Linear(256, 1024), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU()),
        *(*up(64, 32, 0), *up(32, 16, 1), *up(16, 8, 1), nn.Conv2d(8, 3, 3, 1, 1), nn.Tanh()),
    )
    widths = (3, *(int(width * share) for width in (8, 16, 32)))
    layers: list[nn.Module] = []
    for depth in range(3):
        layers.append(nn.Conv2d(widths[depth], widths[depth + 1], 3, 2, 1))
        if depth:
            layers.append(nn.BatchNorm2d(widths[depth + 1]))
        layers.append(nn.LeakyReLU(0.2))
    D = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[3] * 16, 1))
    drawn(G, D)
    return G, D


def plain_generator() -> tuple[nn.Module, nn.Module]:
    """The pair of `veegan("none")`, G without BatchNorm and with He's initialisation."""
    G, D = veegan("none")
    G = nn.Sequential(*(nn.Identity() if isinstance(layer, nn.BatchNorm2d) else layer for layer in G))
    for layer in G:
        if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)):
            strides = 1 if isinstance(layer, nn.Linear) else layer.stride[0] * layer.stride[1]
            inputs = layer.weight[0].numel() if isinstance(layer, nn.Linear) else layer.weight[:, 0].numel()
            nn.init.normal_(layer.weight, 0.0, (2 * strides / inputs) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return G, D


def drawn(*networks: nn.Module) -> None:
    """Weights as DCGAN draws them: N(0, 0.02), of BatchNorm N(1, 0.02), biases zero."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
                nn.init.normal_(module.weight, float(isinstance(module, nn.BatchNorm2d)), 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


NETS = {
    **{norm: Net(lambda norm=norm: veegan(norm)) for norm in ("none", "batch", "spectral")},
    "plain-g": Net(plain_generator),
    "plain-g-slow": Net(plain_generator, rates=(2e-4 / 16, 2e-4)),
    **{
        f"unrolled-{name}": Net(lambda share=share: unrolled(share), 256, 128, (1e-4, 2e-4), (0.5, 0.99))
        for name, share in (("quarter", 0.25), ("half", 0.5))
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist.npz, or torchvision's folder")
    parser.add_argument("--net", choices=NETS, default="none", help="normalisation of D, or others")
    parser.add_argument("--table", type=Path, default=Path("runs/stacked_mnist.csv"), help="rows are appended there")
    Run.arguments(parser)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    x, y, *_ = images(asked.data)
    x, y = x[:IMAGES], y[:IMAGES]
    net, judge = NETS[asked.net], Judge(x, y)
    task = Task(
        make=net.make,
        draw=lambda n: stacked(x, n),
        batches=len(x) // net.batch,
        latent=net.latent,
        batch=net.batch,
        rates=net.rates,
        betas=net.betas,
        measure=judge.measure,
        readings=READINGS,
        samples=(10_240, 25_600),
    )
    Run(task, asked, {"net": asked.net}).go()


if __name__ == "__main__":
    main()
