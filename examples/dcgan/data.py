"""What there is to learn, and how well it was learnt: stacked digits, or a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from coopinit_plugin import SlicedWasserstein
from examples.helpers.digits import StackedDigits, coverage, readable_modes
from examples.helpers.story import side_by_side
from examples.study.stacked_mnist import IMAGES, NETS, Judge, images


@dataclass(frozen=True)
class Task:
    """A data set of square images and the measure of a generator on it.

    Attributes:
        dataset: Pairs of an image (3, size, size) in [−1, 1] and anything.
        size: The side in pixels.
        samples: How many generated samples a measurement takes.
        measure: Samples to the score.
        score: The score's name.
        tell: A score in words.
        about: The data in a few words.
        look: How samples are shown.
        quality: What else the picture says of samples beside the score.
        networks: Makes G and D, if they are not those of this example.
    """

    dataset: Dataset
    size: int
    samples: int
    measure: Callable[[Tensor], float]
    score: str
    tell: Callable[[float], str]
    about: str
    look: Callable[[Tensor], Tensor] = lambda samples: samples
    quality: Callable[[Tensor], str] = lambda samples: ""
    networks: Callable[[], tuple[nn.Module, nn.Module]] | None = None

    def real(self, n: int) -> Tensor:
        """`n` real images, always the same."""
        chosen = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(0))[:n]
        return torch.stack([self.dataset[index][0] for index in chosen.tolist()])


def digits_task(seed: int) -> Task:
    """Three handwritten digits in three channels: 1000 modes to cover."""
    return Task(
        dataset=StackedDigits(seed=seed),
        size=8,
        samples=10_000,
        measure=lambda samples: coverage(samples)[0],
        score="modes covered",
        tell=lambda modes: f"{modes:.0f} of 1000 modes",
        about="3 handwritten digits each",
        look=side_by_side,
        quality=lambda samples: f", {readable_modes(samples)} readable",
    )


def mnist_task(place: Path, seed: int) -> Task:
    """Three of MNIST's digits in three channels of 28×28 pixels, with the networks and the judge of the study."""
    x, y, *_ = images(str(place))
    x, y = x[:IMAGES], y[:IMAGES]
    judge = Judge(x, y)

    def measure(samples: Tensor) -> float:
        mode, read, _ = judge.look(samples)
        return len(mode[read].unique())

    return Task(
        dataset=Stacks(x, seed),
        size=28,
        samples=10_000,
        measure=measure,
        score="modes that can be read",
        tell=lambda modes: f"{modes:.0f} of 1000 modes",
        about="3 of MNIST's digits each",
        look=side_by_side,
        networks=mnist_networks,
    )


def mnist_networks() -> tuple[nn.Module, nn.Module]:
    """Those of the study, a quarter as wide as VEEGAN's, called as this example calls its own."""
    G, D = NETS["none"].make()
    G = nn.Sequential(nn.Flatten(), *G)
    G.nz = NETS["none"].latent
    return G, nn.Sequential(*D, nn.Sigmoid(), nn.Flatten(0))


class Stacks(Dataset):
    """25,600 stacks of three of the images (N, 1, H, W), drawn by `seed`."""

    def __init__(self, x: Tensor, seed: int) -> None:
        self.x = x[:, 0]
        self.chosen = torch.randint(len(x), (25_600, 3), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[self.chosen[index]], 0


def folder_task(folder: Path) -> Task:
    """The images in a folder."""
    dataset = ImageFolder(folder)
    return distance_task(dataset, ImageFolder.SIZE, f"{len(dataset):,} images, 32×32")


def distance_task(dataset: Dataset, size: int, about: str) -> Task:
    """Images judged by the sliced Wasserstein distance of generated ones to them, in σ of the data."""
    task = Task(
        dataset=dataset,
        size=size,
        samples=2048,
        measure=lambda samples: distance.between(distance.project(samples[: len(real)]), real[: len(samples)]),
        score="distance to the data (σ)",
        tell=lambda value: f"{value:.3f} σ from the data",
        about=about,
    )
    images = task.real(task.samples)
    distance = SlicedWasserstein(images, [float(images.std())])
    real = distance.project(images)
    return task


class ImageFolder(Dataset):
    """Every image in a folder and below it, cropped to its middle and resized to 32×32, kept in memory."""

    SIZE = 32
    LEAST = 64  # a batch

    def __init__(self, folder: Path) -> None:
        known = Image.registered_extensions()
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in known)
        if len(self.files) < self.LEAST:
            raise ValueError(f"{folder}: {len(self.files)} images there, at least {self.LEAST} are needed")
        self.images = [self._read(file) for file in tqdm(self.files, desc="Reading images", unit="img")]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].float() / 127.5 - 1, 0

    def _read(self, file: Path) -> Tensor:
        with Image.open(file) as image:
            small = ImageOps.fit(image.convert("RGB"), (self.SIZE, self.SIZE))
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)
