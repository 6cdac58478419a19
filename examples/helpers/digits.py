"""Stacked digits: three random 8×8 handwritten digits as the three channels of one image, 1000 modes to cover.

The digits are scikit-learn's bundled `load_digits` (1797 real images). A sample's mode is the number its three digits
spell, told by the three nearest neighbours among the real digits (98.7 % right on held-out ones).
"""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset


class StackedDigits(Dataset):
    """`length` images (3, 8, 8) in [−1, 1] with their mode 0 … 999, drawn by `seed`."""

    def __init__(self, length: int = 25_600, seed: int = 0) -> None:
        images, labels = digits()
        chosen = torch.randint(len(images), (length, 3), generator=torch.Generator().manual_seed(seed))
        self.images = images[chosen]
        self.modes = (labels[chosen] * torch.tensor([100, 10, 1])).sum(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.modes[index]


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1797 digits (N, 8, 8) in [−1, 1], and what they are."""
    bunch = load_digits()
    return torch.tensor(bunch.images / 8 - 1, dtype=torch.float32), torch.tensor(bunch.target)


def read(images: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What the digits (M, 8, 8) are by a vote of the three nearest real ones, and the distance to the nearest.

    Those are `digits()`, or what `known` says they look like.
    """
    real, labels = digits()
    known = (real if known is None else known).flatten(1)
    half = known.square().sum(1) / 2
    votes, distances = [], []
    for part in images.reshape(-1, 64).cpu().split(1000):
        near, index = torch.addmm(half, part, known.T, alpha=-1).topk(3, largest=False)  # (‖x − y‖² − ‖x‖²) / 2
        first, second, third = labels[index].T
        agreed = torch.where(second == third, second, first)
        all_differ = (first != second) & (first != third) & (second != third)
        votes.append(torch.where(all_differ, labels[index].amin(1), agreed))
        distances.append((2 * near[:, 0] + part.square().sum(1)).clamp_min(0).sqrt())
    return torch.cat(votes), torch.cat(distances)


def modes(samples: Tensor) -> Tensor:
    """The mode 0 … 999 of each sample (N, 3, 8, 8)."""
    return read(samples)[0].reshape(-1, 3) @ torch.tensor([100, 10, 1])


@functools.cache
def near() -> float:
    """How far from another one 99 % of the real digits lie at most: a sample so close to one is as good as real."""
    flat = digits()[0].flatten(1)
    return float(torch.cdist(flat, flat).fill_diagonal_(torch.inf).amin(1).quantile(0.99))


def readable(samples: Tensor) -> Tensor:
    """Whether all three digits of each sample (N, 3, 8, 8) are as close to a real one as real ones are."""
    return (read(samples)[1].reshape(-1, 3) <= near()).all(1)


def readable_modes(samples: Tensor) -> int:
    """Modes of which a sample can be read."""
    return len(modes(samples[readable(samples)]).unique())


def coverage(samples: Tensor) -> tuple[int, float]:
    """(Modes covered, reverse KL of their frequencies against uniform in nats)."""
    return spread(modes(samples), 1000)


def spread(modes: Tensor, total: int) -> tuple[int, float]:
    """(Modes covered, reverse KL against uniform in nats) of the mode of each sample, out of `total` modes."""
    counts = torch.bincount(modes, minlength=total)
    p = counts[counts > 0] / counts.sum()
    return int((counts > 0).sum()), float((p * (p * total).log()).sum())
