"""What an iteration is judged by, and its mean over all processes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopinit_plugin.method.team import ALONE, Team


class Moments(NamedTuple):
    """What an iteration is judged by: tensors on the device as it leaves them, floats once they are read."""

    real_mean: Any  # of f(x)
    real_variance: Any
    refined_mean: Any  # of f(x̃_K)
    refined_variance: Any
    displacement: Any  # mean squared displacement of the chain, in σ²
    drift: Any  # how long a drift would have been without the cap, in σ; 0 if there is none


class Statistics(NamedTuple):
    """The moments of all processes together, as plain floats."""

    real: float  # mean f(x)
    refined: float  # mean f(x̃_K)
    score_std: float  # s, the mean of the two standard deviations
    displacement: float  # RMS of x̃_K − G(z), in σ
    drift: float  # mean drift of the chain's last step had there been no cap, in σ

    @classmethod
    def read(cls, moments: Moments, team: Team = ALONE) -> Statistics:
        """Read this process's moments from the device, once, and pool those of all processes."""
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
