"""Images with their classes, and how well a generator makes each class."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import TensorDataset

from coopinit_plugin import SlicedWasserstein
from examples.dcgan.data import ImageFolder
from examples.helpers.digits import digits, read
from examples.sngan_conditional.networks import Generator

MOST = 174  # images of a class that are judged: as many as there are of the rarest digit
LEAST = 80  # for the picture
READABLE = 24  # pixels: smaller images are enlarged smoothly in the picture, so that a person can read digits


class Classes:
    """Images, and the distance of generated ones to them, class by class.

    Args:
        images: (N, C, S, S) in [−1, 1].
        labels: Their classes, (N,), from 0 on.
        about: The data in a few words.

    Attributes:
        dataset: Pairs of an image and its class.
        classes: How many.
        score: What is measured: the mean over the classes of the sliced Wasserstein distance within each, in σ.
    """

    score = "distance within a class (σ)"

    def __init__(self, images: Tensor, labels: Tensor, about: str) -> None:
        self.dataset, self.about = TensorDataset(images, labels), about
        self.shape = images.shape[1:]
        self.classes = int(labels.max()) + 1
        self.each = min(MOST, int(labels.bincount().min()))
        self._real = torch.stack([images[labels == label][: self.each] for label in range(self.classes)])
        self._distance = SlicedWasserstein(self._real[0], [float(images.std())])

    @property
    def asked(self) -> Tensor:
        """The classes that are generated, all in turn."""
        return torch.arange(self.classes).repeat(self.each)

    def real(self, n: int) -> Tensor:
        """`n` of them, class after class in turn, as :meth:`sample` gives them."""
        return self._real.transpose(0, 1).flatten(0, 1)[:n]

    @torch.no_grad()
    def sample(self, netG: Generator) -> Tensor:
        """Each class as often, in turn, always from the same latents, G in evaluation mode."""
        z = torch.randn(len(self.asked), netG.nz, generator=torch.Generator().manual_seed(0))
        netG.eval()
        samples = torch.cat([netG(*part) for part in zip(z.split(512), self.asked.split(512), strict=True)])
        netG.train()
        return samples

    def measure(self, samples: Tensor) -> float:
        made = samples.unflatten(0, (self.each, self.classes)).transpose(0, 1)
        apart = [
            self._distance.between(self._distance.project(a), self._distance.project(b))
            for a, b in zip(made, self._real, strict=True)
        ]
        return float(torch.stack(apart).mean())

    def tell(self, value: float) -> str:
        return f"{value:.3f} σ from the data"

    def show(self, axes: Axes, samples: Tensor) -> None:
        """A column for each of the first ten classes; several where they are few."""
        columns, wide = min(self.classes, 10), 10 // min(self.classes, 10)
        shown = samples[: 8 * wide * self.classes]
        shown = interpolate(shown, scale_factor=max(1, READABLE // self.shape[-1]), mode="bicubic")
        side = shown.shape[-1]
        rows = shown.unflatten(0, (8, wide, self.classes))[:, :, :columns]
        cells = np.pad(rows.numpy(), (*((0, 0),) * 4, (0, 1), (0, 1)), constant_values=1)
        picture = cells.transpose(0, 4, 2, 1, 5, 3).reshape(8 * (side + 1), columns * wide * (side + 1), -1)
        axes.imshow((picture.clip(-1, 1) + 1) / 2, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.axis("off")


class Digits(Classes):
    """scikit-learn's 1797 handwritten digits, (1, 8, 8)."""

    def __init__(self) -> None:
        images, labels = digits()
        super().__init__(images[:, None], labels, "handwritten digits 0 … 9")

    def as_asked(self, samples: Tensor) -> float:
        """The share whose nearest real digits are of the class that was asked for."""
        return float((read(samples[:, 0])[0] == self.asked).float().mean())


def folder_of_classes(folder: Path) -> Classes:
    """A folder with a folder for each class, as torchvision's ImageFolder has it; images 32×32."""
    names = sorted(part.name for part in folder.iterdir() if part.is_dir()) if folder.is_dir() else []
    if len(names) < 2:
        raise ValueError(f"{folder}: {len(names)} folders there, one for each class is expected, as in DATA/cat/1.png")
    data = ImageFolder(folder)
    labels = [names.index(file.relative_to(folder).parts[0]) for file in data.files]
    rarest, count = min(((name, labels.count(index)) for index, name in enumerate(names)), key=lambda pair: pair[1])
    if count < LEAST:
        raise ValueError(f"{folder / rarest}: {count} images there, at least {LEAST} of each class are needed")
    images = torch.stack([data[index][0] for index in range(len(data))])
    return Classes(images, torch.tensor(labels), f"{len(images):,} images, {len(names)} classes")


def blocks_for(side: int) -> int:
    """Doublings from 2×2 up to `side`."""
    return round(math.log2(side / 2))
