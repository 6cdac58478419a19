"""One start beside another over a few seeds: who fails more often, and whose samples end more like the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma
from statistics import mean, stdev

from coopinit_plugin.trial.run import Run

SURE = 0.95  # posterior probability that one start fails more often than the other
LIKELY = 0.8  # one that is worth more seeds
MATTERS = 0.1  # of likeness to the data at the end; less is not worth a warm-up
STUDENT = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83)  # 95 % quantiles for 1 to 9 degrees of freedom


@dataclass(frozen=True)
class Comparison:
    """One start beside another, over the seeds that both have.

    Attributes:
        lost: Runs of the one that were lost.
        of: Of how many.
        lost_by_other: Runs of the other that were lost.
        of_other: Of how many.
        fails_more: Probability that the one fails more often, uniform priors.
        gain: How much more like the data the other ends: mean over seeds usable in both; NaN if none.
        low: Lower end of its 90 % interval.
        high: Upper end.
        seeds: Usable in both.
    """

    lost: int
    of: int
    lost_by_other: int
    of_other: int
    fails_more: float
    gain: float
    low: float
    high: float
    seeds: int

    @property
    def says(self) -> str:
        """Of the other start: "better", "worse", "perhaps" better, or "same"."""
        if self.fails_more >= SURE or self.fails_more <= 1 - SURE:
            return "better" if self.fails_more > 0.5 else "worse"
        if self.gain >= MATTERS and self.low > 0:
            return "better"
        if self.gain <= -MATTERS and self.high < 0:
            return "worse"
        return "perhaps" if self.fails_more >= LIKELY or self.gain >= MATTERS else "same"


def compare(runs: Sequence[Run], one: str, other: str) -> Comparison:
    """The two starts beside each other; runs that an error of the user's code ended say nothing."""
    a, b = ({run.seed: run for run in runs if run.arm == arm and run.decided} for arm in (one, other))
    lost, lost_by_other = (sum(not run.usable for run in arm.values()) for arm in (a, b))
    both = [seed for seed in a if seed in b and a[seed].usable and b[seed].usable]
    gains = [b[seed].end("likeness") - a[seed].end("likeness") for seed in both]
    gain, half = mean(gains) if gains else math.nan, math.inf
    if len(gains) > 1:
        half = STUDENT[min(len(gains) - 2, len(STUDENT) - 1)] * stdev(gains) / math.sqrt(len(gains))
    more = _more_often(lost, len(a), lost_by_other, len(b))
    return Comparison(lost, len(a), lost_by_other, len(b), more, gain, gain - half, gain + half, len(both))


def _more_often(lost: int, of: int, lost_by_other: int, of_other: int) -> float:
    """Posterior probability that the first of two shares is the larger one, uniform priors."""
    a, b, c, d = lost_by_other + 1, of_other - lost_by_other + 1, lost + 1, of - lost + 1

    def beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    return sum(math.exp(beta(a + i, b + d) - math.log(d + i) - beta(1 + i, d) - beta(a, b)) for i in range(c))
