"""What many rows say together: medians with bootstrap intervals, pairs of the same seed, collapses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

Row = dict[str, str]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Median:
    """A median and the 95 % interval that the bootstrap gives it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Median:
        sample = np.array(list(values), dtype=float)
        if not len(sample):
            return cls(math.nan, math.nan, math.nan)
        chosen = np.random.default_rng(0).integers(len(sample), size=(RESAMPLES, len(sample)))
        low, high = np.quantile(np.median(sample[chosen], axis=1), (0.025, 0.975), method="nearest")
        return cls(float(np.median(sample)), float(low), float(high))

    def __format__(self, kind: str) -> str:
        def one(value: float) -> str:
            return "never" if math.isinf(value) else format(value, kind)

        if math.isnan(self.value):
            return "–"
        if one(self.low) == one(self.high):
            return one(self.value)
        return f"{one(self.value)} [{one(self.low)}, {one(self.high)}]"


def number(row: Row, column: str) -> float:
    """A row's entry; a cost without an entry was never reached, anything else is unknown."""
    return float(row[column]) if row[column] else (math.inf if column.startswith("cost_to") else math.nan)


def median(rows: Iterable[Row], column: str) -> Median:
    values = (number(row, column) for row in rows)
    return Median.of(value for value in values if not math.isnan(value))


def paired(rows: Iterable[Row], others: Iterable[Row], column: str) -> Median:
    """The median over seeds of what `rows` have more than `others`."""
    of_seed = {row["seed"]: number(row, column) for row in others}
    return Median.of(
        number(row, column) - of_seed[row["seed"]]
        for row in rows
        if row["seed"] in of_seed and math.isfinite(number(row, column)) and math.isfinite(of_seed[row["seed"]])
    )


def collapses(rows: Iterable[Row]) -> str:
    """How many of how many."""
    flags = [int(row["collapsed"]) for row in rows]
    return f"{sum(flags)} of {len(flags)}" if flags else "–"


def grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows with the same key together, in the order of their first appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def curve(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """(Costs, scores) of a run."""
    points = [point.split(":") for point in row["curve"].split()]
    return np.array([float(t) for t, _ in points]), np.array([float(score) for _, score in points])


def late(row: Row) -> str:
    """The mean score over the last third of what the run cost, the curve between two points a straight line."""
    costs, scores = curve(row)
    moments = np.linspace(costs[-1] * 2 / 3, costs[-1], 200)
    return f"{np.interp(moments, costs, scores).mean():.5g}"


def kept_from(row: Row, score: float) -> str:
    """The cost from which on the score is never lower than this; empty where it is at the end."""
    costs, scores = curve(row)
    low = np.flatnonzero(~(scores >= score))  # a score that is not finite is low, too
    if not len(low):
        return f"{costs[0]:.1f}"
    last = low[-1]
    if last == len(scores) - 1:
        return ""
    share = (score - scores[last]) / (scores[last + 1] - scores[last])
    return f"{costs[last] + share * (costs[last + 1] - costs[last]):.1f}"
