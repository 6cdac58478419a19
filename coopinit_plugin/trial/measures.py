"""What samples are worth beside real data of any shape, measured without any trained network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.nests import describe, move

NEIGHBOURS = 5
COMPONENTS = 32
ALIKE = 0.2  # of the mean distance between real samples; closer ones are alike
CPU = torch.device("cpu")
FEWEST = 16  # real samples; with fewer a neighbourhood means nothing

Features = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Measured:
    """One measurement of generated samples against real ones. All are NaN if a sample is not finite.

    Attributes:
        distance: Sliced Wasserstein-2 distance, in σ of the data.
        energy: Energy coefficient (Székely and Rizzo 2013): 0 for equal distributions, 1 for ones far apart.
        precision: Share of generated samples that lie among real ones and have real ones among themselves (symmetric,
            Khayatkhoei and AbdAlmageed 2023). The second part is what the precision of Kynkäänniemi et al. 2019 lacks:
            in many dimensions a point near the data's mean lies in the neighbourhood of nearly all real samples.
        recall: The same of real samples among generated ones.
        density: How many real neighbourhoods a generated sample lies in, over those it could (Naeem et al. 2020); more
            than 1 near the data's mean.
        coverage: Share of real samples with a generated one in their neighbourhood.
        diversity: Effective number of different samples over that of as many real ones, at most 1: the order-0
            diversity of Leinster and Cobbold 2012, less 1. Two samples are the more alike, by a Gaussian kernel, the
            closer they are beside a fifth of what real ones lie apart on average.
    """

    distance: float
    energy: float
    precision: float
    recall: float
    density: float
    coverage: float
    diversity: float

    @property
    def likeness(self) -> float:
        """Mean of precision, coverage and diversity: real samples have almost 1, an untrained G almost 0."""
        return (self.precision + self.coverage + self.diversity) / 3


class PrincipalComponents:
    """The leading principal components of real samples.

    Args:
        real: Samples (N, ...).
        components: How many are kept.
    """

    def __init__(self, real: Tensor, components: int = COMPONENTS) -> None:
        flat = real.flatten(1)
        self._mean = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((flat - self._mean).T).reshape(flat.shape[1], -1))
        self._axes = vectors[:, values > 1e-6 * values[-1]][:, -components:]

    def __call__(self, x: Tensor) -> Tensor:
        """Coordinates (N, components)."""
        return (x.flatten(1) - self._mean) @ self._axes


class Measures:
    """Measures samples against the real ones that it keeps.

    Neighbours are sought among the principal components of 128 random projections, which keep distances well for data
    of any width (Johnson and Lindenstrauss 1984), or of the user's features.

    Args:
        real: Real samples, a tensor (N, ...) or a nest of such; better ones that G and D are not trained on.
        features: ``(x) -> (N, d)``, to look for neighbours there.
        directions: Random projections.

    Raises:
        CoopInitError: if there are too few samples, or `features` gives something else than one row a sample.
    """

    def __init__(self, real: Any, features: Features | None = None, directions: int = 128) -> None:
        count = len(tree_leaves(real)[0])
        if count < FEWEST:
            raise CoopInitError(f"{count} real samples to measure against were given; expected at least {FEWEST}.")
        ours = move(real, CPU)
        self._features, self._sliced = features, SlicedWasserstein(ours, directions=directions)
        self._projected = self._sliced.project(ours)
        self._sorted = self._projected.sort(dim=0).values
        raw = self._projected if features is None else self._featured(real)
        self._inside = PrincipalComponents(raw)
        self._real = self._inside(raw)
        apart = torch.cdist(self._real, self._real)
        self._radii = _kth(apart)
        self._apart = float(apart.sum() / (count * (count - 1)))
        self._different: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._real)

    @torch.no_grad()
    def __call__(self, fake: Any) -> Measured:
        """Measure samples (N, ...), shaped as the real ones; N need not be theirs."""
        with torch.autocast("cpu", enabled=False):
            return self._measure(fake)

    def _measure(self, fake: Any) -> Measured:
        projected = self._sliced.project(move(fake, CPU))
        raw = projected if self._features is None else self._featured(fake)
        if not (projected.isfinite().all() and raw.isfinite().all()):
            return Measured(*[math.nan] * 7)
        n, x = len(projected), self._inside(raw)
        places = ((torch.arange(n) + 0.5) * len(self) / n).long()
        apart, between = torch.cdist(x, x), torch.cdist(self._real, x)
        in_real, in_fake = between <= self._radii[:, None], between <= _kth(apart)
        own, across = float(apart.sum() / max(n * (n - 1), 1)), float(between.mean())
        return Measured(
            distance=float(self._sliced.between(projected, self._sorted[places])),
            energy=min(1.0, max(0.0, 1 - (own + self._apart) / (2 * max(across, 1e-12)))),
            diversity=min(1.0, max(0.0, self._number(apart)) / max(self._real_number(n), 1e-12)),
            **_fidelity(in_real, in_fake),
        )

    def _number(self, apart: Tensor) -> float:
        """How many different samples there are beside the first one, from the distances between all."""
        alike = (apart / max(ALIKE * self._apart, 1e-12)).square().neg().clamp_min(-50).exp()  # no denormal numbers
        return float(alike.sum(1).reciprocal().sum()) - 1

    def _real_number(self, n: int) -> float:
        """That of n real samples, or of all if there are fewer."""
        n = min(n, len(self))
        if n not in self._different:
            parts = torch.split(self._real[: len(self) // n * n], n)[:8]
            self._different[n] = sum(self._number(torch.cdist(x, x)) for x in parts) / len(parts)
        return self._different[n]

    def _featured(self, x: Any) -> Tensor:
        assert self._features is not None
        count, found = len(tree_leaves(x)[0]), self._features(tree_map(torch.clone, x))
        if not (isinstance(found, Tensor) and found.ndim >= 2 and len(found) == count and found.is_floating_point()):
            raise CoopInitError(
                f"features gave {describe(found)} for {count} samples; expected one row of numbers a sample, "
                f"({count}, d). Write for example features=lambda x: network(x).flatten(1)."
            )
        return found.detach().float().flatten(1).cpu()


def fidelity(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> dict[str, float]:
    """Precision, recall, density and coverage of two sets of points (N, d) and (M, d)."""
    real_radius, fake_radius = _kth(torch.cdist(real, real), k), _kth(torch.cdist(fake, fake), k)
    apart = torch.cdist(real, fake)
    return _fidelity(apart <= real_radius[:, None], apart <= fake_radius, k)


def _fidelity(in_real: Tensor, in_fake: Tensor, k: int = NEIGHBOURS) -> dict[str, float]:
    """All four from which generated point (column) lies in which real one's ball (row), and the reverse.

    A point lies in a ball of the other set if it is no further from its centre than the centre's k-th neighbour.
    """
    coverage = _share(in_real.any(1))
    return {
        "precision": min(_share(in_real.any(0)), _share(in_fake.any(0))),
        "recall": min(_share(in_fake.any(1)), coverage),
        "density": float(in_real.sum(0).float().mean() / k),
        "coverage": coverage,
    }


def _share(found: Tensor) -> float:
    return float(found.float().mean())


def _kth(apart: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Distance of each point to its k-th neighbour, itself not counted."""
    return apart.topk(min(k + 1, len(apart)), dim=1, largest=False).values[:, -1]
