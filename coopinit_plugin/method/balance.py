"""The chain's reach, which balances itself: refined samples should score as real ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE = 0.1  # η: a step, or the number of steps, changes by at most 10 % an iteration
CAP = 0.25  # the longest drift of a sample in one step, in σ
FEWEST, MOST = 2, 10  # steps K of a chain that balances its number of steps, too
QUICK = 2.0  # how much faster D learns at the fewest, in balance


@dataclass
class BalancedStep:
    """The drift coefficient a of the chain and its number of steps K, adapted after every iteration.

    a ← a·exp(η·clip(gap / s, −1, 1)), where gap = mean f(x) − mean f(x̃_K) and s is the mean of the two standard
    deviations: where the chain falls short of the data's score its steps grow, where it overshoots they shrink. This
    keeps gap ≈ 0, the balance in which short-run maximum likelihood is stable, whatever the size of D's gradients.

    A drift is held to a cap, beyond which longer steps reach no farther. There it is K that grows, by the same factor,
    and K that shrinks first once the chain overshoots. K is rounded, its reach is not: the K steps share what `number`
    of them may move a sample. D learns the faster the closer the chain is to the balance and the fewer steps it takes.

    Attributes:
        size: a, in units in which the data have standard deviation 1; ``None`` until a gradient has been seen.
        number: K before it is rounded.
        least: The smallest K.
        most: The largest; where K is the user's it is the smallest, too.
        cap: The longest drift of one of `number` steps, in σ.
        pace: D's learning rate, in units of the one that is set: 2 where the fewest steps bring refined samples to the
            score of real ones, 1 where the chain is a standard deviation off, takes twice as many steps, or K is given.
    """

    size: float | None = None
    number: float = FEWEST
    least: int = FEWEST
    most: int = MOST
    cap: float | None = CAP
    pace: float = 1.0

    @property
    def state(self) -> tuple[float | None, float, float]:
        """What changes from one iteration to the next: a, K before it is rounded, D's pace."""
        return self.size, self.number, self.pace

    @state.setter
    def state(self, values: tuple[float | None, float, float]) -> None:
        self.size, self.number, self.pace = values

    @property
    def steps(self) -> int:
        """K."""
        return round(self.number)

    @property
    def longest(self) -> float | None:
        """The cap of one of the K steps: see :func:`coopinit_plugin.method.langevin.langevin`."""
        return None if self.cap is None else self.cap * self.number / self.steps

    def start(self, noise: float, gradient_rms: float) -> None:
        """Let the first drift be as long as the noise (0.06 σ where there is none)."""
        if gradient_rms > 0:
            self.size = (noise or 0.06) / gradient_rms

    def update(self, gap: float, score_std: float, drift: float = 0.0) -> None:
        """Let the chain reach farther, or less far, by the score gap of the iteration that has just ended.

        Args:
            gap: mean f(x) − mean f(x̃_K).
            score_std: s, the mean of the standard deviations of f(x) and f(x̃_K).
            drift: How long the drift would have been without the cap, in σ.
        """
        if self.size is None:
            return
        ratio = gap / score_std if score_std > 0 else math.copysign(1.0, gap)  # D's that give one score a batch
        change = math.exp(RATE * min(1.0, max(-1.0, ratio)))
        capped = self.longest is not None and drift > self.longest
        if self.least < self.most and (capped if change > 1 else self.number > self.least):
            self.number = min(max(self.number * change, self.least), self.most)
        else:
            self.size *= change
        if self.least < self.most:
            self.pace = 1 + max(0.0, QUICK * self.least / self.number - 1) * max(0.0, 1 - abs(ratio))


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

    def update(self, gap: float, score_std: float, drift: float = 0.0) -> None:
        """Stay as it is."""


def step_size(given: float | str, steps: int | str = "auto") -> BalancedStep:
    """The chain that ``WarmStartConfig.step_size`` and ``WarmStartConfig.langevin_steps`` ask for."""
    least, most = (FEWEST, MOST) if steps == "auto" else (int(steps), int(steps))
    if given == "balanced":
        return BalancedStep(None, least, least, most)
    return FixedStep(None, least, least, least, chosen=float(given) ** 2 / 2)
