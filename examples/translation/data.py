"""Two domains without pairs: handwritten digits, and the outlines of other ones; and how well one becomes the other."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import conv2d, interpolate
from torch.utils.data import Dataset

from examples.digits import digits

SIZE = 16
HELD_OUT = 397  # digits that are translated to be judged; the other 1400 are the two domains


class Outlines(Dataset):
    """Dictionaries with a digit under "A" and the outline of some other digit under "B", 1×16×16, in [−1, 1].

    Attributes:
        score: What is measured: the root of the mean squared difference between the translation of a held-out digit
            and its true outline, in σ of the outlines. Nothing but the black background is 0.9 away.
        about: The data in a few words.
    """

    score = "error of the translation (σ)"
    about = "digits (top) → outlines of others"

    def __init__(self) -> None:
        images = interpolate(digits()[0][:, None], SIZE, mode="bilinear")
        images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        self.held_out, self.truth = images[:HELD_OUT], outline(images[:HELD_OUT])
        self._a, self._b = images[HELD_OUT:].chunk(2)
        self._b = outline(self._b)

    def __len__(self) -> int:
        return len(self._a)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"A": self._a[index], "B": self._b[torch.randint(len(self._b), ())]}

    def real(self, n: int) -> Tensor:
        """The true outlines of the first held-out digits."""
        return self.truth[:n]

    def measure(self, samples: Tensor) -> float:
        return float((samples - self.truth).square().mean().sqrt() / self.truth.std())

    def tell(self, value: float) -> str:
        return f"{value:.3f} σ from the truth"

    def show(self, axes: Axes, samples: Tensor) -> None:
        """Held-out digits, and below each what was made of it."""
        pairs = torch.stack([self.held_out[:20, 0], samples[:20, 0]], 1).reshape(4, 5, 2, SIZE, SIZE)
        cells = np.pad(pairs.numpy(), ((0, 0),) * 3 + ((0, 1), (0, 1)), constant_values=1)
        rows = [np.concatenate(list(cells[row, :, which]), 1) for row in range(4) for which in range(2)]
        axes.imshow(np.concatenate(rows), cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
        axes.axis("off")


def outline(images: Tensor) -> Tensor:
    """How steep an image is, (N, 1, S, S) in [−1, 1]: bright on the borders of strokes."""
    across = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]]) / 4
    steep = conv2d(torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1), torch.cat([across, across.mT]))
    return steep.norm(dim=1, keepdim=True).clamp(max=2) - 1
