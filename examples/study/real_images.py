"""CIFAR-10 32×32 and board defects 64×64: one run a call, one row a reading.

    python -m examples.study.real_images --task cifar --data cifar10.npz --net dcgan --seed 0
    python -m examples.study.real_images --task boards --data deeppcb64.npz --images 100 --seed 0

CIFAR-10 is a file of JPEGs (`jpeg_train` and `length_train`, one behind the other, `y_train`) or torchvision's folder.
`boards` takes a file with `x` (N, 64, 64) uint8 near-black and white, `y` and `names`: images of class `--class`, of
boards that no held-back image is of. `frechet` is a Fréchet distance in the features of a small classifier of the same
set, against held-back images: not an FID, and not to be compared with one.
"""

from __future__ import annotations

import argparse
import io
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from coopinit_plugin.trial.measures import PrincipalComponents, fidelity
from examples.helpers.runs import distance_to
from examples.study.frechet import frechet, moments
from examples.study.stacked_mnist import drawn
from examples.study.whole_run import Run, Task

READINGS = (0, 50, 100, 200, 500, 1000, 1500, 2000, 2500)
JUDGED = 2048  # samples in the nearest-neighbour measures


class Set(NamedTuple):
    """Training images and held-back ones (N, C, H, W) in [−1, 1], and the labels of both."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def cifar(place: str) -> Set:
    """50,000 and 10,000 images, or as many as the file has."""
    if not Path(place).is_file():
        from torchvision.datasets import CIFAR10

        sets = [CIFAR10(place, train=train, download=False) for train in (True, False)]
        parts = [part for one in sets for part in (torch.from_numpy(one.data), torch.tensor(one.targets))]
    else:
        held, parts = np.load(place), []
        for name in ("train", "test"):
            packed = np.split(held[f"jpeg_{name}"], held[f"length_{name}"].cumsum()[:-1])
            decoded = np.stack([np.asarray(Image.open(io.BytesIO(one.tobytes()))) for one in packed])
            parts += [torch.from_numpy(decoded), torch.from_numpy(held[f"y_{name}"])]
    scaled = [part.movedim(-1, 1) / 127.5 - 1 if part.ndim == 4 else part.long() for part in parts]
    return Set(*scaled)


def boards(place: str) -> Set:
    """All classes; a fifth of the boards is held back, for neighbouring images of a board overlap."""
    held = np.load(place)
    x, y = torch.from_numpy(held["x"])[:, None] / 127.5 - 1, torch.from_numpy(held["y"]).long()
    order = np.unique(held["names"], return_inverse=True)[1]
    back = torch.from_numpy(order % 5 == 4)
    return Set(x[~back], y[~back], x[back], y[back])


class Features(nn.Module):
    """A small classifier of the set itself, and what lies under its last layer.

    Args:
        data: It is trained on the training images and tested on those held back.
        epochs: Of training.
    """

    def __init__(self, data: Set, epochs: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (data.x.shape[1], 32, 64, 128)
        layers = [
            part
            for taken, given in itertools.pairwise(widths)
            for part in (nn.Conv2d(taken, given, 3, 2, 1), nn.BatchNorm2d(given), nn.ReLU())
        ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU())
        self.top = nn.Linear(64, int(data.y.max()) + 1)
        adam = torch.optim.Adam(self.parameters(), 1e-3)
        for _ in range(epochs):
            for chosen in torch.randperm(len(data.x)).split(64):
                loss = cross_entropy(self.top(self.body(data.x[chosen])), data.y[chosen])
                adam.zero_grad()
                loss.backward()
                adam.step()
        self.eval()
        right = (self.top(self(data.held_x)).argmax(1) == data.held_y).float().mean()
        print(f"The classifier names {float(right):.1%} of the held-back images rightly.")

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(N, 64)."""
        return torch.cat([self.body(part) for part in x.split(512)])


class Judge:
    """Distances of generated samples to held-back images.

    Args:
        features: Of the set.
        train: What the networks are trained on.
        held: What they are not.
    """

    def __init__(self, features: Features, train: Tensor, held: Tensor) -> None:
        self.features, self.train, self.held = features, train, held
        self.moments = moments(features(held))
        self.space = PrincipalComponents(held)
        self.distance = distance_to(held)
        print(f"Training against held-back images: frechet {frechet(moments(features(train)), self.moments):.1f}")

    def measure(self, fake: Tensor) -> dict[str, Any]:
        """The Fréchet distance, the sliced Wasserstein distance in σ, and the four shares by nearest neighbours."""
        near = fidelity(self.space(self.held[:JUDGED]), self.space(fake[:JUDGED]))
        return {
            "frechet": round(frechet(moments(self.features(fake)), self.moments), 1),
            "distance": round(self.distance(fake), 4),
            **{name: round(value, 3) for name, value in near.items()},
        }

    @torch.no_grad()
    def memory(self, D: nn.Module) -> dict[str, Any]:
        """How much higher D scores training images than held-back ones, in standard deviations of the latter."""
        D.eval()
        train, held = D(self.train[:JUDGED]), D(self.held[:JUDGED])
        D.train()
        return {"d_memory": round(float((train.mean() - held.mean()) / held.std()), 3)}


def dcgan(size: int, channels: int, norm: str) -> tuple[nn.Module, nn.Module]:
    """DCGAN with 24-48-96 channels, one layer more at 64×64; D without normalisation or with BatchNorm."""
    depth = 3 if size == 32 else 4
    widths = [24 * 2**level for level in range(depth)]
    up: list[nn.Module] = [nn.Linear(64, widths[-1] * 16), nn.Unflatten(1, (widths[-1], 4, 4))]
    for taken, given in zip(widths[::-1], widths[-2::-1], strict=False):
        up += [nn.BatchNorm2d(taken), nn.ReLU(), nn.ConvTranspose2d(taken, given, 4, 2, 1, bias=False)]
    G = nn.Sequential(*up, nn.BatchNorm2d(24), nn.ReLU(), nn.ConvTranspose2d(24, channels, 4, 2, 1), nn.Tanh())
    down: list[nn.Module] = []
    for taken, given in zip([channels, *widths], widths, strict=False):
        down.append(nn.Conv2d(taken, given, 4, 2, 1))
        if norm == "batch" and taken != channels:
            down.append(nn.BatchNorm2d(given))
        down.append(nn.LeakyReLU(0.2))
    D = nn.Sequential(*down, nn.Flatten(), nn.Linear(widths[-1] * 16, 1))
    drawn(G, D)
    return G, D


class Up(nn.Module):
    """SNGAN's block of G: twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: Tensor) -> Tensor:
        large = interpolate(torch.relu(self.norms[0](x)), scale_factor=2)
        return interpolate(x, scale_factor=2) + self.second(torch.relu(self.norms[1](self.first(large))))


class Down(nn.Module):
    """SNGAN's block of D: half the size."""

    def __init__(self, taken: int, width: int) -> None:
        super().__init__()
        self.first = spectral_norm(nn.Conv2d(taken, width, 3, 1, 1))
        self.second = spectral_norm(nn.Conv2d(width, width, 3, 1, 1))
        self.past = spectral_norm(nn.Conv2d(taken, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(self.second(torch.relu(self.first(torch.relu(x)))) + self.past(x), 2)


def residual(width: int = 48) -> tuple[nn.Module, nn.Module]:
    """SNGAN's residual networks for 32×32, narrow; spectral norm on every layer of D."""
    G = nn.Sequential(
        *(nn.Linear(64, width * 16), nn.Unflatten(1, (width, 4, 4)), Up(width), Up(width), Up(width)),
        *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, 1, 1), nn.Tanh()),
    )
    D = nn.Sequential(
        *(Down(3, width), Down(width, width), Down(width, width)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(width, 1))),
    )
    return G, D


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("cifar", "boards"), required=True)
    parser.add_argument("--data", required=True, help="a file, or torchvision's folder")
    parser.add_argument("--net", choices=("dcgan", "dcgan-batch", "residual"), default="dcgan")
    parser.add_argument("--images", type=int, default=0, help="how many training images (default: all)")
    parser.add_argument("--class", type=int, default=0, dest="kind", help="of the boards' defects (default: 0)")
    parser.add_argument("--table", type=Path, default=Path("runs/real_images.csv"), help="rows are appended there")
    Run.arguments(parser)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = cifar(asked.data) if asked.task == "cifar" else boards(asked.data)
    features = Features(data)
    x, held = data.x, data.held_x
    if asked.task == "boards":
        x, held = x[data.y == asked.kind], held[data.held_y == asked.kind]
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: asked.images or None]]
    judge, size = Judge(features, x, held), x.shape[-1]
    task = Task(
        make=residual if asked.net == "residual" else lambda: dcgan(size, x.shape[1], asked.net.partition("-")[2]),
        draw=lambda n: x[torch.randint(len(x), (n,))],
        batches=max(len(x) // 64, 8),
        latent=64,
        batch=64,
        measure=judge.measure,
        readings=READINGS,
        samples=(2048, 5120),
        beside=judge.memory,
    )
    Run(task, asked, {"task": asked.task, "net": asked.net, "images": len(x)}).go()


if __name__ == "__main__":
    main()
