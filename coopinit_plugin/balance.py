"""The step size that balances itself: refined samples should score as real ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE = 0.1  # η: a step changes by at most 10 % an iteration
CAP = 0.25  # the longest drift of a sample in one step, in σ


@dataclass
class BalancedStep:
    """The drift coefficient a of the chain, adapted after every iteration.

    a ← a·exp(η·clip(gap / s, −1, 1)), where gap = mean f(x) − mean f(x̃_K) and s is the mean of the two standard
    deviations: where the chain falls short of the data's score its steps grow, where it overshoots they shrink. This
    keeps gap ≈ 0, the balance in which short-run maximum likelihood is stable, whatever the size of D's gradients.

    Attributes:
        size: a, in units in which the data have standard deviation 1; ``None`` until a gradient has been seen.
        cap: see :func:`coopinit_plugin.langevin.langevin`.
    """

    size: float | None = None
    cap: float | None = CAP

    def start(self, noise: float, gradient_rms: float) -> None:
        """Let the first drift be as long as the noise (0.06 σ where there is none)."""
        if gradient_rms > 0:
            self.size = (noise or 0.06) / gradient_rms

    def update(self, gap: float, spread: float) -> None:
        """Grow or shrink the step by the score gap of the iteration that has just ended."""
        if self.size is not None:
            ratio = gap / spread if spread > 0 else math.copysign(1.0, gap)  # D's that give one score a batch
            self.size *= math.exp(RATE * min(1.0, max(-1.0, ratio)))


@dataclass
class FixedStep(BalancedStep):
    """The classic CoopNets chain: a = δ²/2 throughout, no cap.

    Attributes:
        chosen: δ²/2.
    """

    cap: float | None = None
    chosen: float = 0.0

    def start(self, noise: float, gradient_rms: float) -> None:
        """Take the chosen size, once there is a gradient."""
        if gradient_rms > 0:
            self.size = self.chosen

    def update(self, gap: float, spread: float) -> None:
        """Stay as it is."""


def step_size(given: float | str) -> BalancedStep:
    """The step that ``WarmStartConfig.step_size`` asks for."""
    return BalancedStep() if given == "balanced" else FixedStep(chosen=float(given) ** 2 / 2)
