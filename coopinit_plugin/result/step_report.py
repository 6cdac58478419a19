"""The numbers of one iteration: pooled over processes, reported, and explained where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError


@dataclass(frozen=True)
class StepReport:
    """Statistics of one iteration, plain floats.

    Attributes:
        iteration: From 1.
        real: Mean logit of the real batch.
        refined: Mean logit of the refined samples.
        spread: Mean of the two standard deviations s; the balance looks at (real − refined) / s.
        step_size: Drift coefficient a of this iteration's chain, in units in which the data have σ = 1.
        langevin_steps: Steps K of it.
        displacement: RMS of x̃_K − G(z), in σ.
        distance: Newest sliced Wasserstein distance of generated to real samples, in σ; ``None`` before the first.
        seconds: Since the first iteration began.
    """

    iteration: int
    real: float
    refined: float
    spread: float
    step_size: float
    langevin_steps: int
    displacement: float
    distance: float | None
    seconds: float

    @property
    def gap(self) -> float:
        """The score gap, mean f(x) − mean f(x̃_K)."""
        return self.real - self.refined

    @property
    def in_words(self) -> str:
        """Where the warm-up stands, for a progress bar."""
        ratio = self.gap / max(self.spread, 1e-12)
        leader = "real" if ratio > 0 else "refined"
        balance = "no score gap" if abs(ratio) < 0.05 else f"{leader} leads by {abs(ratio):.2f}"
        distance = "" if self.distance is None else f"{self.distance:.2f} σ from data, "
        return f"{distance}{balance}, moved {self.displacement:.2f} σ"

    @property
    def measures(self) -> dict[str, float]:
        """What a tracker plots, by name."""
        found = {
            "distance": self.distance,
            "score_gap": self.gap,
            "displacement": self.displacement,
            "step_size": self.step_size,
            "langevin_steps": float(self.langevin_steps),
            "logit_real": self.real,
            "logit_refined": self.refined,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Statistics:
    """What :class:`coopinit_plugin.method.iteration.Outcome` holds, read from the device.

    Attributes:
        real: Mean f(x).
        refined: Mean f(x̃_K).
        spread: Mean of the two standard deviations.
        displacement: RMS of x̃_K − G(z), in σ.
        drift: How long the chain's last drift would have been without the cap, in σ.
    """

    real: float
    refined: float
    spread: float
    displacement: float
    drift: float

    @classmethod
    def pooled(cls, rows: list[list[float]]) -> Statistics:
        """Over all processes, from one row of each."""
        real, real_std = _pooled([row[0] for row in rows], [row[1] for row in rows])
        refined, refined_std = _pooled([row[2] for row in rows], [row[3] for row in rows])
        displacement, drift = (sum(row[column] for row in rows) / len(rows) for column in (4, 5))
        return cls(real, refined, (real_std + refined_std) / 2, displacement**0.5, drift)

    def check(self, iteration: int, x: Any, config: WarmStartConfig) -> None:
        """Stop where something is not finite.

        Raises:
            CoopInitError: saying what, at which iteration, and what to change.
        """
        named = {
            "D's logits of real samples": self.real,
            "D's logits of refined samples": self.refined,
            "the refined samples": self.displacement,
        }
        broken = [name for name, value in named.items() if not math.isfinite(value)]
        if not broken and math.isfinite(self.spread):
            return
        check_data(x, f"Iteration {iteration}")
        step = "" if config.step_size == "balanced" else ' and step_size="balanced"'
        raise CoopInitError(
            f"Iteration {iteration}: not finite any more: {', '.join(broken) or 'the spread of the logits'}. The "
            "warm-up has diverged; your networks are untouched. Try WarmStartConfig(lr_discriminator="
            f"{config.lr_discriminator / 4:g}, energy_l2={max(config.energy_l2, 0.1) * 10:g}){step}, or fewer Langevin "
            "steps. A square root or a division without an epsilon in the networks makes such gradients, too."
        )


def spread(x: Any, gather: Callable[[Tensor], Tensor]) -> list[float]:
    """σ of each tensor of the samples, over all processes."""
    rows = gather(torch.stack([torch.stack(torch.var_mean(leaf.float(), correction=0)) for leaf in tree_leaves(x)]))
    return (rows[:, :, 0].mean(0) + rows[:, :, 1].var(0, correction=0)).sqrt().tolist()


def check_data(x: Any, when: str) -> None:
    """Refuse samples that are not finite.

    Raises:
        CoopInitError: saying when, and how many numbers.
    """
    wrong = sum(int((~torch.isfinite(leaf)).sum()) for leaf in tree_leaves(x))
    if wrong:
        raise CoopInitError(
            f"{when}: the loader gave data that are not finite ({wrong} numbers of the batch are NaN or infinite). "
            "Your networks are untouched. Clean those samples in the dataset (torch.nan_to_num)."
        )


def check_weights(module: nn.Module, letter: str, config: WarmStartConfig) -> None:
    """Refuse weights that are not finite.

    Raises:
        CoopInitError: naming the parameter, and what to change.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CoopInitError(
                f"The warm-up left {letter}'s {name} not finite: its last gradient was not. Your networks are "
                f"untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
                f"lr_generator={config.lr_generator / 4:g}); a square root or division without an epsilon in the "
                "networks (minibatch standard deviation, norms) gives such gradients."
            )


def _pooled(means: list[float], variances: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over equal parts, from those of each."""
    mean = sum(means) / len(means)
    return mean, (sum(v + (m - mean) ** 2 for m, v in zip(means, variances, strict=True)) / len(means)) ** 0.5
