"""The Fréchet distance of features (Dowson and Landau 1982; for GANs Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

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
