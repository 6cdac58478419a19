"""When to switch from the cooperative warm-up to the adversarial stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.measures import SlicedWasserstein

WINDOW = 1024  # samples in one reading of the distance
PATIENCE = 3  # readings without progress before the stop
PROGRESS = 0.03  # what counts as progress: the distance falls by 3 %
LEAST = 100  # iterations before the stop may come


@dataclass
class Plateau:
    """Reads the distance between generated and real samples, and sees when it no longer falls.

    The samples are those the iterations draw anyway; a reading comes about every 1024 of them.

    Attributes:
        distance: What is read.
        best: The smallest reading so far.
        last: The newest reading, ``None`` before the first.
    """

    distance: SlicedWasserstein
    best: float = float("inf")
    last: float | None = None
    _stale: int = 0
    _iterations: int = 0
    _real: list[Tensor] = field(default_factory=list)
    _fake: list[Tensor] = field(default_factory=list)

    def observe(self, real: Any, fake: Any) -> bool:
        """Take one iteration's samples; ``True`` where they completed a reading."""
        self._iterations += 1
        self._real.append(self.distance.project(real))
        self._fake.append(self.distance.project(fake))
        if sum(len(part) for part in self._fake) < WINDOW:
            return False
        self.last = float(self.distance.between(torch.cat(self._real), torch.cat(self._fake)))
        self._real.clear()
        self._fake.clear()
        self._stale = 0 if self.last < (1 - PROGRESS) * self.best else self._stale + 1
        self.best = min(self.best, self.last)
        return True

    @property
    def reached(self) -> bool:
        """Whether to stop."""
        return self._iterations >= LEAST and self._stale >= PATIENCE
