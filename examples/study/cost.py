"""What a run costs: time, counted in adversarial iterations of its setting, whatever the machine does meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def clock() -> float:
    """Seconds: of this process's CPU time, or by the wall where a GPU works, all it was given done."""
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Cost:
    """The time of this process, in units of the time that one adversarial iteration of the setting takes in it.

    The unit is the run's own mean iteration, so that a machine that is slower today, or busy, tilts no comparison. A
    run under another loss than the setting's pays for each of its iterations what it takes in those of the setting.

    Args:
        iteration: Seconds of one of the run's adversarial iterations, until it has done some.
        price: Of one of them.

    Attributes:
        iterations: Adversarial iterations done.
    """

    def __init__(self, iteration: float, price: float = 1.0) -> None:
        self.iterations, self._price = 0, price
        self._iteration = iteration
        self._start: float | None = None
        self._spent = 0.0
        self._since: float | None = clock()

    @property
    def seconds(self) -> float:
        """So far, pauses left out."""
        return self._spent + (0.0 if self._since is None else clock() - self._since)

    @property
    def total(self) -> float:
        """So far."""
        return self.at(self.iterations)

    def at(self, iterations: int) -> float:
        """When so many adversarial iterations were done."""
        start = self.seconds if self._start is None else self._start
        own = (self.seconds - start) / self.iterations if self.iterations else self._iteration
        return (start / own + iterations) * self._price

    def begin(self) -> None:
        """The start is over, the adversarial stage begins."""
        self._start = self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Measuring costs nothing."""
        self._spent, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = clock()


def seconds_apart(stages: Sequence[Iterator[None]], rounds: int, until: type[Exception]) -> list[float]:
    """Median seconds of a step of each, taken in turns; a stage may end early by this exception."""
    taken: list[list[float]] = [[] for _ in stages]
    for _ in range(rounds):
        for stage, times in zip(stages, taken, strict=True):
            began = clock()
            with suppress(until, StopIteration):  # the one where it ends, the other ever after
                next(stage)
                times.append(clock() - began)
            if not times:  # it ended in its first step
                times.append(clock() - began)
    return [statistics.median(times) for times in taken]
