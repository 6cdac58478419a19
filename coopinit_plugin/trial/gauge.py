"""What a pilot and its runs cost, and how a run stands on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.calling.adapter import Adapter, bound
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.host.networks import device_of, unwrap
from coopinit_plugin.host.randomness import random_state, seed_all, set_random_state
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.nests import move
from coopinit_plugin.result.provenance import pack, preview
from coopinit_plugin.trial.data import Subset
from coopinit_plugin.trial.fid import fid
from coopinit_plugin.trial.measures import Measures
from coopinit_plugin.trial.readings import END, Reading, alarms, scores

POINTS = 12  # readings of a run
MEASURING = 0.04  # of a run's time may go into the readings, those to come included
BESIDE = 0.93  # of the minutes is on the runs' clocks, until it is known; readings take most of the rest
REPORT = 3.0  # seconds kept for writing the report, or a tenth of what is left


@dataclass(frozen=True)
class Plan:
    """What all runs of a pilot have in common.

    Attributes:
        make: The user's.
        step: The user's ``train_step``.
        data: To train on.
        held: Batches held back.
        adapter: How G and D are called, complete.
        given: What the user said of that.
        measures: Against the one half of what is held back.
        real: That half.
        config: Of the warm-up.
        by_clock: Whether budgets are in seconds.
    """

    make: Callable[[int], tuple[Any, ...]]
    step: Callable[..., Any]
    data: Subset
    held: list[Any]
    adapter: Adapter
    given: Adapter | None
    measures: Measures
    real: Any
    config: WarmStartConfig
    by_clock: bool


class Clock:
    """What a run has cost so far; stands still while something is measured."""

    def __init__(self, budget: float, by_clock: bool) -> None:
        self.budget, self._by_clock = budget, by_clock
        self.seconds = self.charged = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside."""
        began = time.perf_counter()
        try:
            yield
            if torch.accelerator.is_available() and self._by_clock:
                torch.accelerator.synchronize()
        finally:
            self.seconds += time.perf_counter() - began

    @property
    def share(self) -> float:
        """Of the budget."""
        return (self.seconds if self._by_clock else self.charged) / self.budget


class TimeLeft:
    """Of the pilot's minutes, if they are bounded; `spent` seconds went before an interruption."""

    def __init__(self, minutes: float | None, spent: float) -> None:
        self._began = time.monotonic() - spent
        self._all = 60 * minutes if minutes else math.inf
        self._clocks, self._wall = BESIDE, 1.0

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began

    @property
    def for_runs(self) -> float:
        """Seconds that are left for the clocks of the runs."""
        left = self._all - self.spent
        return self._clocks / self._wall * (left - min(REPORT, left / 10))

    def learn(self, clock: float, wall: float) -> None:
        """A run of so many seconds by its own clock has taken so many in all."""
        self._clocks, self._wall = self._clocks + clock, self._wall + wall


class Gauge:
    """Reads a run's state now and then, and leaves everything as it was.

    G and D are in the mode in which the user's step leaves them; the latents are the same at every reading.
    """

    def __init__(self, plan: Plan, G: nn.Module, D: nn.Module, clock: Clock, readings: list[Reading]) -> None:
        self._plan, self._clock, self._nets = plan, clock, (unwrap(G), unwrap(D))
        self._pair = bound(*self._nets, plan.adapter)
        self._device = device_of(self._nets[0]) or torch.device("cpu")
        self._train = next(iter(plan.data))
        self._next = 1 / POINTS
        self.readings, self.seconds = readings, 0.0

    def read_if_due(self, step: int) -> None:
        """Read at every twelfth of the budget that the readings' share of the time allows.

        If the budget is in iterations, the last quarter is read whatever that takes, so that the same seeds end alike.
        """
        share = self._clock.share
        if self._next <= share < 1 and ((share >= END and not self._plan.by_clock) or self._affordable(share)):
            self.read(step)
            self._next = (math.floor(share * POINTS + 1e-6) + 1) / POINTS

    def _affordable(self, share: float) -> bool:
        """Whether this reading, the last quarter's and the final one take little of what the run will have taken."""
        to_come = 2 if share >= END else 2 + POINTS * (1 - END)
        return self.seconds * (1 + to_come / len(self.readings)) < MEASURING * self._clock.seconds / share

    @torch.no_grad()
    def read(self, step: int) -> None:
        """Take a reading."""
        began = time.perf_counter()
        with self._untouched():
            self._fake, batches = self._generated()
            found = self._plan.measures(self._fake)
            reading = Reading(**asdict(found), step=step, cost=self._clock.share, **self._scores(batches))
        self.readings.append(replace(reading, warnings=tuple(alarms([*self.readings, reading]).values())))
        self.seconds += time.perf_counter() - began

    @property
    def samples(self) -> Tensor | None:
        """A few samples of the newest reading, for pictures."""
        return pack(x=preview(self._fake)).get("x")

    @property
    def fid(self) -> float | None:
        """Of the newest reading's samples, on an accelerator: on a CPU it would take longer than many a run."""
        if not torch.accelerator.is_available():
            return None
        began = time.perf_counter()
        with self._untouched():
            found = fid(self._plan.real, self._fake)
        self.seconds += time.perf_counter() - began
        return found

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        state = random_state([])
        with kept(buffers(*self._nets), training(*self._nets), lambda: set_random_state(state, [])):
            seed_all(0)
            yield

    def _generated(self) -> tuple[Any, list[Any]]:
        """As many samples as real ones are measured against, and the first batch with its latents."""
        parts: list[Any] = []
        wanted, first = len(self._plan.measures), list[Any]()
        while sum(len(tree_leaves(part)[0]) for part in parts) < wanted:
            batch = move(self._plan.held[len(parts) % len(self._plan.held)], self._device)
            x, z, batch = self._pair.draw(batch, self._device)
            parts.append(self._pair.generate(z))
            first = first or [x, z, batch, parts[0]]
        return tree_map(lambda *leaves: torch.cat(leaves)[:wanted], *parts), first

    def _scores(self, first: list[Any]) -> dict[str, Any]:
        held, z, batch, fake = first
        real, own, train = self._pair.draw(move(self._train, self._device), self._device)
        found = {"held": (held, z, batch), "fake": (fake, z, batch), "real": (real, own, train)}
        return scores(**{name: self._pair.logits(*given) for name, given in found.items()})
