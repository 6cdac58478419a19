"""The chain's step size, which balances itself: refined samples should score as real ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE = 0.1  # η: the step size changes by at most 10 % an iteration
CAP = 0.25  # the longest drift of a sample in one step, in σ
STEPS = 2  # K, if the user does not say
QUICK = 2.0  # how many times faster D learns in balance


@dataclass
class BalancedStep:
    """The drift coefficient a of the chain, adapted after every iteration unless the user has chosen it.

    a ← a·exp(η·clip(gap / s, −1, 1)), where gap = mean f(x) − mean f(x̃_K) and s is the mean of the two standard
    deviations: if the chain falls short of the data's score its steps grow, if it overshoots they shrink. This keeps
    gap ≈ 0, the balance in which short-run maximum likelihood is stable, whatever the size of D's gradients. Beyond the
    cap a larger a reaches no farther, so it does not grow there: it would take the longer to come back.
    """

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
        """Let the chain reach farther, or less far, by the score gap of the iteration that has just ended.

        `drift` is how long a drift would have been without the cap, in σ.
        """
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
