"""Two domains without pairs: handwritten digits and the outlines of other ones, or two folders; and how well one
becomes the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import conv2d, interpolate
from torch.utils.data import Dataset

from coopinit_plugin import SlicedWasserstein
from examples.dcgan.data import ImageFolder
from examples.helpers.digits import digits

SIZE = 16
COLUMNS = 9  # of a picture
HELD_OUT = 397  # digits that are translated to be judged; the other 1400 are the two domains


class Unpaired(Dataset):
    """Dictionaries with an image of the one domain under "A" and any of the other under "B", (C, S, S) in [−1, 1].

    Args:
        a: Images of the domain that is translated.
        b: Images of the other.
        held_out: Further ones of the first, to judge by.

    Attributes:
        score: What is measured.
        about: The data in a few words.
    """

    score = "distance to the other domain (σ)"

    def __init__(self, a: Tensor, b: Tensor, held_out: Tensor) -> None:
        self._a, self._b, self.held_out = a, b, held_out
        self.about = f"{len(a):,} images → {len(b):,} others"
        self._distance = SlicedWasserstein(b[:1], [float(b.std())])

    def __len__(self) -> int:
        return len(self._a)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"A": self._a[index], "B": self._b[torch.randint(len(self._b), ())]}

    def real(self, n: int) -> Tensor:
        """Images of the other domain."""
        return self._b[:n]

    def measure(self, samples: Tensor) -> float:
        n = min(len(samples), len(self._b))
        return float(self._distance.between(*(self._distance.project(part[:n]) for part in (samples, self._b))))

    def tell(self, value: float) -> str:
        return f"{value:.3f} σ from the domain"

    def show(self, axes: Axes, samples: Tensor) -> None:
        """Held-out images, and below each what was made of it."""
        chosen = slice(min(len(samples), len(self.held_out)) // COLUMNS * COLUMNS)
        pairs = torch.stack([self.held_out[chosen], samples[chosen]], 1)[: 4 * COLUMNS]
        cells = np.pad(pairs.numpy(), ((0, 0),) * 3 + ((0, 1), (0, 1)), constant_values=1).transpose(0, 1, 3, 4, 2)
        rows = [cells[at : at + COLUMNS, which] for at in range(0, len(cells), COLUMNS) for which in range(2)]
        picture = np.concatenate([np.concatenate(list(row), 1) for row in rows])
        axes.imshow((picture.clip(-1, 1) + 1) / 2, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.axis("off")


class Outlines(Unpaired):
    """Digits and the outlines of other digits, 1×16×16.

    The true translation of a held-out digit is known: measured is the root of the mean squared difference to it, in σ
    of the outlines. Nothing but the black background is 1.59 away, the digit itself 1.22.
    """

    score = "error of the translation (σ)"

    def __init__(self) -> None:
        images = interpolate(digits()[0][:, None], SIZE, mode="bilinear")
        images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        a, b = images[HELD_OUT:].chunk(2)
        super().__init__(a, outline(b), images[:HELD_OUT])
        self.truth = outline(self.held_out)
        self.about = "digits (top) → their outlines"

    def real(self, n: int) -> Tensor:
        """The true outlines of the held-out digits."""
        return self.truth[:n]

    def measure(self, samples: Tensor) -> float:
        return float((samples - self.truth).square().mean().sqrt() / self.truth.std())

    def tell(self, value: float) -> str:
        return f"{value:.3f} σ from the truth"


def two_folders(folder: Path) -> Unpaired:
    """The images in trainA and trainB, as CUT and CycleGAN have them, 32×32; every fifth of A is held out."""
    a, b = (torch.stack([image for image, _ in ImageFolder(folder / part)]) for part in ("trainA", "trainB"))
    held_out = torch.arange(len(a)) % 5 == 0
    return Unpaired(a[~held_out], b, a[held_out])


def outline(images: Tensor) -> Tensor:
    """How steep an image is, (N, 1, S, S) in [−1, 1]: bright on the borders of strokes."""
    across = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]]) / 4
    steep = conv2d(torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1), torch.cat([across, across.mT]))
    return steep.norm(dim=1, keepdim=True).clamp(max=2) - 1
