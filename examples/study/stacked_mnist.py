"""Stacked MNIST 28×28 at a quarter of the width of the VEEGAN / PacGAN setting: one run a call, one row a reading.

    python -m examples.study.stacked_mnist --data mnist.npz --net none --seed 0

`--data` is a file with `x_train` (N, 28, 28) uint8, `y_train`, `x_test` and `y_test`, or torchvision's folder of MNIST.
Cost is CPU time in adversarial iterations of the same networks, the warm-up included.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.utils.parametrizations import spectral_norm

from coopinit_plugin import WarmStartConfig, warm_start
from examples.study.cost import clock

BATCH, LATENT, IMAGES = 64, 100, 10_000
READINGS = (0, 100, 300, 600, 1000, 1500, 2000, 2500)
COLUMNS = ("net", "loss", "arm", "seed", "cost", "modes", "modes_of_quality", "quality", "frechet", "samples")


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
        self.real = self._moments(self.look(stacked(x, 10_240, generator))[2])

    @torch.no_grad()
    def look(self, stacks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Mode, whether all three digits are seen with p > 0.9, features) of each stack."""
        features = torch.cat([self.body(part.reshape(-1, 1, 28, 28)) for part in stacks.split(512)])
        sure, digit = self.top(features).softmax(1).max(1)
        digits = digit.view(-1, 3)
        mode = digits @ torch.tensor([100, 10, 1])
        return mode, (sure.view(-1, 3) > 0.9).all(1), features.view(len(stacks), -1)

    def measure(self, G: nn.Module, samples: int) -> dict[str, Any]:
        """Modes, modes seen with p > 0.9, share of such samples, Fréchet distance in the classifier's features."""
        training = G.training
        G.eval()
        with torch.no_grad():
            stacks = torch.cat([G(torch.randn(512, LATENT)) for _ in range(samples // 512)])
        G.train(training)
        mode, good, features = self.look(stacks)
        mean, covariance = self._moments(features)
        values, vectors = torch.linalg.eigh(self.real[1])
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
        distance = (mean - self.real[0]).square().sum() + covariance.trace() + self.real[1].trace() - 2 * cross
        return {
            "modes": len(mode.unique()),
            "modes_of_quality": len(mode[good].unique()),
            "quality": round(float(good.float().mean()), 3),
            "frechet": round(float(distance)),
            "samples": samples,
        }

    @staticmethod
    def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
        return features.double().mean(0), torch.cov(features.double().T)


def stacked(x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Stacks of three images drawn at random, (n, 3, 28, 28)."""
    return x[torch.randint(len(x), (n, 3), generator=generator)].squeeze(2)


class Stacks:
    """A loader: an epoch of freshly drawn stacks."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self):
        for _ in range(len(self.x) // BATCH):
            yield stacked(self.x, BATCH)


def networks(norm: str) -> tuple[nn.Module, nn.Module]:
    """G of 128-64-32-16 channels with BatchNorm; D of 16-32-64-128 without, with BatchNorm or with spectral norm."""

    def up(taken: int, given: int, more: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(taken, given, 5, 2, 2, more, bias=False), nn.BatchNorm2d(given), nn.ReLU()]

    G = nn.Sequential(
        *(nn.Linear(LATENT, 512), nn.Unflatten(1, (128, 2, 2)), nn.BatchNorm2d(128), nn.ReLU()),
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
    for module in (*G.modules(), *D.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)
    if norm == "spectral":
        D = nn.Sequential(*(spectral_norm(layer) if hasattr(layer, "weight") else layer for layer in D))
    return G, D


def losses(kind: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """(D's loss, G's loss) of the logits."""
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    if kind == "hinge":
        return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean(), -fake.mean()
    if kind == "least_squares":
        return (real - 1).square().mean() + fake.square().mean(), (fake - 1).square().mean()
    ours = binary_cross_entropy_with_logits(real, ones) + binary_cross_entropy_with_logits(fake, zeros)
    return ours, binary_cross_entropy_with_logits(fake, ones)


class Adversarial:
    """The adversarial stage, and what an iteration of it costs in seconds."""

    def __init__(self, G: nn.Module, D: nn.Module, x: Tensor, loss: str) -> None:
        self.G, self.D, self.x, self.loss = G.train(), D.train(), x, loss
        self.adams = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (G, D)]
        self.seconds, self.done = 0.0, 0

    def run(self, iterations: int) -> None:
        began = clock()
        for _ in range(iterations):
            fake = self.G(torch.randn(BATCH, LATENT))
            real_score, fake_score = self.D(stacked(self.x, BATCH)), self.D(fake.detach())
            self._step(1, losses(self.loss, real_score, fake_score)[0])
            self._step(0, losses(self.loss, real_score.detach(), self.D(fake))[1])
        self.seconds += clock() - began
        self.done += iterations

    def _step(self, index: int, loss: Tensor) -> None:
        self.adams[index].zero_grad()
        loss.backward()
        self.adams[index].step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="mnist.npz, or torchvision's folder")
    parser.add_argument("--net", choices=("none", "batch", "spectral"), default="none", help="normalisation of D")
    parser.add_argument("--loss", choices=("logistic", "hinge", "least_squares"), default="logistic")
    parser.add_argument("--arm", choices=("warm", "hand-over", "random"), default="warm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total", type=int, default=3000, help="cost in adversarial iterations (default: 3000)")
    parser.add_argument("--table", type=Path, default=Path("runs/stacked_mnist.csv"), help="rows are appended there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    x, y, *_ = images(asked.data)
    x, y = x[:IMAGES], y[:IMAGES]
    judge = Judge(x, y)

    def row(cost: float, samples: int = 10_240) -> None:
        named = {"net": asked.net, "loss": asked.loss, "arm": asked.arm, "seed": asked.seed, "cost": round(cost)}
        told = {**named, **judge.measure(G, samples)}
        print(*(f"{key} {value}" for key, value in told.items()), sep=" · ", flush=True)
        asked.table.parent.mkdir(parents=True, exist_ok=True)
        new = not asked.table.exists()
        with asked.table.open("a", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            if new:
                table.writeheader()
            table.writerow(told)

    torch.manual_seed(1)
    unit = Adversarial(*networks(asked.net), x, asked.loss)
    unit.run(30)
    torch.manual_seed(asked.seed)
    G, D = networks(asked.net)
    began = clock()
    if asked.arm != "random":
        config = WarmStartConfig(iterations="auto" if asked.arm == "warm" else 0, seed=asked.seed)
        print(warm_start(G, D, Stacks(x), handover=asked.loss, config=config).summary)
    warm = (clock() - began) / (unit.seconds / unit.done)
    stage, left = Adversarial(G, D, x, asked.loss), max(int(asked.total - warm), 0)
    for reading in [*(reading for reading in READINGS if reading < left - 50), left]:
        stage.run(reading - stage.done)
        row(warm + stage.done, 25_600 if reading == left else 10_240)


if __name__ == "__main__":
    main()
