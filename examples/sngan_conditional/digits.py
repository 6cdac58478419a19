"""Handwritten digits with their classes, and how well a generator makes each class."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.utils.data import TensorDataset

from coopinit_plugin.measures import SlicedWasserstein
from examples.digits import digits, read
from examples.sngan_conditional.networks import Generator

EACH = 174  # digits of the rarest class


class Digits:
    """scikit-learn's 1797 handwritten digits, and the distance of generated ones to them, class by class.

    Attributes:
        dataset: Pairs of an image (1, 8, 8) in [−1, 1] and its class.
        score: What is measured: the mean over the classes of the sliced Wasserstein distance within each, in σ.
        about: The data in a few words.
    """

    score = "distance within a class (σ)"
    about = "handwritten digits 0 … 9"

    def __init__(self) -> None:
        images, labels = digits()
        self.dataset = TensorDataset(images[:, None], labels)
        self._real = torch.stack([images[labels == digit][:EACH] for digit in range(10)])
        self._distance = SlicedWasserstein(self._real[0], [float(images.std())])

    def real(self, n: int) -> Tensor:
        """`n` of them, class after class in turn, as :func:`sample` gives them."""
        return self._real.transpose(0, 1).flatten(0, 1)[:n, None]

    def measure(self, samples: Tensor) -> float:
        made = samples[:, 0].unflatten(0, (EACH, 10)).transpose(0, 1)
        apart = [
            self._distance.between(self._distance.project(a), self._distance.project(b))
            for a, b in zip(made, self._real, strict=True)
        ]
        return float(torch.stack(apart).mean())

    def tell(self, value: float) -> str:
        return f"{value:.3f} σ from the data"


@torch.no_grad()
def sample(netG: Generator) -> Tensor:
    """1740 digits, 0 … 9 in turn, always from the same latents, G in evaluation mode."""
    z = torch.randn(10 * EACH, netG.nz, generator=torch.Generator().manual_seed(0))
    netG.eval()
    samples = netG(z, torch.arange(10).repeat(EACH))
    netG.train()
    return samples


def as_asked(samples: Tensor) -> float:
    """The share whose nearest real digits are of the class that was asked for."""
    return float((read(samples[:, 0])[0] == torch.arange(10).repeat(EACH)).float().mean())


def show_classes(axes: Axes, samples: Tensor) -> None:
    """A column for each class."""
    cells = np.pad(samples[:80, 0].reshape(8, 10, 8, 8).numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=1)
    axes.imshow(cells.transpose(0, 2, 1, 3).reshape(72, 90), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.axis("off")
