"""Distances between samples and data, for data of any shape and without any trained network."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.team import ALONE, Team

WITHIN = 3  # elements lie further apart than samples: σ of all numbers would be twice the samples' own, or more
WIDEST = 16_384  # elements of a sample that the projections see; more are sampled at random
NEIGHBOUR = 3  # a sample reaches as far as to this neighbour


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
        w = torch.randn(width, directions, generator=generator, dtype=torch.float32)
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


def among(generated: Tensor, real: Tensor) -> tuple[float, float] | None:
    """Which share of generated samples lies where data lie, and which share of real ones: the scale for the former.

    Both are given as projections, ``(N, directions)``. A real sample that comes twice, as in a second epoch, counts
    once; ``None`` if there are too few of them to tell.

    A sample lies among the data if it is no farther from one of them than that one's third neighbour, and one of them
    is no farther from it than its own third neighbour: the precision of Kynkäänniemi et al. 2019, made symmetric as in
    Khayatkhoei and AbdAlmageed 2023, here in random projections. In many dimensions the first holds for whatever lies
    near the middle of the data, the second for whatever is spread widely. Half of the real samples are the data, the
    others are judged. The sliced distance alone cannot tell: samples that fill the space between far-apart modes are
    close by it.
    """
    apart = torch.unique(real.float().cpu().mul(1e4).round(), dim=0) / 1e4
    if len(apart) < 32:
        return None
    data, held = apart[torch.randperm(len(apart), generator=torch.Generator().manual_seed(0))].chunk(2)
    apart_from = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")  # exact far from 0, too

    def reach(x: Tensor) -> Tensor:
        return apart_from(x, x).kthvalue(NEIGHBOUR + 1, dim=1).values  # the nearest one is the sample itself

    def share(x: Tensor) -> float:
        apart = apart_from(x, data)
        return float(((apart <= reach(data)).any(1) & (apart <= reach(x)[:, None]).any(1)).float().mean())

    return share(generated[: len(held)].float().cpu()), share(held)


def _sorted(projections: Tensor) -> Tensor:
    """Each direction's projections in order, ``(directions, N)``."""
    rows = projections.detach().t().clone(memory_format=torch.contiguous_format)
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    rows.numpy().sort(axis=1)  # in place, 1024 x 128 in 0.24 ms; torch's sort takes 5.9 ms there
    return rows


def sigmas(*batches: Any, team: Team = ALONE) -> list[float]:
    """σ of each tensor of the samples, over all the batches, each of tensors ``(N, ...)``, and over all processes.

    All numbers of a tensor count alike, but for data whose elements lie further apart than the samples do (a constant
    background, padding, columns of other units): there it is the spread of each element about its own mean.
    """
    tensors = zip(*map(tree_leaves, batches), strict=True)
    return [_sigma([leaf.float().flatten(1) for leaf in leaves], team) for leaves in tensors]


def _sigma(batches: list[Tensor], team: Team) -> float:
    centre, n = batches[0].mean(0), sum(len(x) for x in batches)
    moments = [torch.stack([(x - centre).sum(0), (x - centre).square().sum(0)]) for x in batches]
    first, second = torch.stack(moments).sum(0) / n  # of each element, about its mean in the first batch
    means = centre + first
    each = (second - first.square()).mean()
    rows = team.gather(torch.stack([each, means.var(correction=0), means.mean()]))
    within, between = rows[:, 0].mean(), rows[:, 1].mean() + rows[:, 2].var(correction=0)
    return float((within if 0 < WITHIN * within < between else within + between).sqrt())
