"""What an iteration is judged by, and its mean over all processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopinit_plugin.method.team import ALONE, Team


class Moments(NamedTuple):
    """What an iteration is judged by: tensors on the device as it leaves them, floats once they are read.

    Attributes:
        real_mean: Mean f(x).
        real_variance: Variance of f(x).
        refined_mean: Mean f(x̃).
        refined_variance: Variance of f(x̃).
        displacement: Mean squared displacement of the chain, in σ².
        drift: How long a drift would have been without the cap, in σ; 0 if there is none.
    """

    real_mean: Any
    real_variance: Any
    refined_mean: Any
    refined_variance: Any
    displacement: Any
    drift: Any


class Statistics(NamedTuple):
    """The moments of all processes together, as plain floats.

    Attributes:
        real: Mean f(x).
        refined: Mean f(x̃_K).
        score_std: s, the mean of the two standard deviations.
        displacement: RMS of x̃_K − G(z), in σ.
        drift: Mean drift of the chain's last step had there been no cap, in σ.
    """

    real: float
    refined: float
    score_std: float
    displacement: float
    drift: float

    @classmethod
    def read(cls, moments: Moments, team: Team = ALONE) -> Statistics:
        """Read the moments from the device, once, and pool those of all processes.

        Args:
            moments: Of this process.
            team: The processes that share the work.
        """
        rows = team.gather(torch.stack([value.float() for value in moments])).tolist()
        each = Moments(*zip(*rows, strict=True))
        real, real_std = _pooled(each.real_mean, each.real_variance)
        refined, refined_std = _pooled(each.refined_mean, each.refined_variance)
        displacement, drift = (sum(values) / len(rows) for values in (each.displacement, each.drift))
        return cls(real, refined, (real_std + refined_std) / 2, displacement**0.5, drift)


def _pooled(means: Any, variances: Any) -> tuple[float, float]:
    """Mean and standard deviation over equal parts, from those of each."""
    mean = sum(means) / len(means)
    return mean, (sum(v + (m - mean) ** 2 for m, v in zip(means, variances, strict=True)) / len(means)) ** 0.5


def moments(f_real: Tensor, f_refined: Tensor, teaching: Tensor, drift: Tensor | None) -> Moments:
    """Of the scores of real and of refined samples, ``(N,)``, the teaching loss, and the chain's uncapped drift."""
    real_variance, real_mean = torch.var_mean(f_real.detach(), correction=0)
    refined_variance, refined_mean = torch.var_mean(f_refined.detach(), correction=0)
    drift = torch.zeros_like(real_mean) if drift is None else drift
    return Moments(real_mean, real_variance, refined_mean, refined_variance, teaching.detach(), drift)
