"""Distances between samples and data, for data of any shape and without any trained network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.team import ALONE, Team

WIDEST = 16_384  # elements of a sample that the projections see; more are sampled at random


class SlicedWasserstein:
    """Sliced Wasserstein-2 distance over fixed random directions (Bonneel et al. 2015).

    The root of the mean, over directions w with ‖w‖ = 1, of W₂² between the projections ⟨w, x/σ⟩ of two sample sets.
    Cheap, and without a network to trust: on stacked digits it falls as the number of covered modes grows. It sees
    means, variances and correlations, hardly more: a Gaussian of the digits' covariance is at 0.03 σ from them. And N
    samples a side are not at 0 from their like but at about 2/√N: 0.06 to 0.08 σ with 1024, 0.2 to 0.3 σ with 64.

    Args:
        x: Samples whose shape and device count.
        scale: σ of each tensor of a sample; that of `x`, if left out.
        directions: How many.
        seed: Draws the directions.
    """

    def __init__(self, x: Any, scale: list[float] | None = None, directions: int = 128, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._scale = scale if scale is not None else sigmas(x)
        leaves = tree_leaves(x)
        device, ends = leaves[0].device, torch.tensor([leaf[0].numel() for leaf in leaves]).cumsum(0).tolist()
        width = ends[-1]
        self._chosen: list[Tensor] | None = None  # of each tensor's elements
        if width > WIDEST:
            chosen = torch.randperm(width, generator=generator)[:WIDEST].sort().values.to(device)
            parts = zip([0, *ends], ends, strict=False)
            self._chosen = [chosen[(chosen >= begin) & (chosen < end)] - begin for begin, end in parts]
            width = WIDEST
        w = torch.randn(width, directions, generator=generator)
        self._directions = (w / w.norm(dim=0)).to(device)

    def project(self, x: Any) -> Tensor:
        """Projections of the samples, ``(N, directions)``."""
        return self._flat(x) @ self._directions

    @staticmethod
    def between(a: Tensor, b: Tensor) -> Tensor:
        """The distance between two sets of projections of equal size, in σ."""
        return (_sorted(a) - _sorted(b)).square().mean().sqrt()

    def _flat(self, x: Any) -> Tensor:
        flat = [leaf.detach().flatten(1) for leaf in tree_leaves(x)]
        if self._chosen is not None:  # before anything else is done with what may be large
            flat = [elements[:, chosen] for elements, chosen in zip(flat, self._chosen, strict=True)]
        return torch.cat([part.float() / sigma for part, sigma in zip(flat, self._scale, strict=True)], dim=1)


def _sorted(projections: Tensor) -> Tensor:
    """Each direction's projections in order, ``(directions, N)``."""
    rows = projections.detach().t().clone(memory_format=torch.contiguous_format)
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    rows.numpy().sort(axis=1)  # in place, 1024 x 128 in 0.24 ms; torch's sort takes 5.9 ms there
    return rows


def sigmas(x: Any, team: Team = ALONE) -> list[float]:
    """σ of each tensor of the samples.

    Args:
        x: Samples, a tensor ``(N, ...)`` or a nest of such.
        team: The processes that share the samples.
    """
    rows = team.gather(
        torch.stack([torch.stack(torch.var_mean(leaf.float(), correction=0)) for leaf in tree_leaves(x)])
    )
    return (rows[:, :, 0].mean(0) + rows[:, :, 1].var(0, correction=0)).sqrt().tolist()
