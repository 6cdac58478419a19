"""Precision, recall, density and coverage by nearest neighbours, and the Fréchet distance.

Kynkäänniemi et al. 2019; Naeem et al. 2020; Dowson and Landau 1982, for GANs Heusel et al. 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 5
COMPONENTS = 32


class PrincipalComponents:
    """The space in which neighbours are sought: the leading components of the real samples.

    Args:
        real: Samples (N, ...).
        components: How many are kept.
    """

    def __init__(self, real: Tensor, components: int = COMPONENTS) -> None:
        flat = real.flatten(1)
        self._mean = flat.mean(0)
        self._axes = torch.linalg.eigh(torch.cov((flat - self._mean).T)).eigenvectors[:, -components:]

    def __call__(self, x: Tensor) -> Tensor:
        """Coordinates (N, components)."""
        return (x.flatten(1) - self._mean) @ self._axes


def fidelity(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> dict[str, float]:
    """All four of two sets of points (N, d) and (M, d).

    A point lies in a ball of the other set where it is no further from its centre than the centre's k-th neighbour.
    """
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    apart = torch.cdist(real, fake)
    in_real, in_fake = apart <= real_radius[:, None], apart <= fake_radius
    return {
        "precision": float(in_real.any(0).float().mean()),
        "recall": float(in_fake.any(1).float().mean()),
        "density": float(in_real.sum(0).float().mean() / k),
        "coverage": float(in_real.any(1).float().mean()),
    }


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th neighbour, itself not counted."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values


Moments = tuple[Tensor, Tensor]


def moments(features: Tensor) -> Moments:
    """Mean (d,) and covariance (d, d) of features (N, d)."""
    return features.double().mean(0), torch.cov(features.double().T)


def frechet(a: Moments, b: Moments) -> float:
    """Fréchet distance of the normal distributions of these moments: an FID if the features are Inception's."""
    values, vectors = torch.linalg.eigh(b[1])
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ a[1] @ root).clamp_min(0).sqrt().sum()
    return float((a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * cross)
