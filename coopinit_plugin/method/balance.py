"""What an iteration is judged by, and the chain's step size, which balances itself by it."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coopinit_plugin.method.pair import ALONE, Team

RATE = 0.1  # η: the step size changes by at most 10 % an iteration
CAP = 0.25  # the longest drift of a sample in one step, in σ
STEPS = 2  # K, if the user does not say
QUICK = 2.0  # how many times faster D learns in balance


class Statistics(NamedTuple):
    """What an iteration is judged by: tensors on the device as it leaves them, floats once they are read."""

    real: Any  # mean f(x)
    real_variance: Any
    refined: Any  # mean f(x̃_K)
    refined_variance: Any
    squared: Any  # mean squared displacement of the chain, in σ²
    drift: Any  # how long the chain's last drift would have been without the cap, in σ; 0 if there is no cap

    @classmethod
    def of(cls, f_real: Tensor, f_refined: Tensor, teaching: Tensor, drift: Tensor | None) -> "Statistics":
        """Of the scores of real and of refined samples, ``(N,)``, the teaching loss, and the chain's uncapped drift."""
        real_variance, real = torch.var_mean(f_real.detach(), correction=0)
        refined_variance, refined = torch.var_mean(f_refined.detach(), correction=0)
        drift = torch.zeros_like(real) if drift is None else drift
        return cls(real, real_variance, refined, refined_variance, teaching.detach(), drift)

    def read(self, team: Team = ALONE) -> "Statistics":
        """Read them from the device, once, and pool those of all processes."""
        rows = [Statistics(*row) for row in team.gather(torch.stack([value.float() for value in self])).tolist()]
        mean = Statistics(*(sum(values) / len(rows) for values in zip(*rows, strict=True)))
        return mean._replace(
            real_variance=sum(row.real_variance + (row.real - mean.real) ** 2 for row in rows) / len(rows),
            refined_variance=sum(row.refined_variance + (row.refined - mean.refined) ** 2 for row in rows) / len(rows),
        )

    @property
    def score_std(self) -> float:
        """s, the mean of the two standard deviations."""
        return (self.real_variance**0.5 + self.refined_variance**0.5) / 2

    @property
    def displacement(self) -> float:
        """RMS of x̃_K − G(z), in σ."""
        return self.squared**0.5


@dataclass
class BalancedStep:
    """The drift coefficient a of the chain, adapted after every iteration unless the user has chosen it."""

    steps: int = STEPS  # K
    size: float | None = None  # a, in units in which the data have standard deviation 1; None until there is a gradient
    cap: float | None = CAP  # the longest drift of one step, in σ
    pace: float = 1.0  # D's learning rate over the one that is set: 2 in balance, 1 a standard deviation or more off
    chosen: float | None = None  # a = δ²/2 throughout: the classic CoopNets chain, which has no cap

    def start(self, noise: float, gradient_rms: float) -> None:
        """Take the chosen size, or let the first drift be as long as the noise (0.06 σ if there is none)."""
        if gradient_rms > 0:
            self.size = (noise or 0.06) / gradient_rms if self.chosen is None else self.chosen

    def update(self, gap: float, score_std: float, drift: float = 0.0) -> None:
        """Let a ← a·exp(η·clip(gap/s, −1, 1)), gap = mean f(x) − mean f(x̃_K), but no growth if the drift was cut."""
        if self.size is None or self.chosen is not None:
            return
        ratio = gap / score_std if score_std > 0 else math.copysign(1.0, gap)  # D's that give one score a batch
        ratio = min(1.0, max(-1.0, ratio))
        if ratio < 0 or self.cap is None or drift <= self.cap:
            self.size *= math.exp(RATE * ratio)
        self.pace = 1 + (QUICK - 1) * (1 - abs(ratio))


def step_size(given: float | str, steps: int | str = "auto") -> BalancedStep:
    """The chain that ``WarmStartConfig.step_size`` and ``WarmStartConfig.langevin_steps`` ask for."""
    number = STEPS if steps == "auto" else int(steps)
    return BalancedStep(number) if given == "balanced" else BalancedStep(number, cap=None, chosen=float(given) ** 2 / 2)
