"""What an iteration is judged by, and its mean over all processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopinit_plugin.method.team import ALONE, Team


class Statistics(NamedTuple):
    """What an iteration is judged by: tensors on the device as it leaves them, floats once they are read."""

    real: Any  # mean f(x)
    real_variance: Any
    refined: Any  # mean f(x̃_K)
    refined_variance: Any
    squared: Any  # mean squared displacement of the chain, in σ²
    drift: Any  # how long the chain's last drift would have been without the cap, in σ; 0 if there is no cap

    @classmethod
    def of(cls, f_real: Tensor, f_refined: Tensor, teaching: Tensor, drift: Tensor | None) -> Statistics:
        """Of the scores of real and of refined samples, ``(N,)``, the teaching loss, and the chain's uncapped drift."""
        real_variance, real = torch.var_mean(f_real.detach(), correction=0)
        refined_variance, refined = torch.var_mean(f_refined.detach(), correction=0)
        drift = torch.zeros_like(real) if drift is None else drift
        return cls(real, real_variance, refined, refined_variance, teaching.detach(), drift)

    def read(self, team: Team = ALONE) -> Statistics:
        """Read them from the device, once, and pool those of all processes."""
        rows = team.gather(torch.stack([value.float() for value in self])).tolist()
        each = Statistics(*zip(*rows, strict=True))
        mean = Statistics(*(sum(values) / len(rows) for values in each))
        return mean._replace(
            real_variance=_pooled(each.real_variance, each.real, mean.real),
            refined_variance=_pooled(each.refined_variance, each.refined, mean.refined),
        )

    @property
    def score_std(self) -> float:
        """s, the mean of the two standard deviations."""
        return (self.real_variance**0.5 + self.refined_variance**0.5) / 2

    @property
    def displacement(self) -> float:
        """RMS of x̃_K − G(z), in σ."""
        return self.squared**0.5


def _pooled(variances: Any, means: Any, mean: float) -> float:
    """The variance over equal parts, from those of each."""
    return sum(v + (m - mean) ** 2 for v, m in zip(variances, means, strict=True)) / len(means)
