"""When to switch from the cooperative warm-up to the adversarial stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.method.distance import SlicedWasserstein, among
from coopinit_plugin.method.team import ALONE, Team

EVERY = 16  # iterations between readings of the distance
WINDOW = 1024  # samples in one reading, the newest ones
OLDEST = 64  # iterations that they may date back, where batches are small
SPAN = 4  # readings in a mean
PATIENCE = 8  # means that may bring no progress
GOAL = 0.16  # σ; if the two newest readings are this small the adversarial stage does the rest
PROGRESS = 0.05  # one of them must lie this much below the best before them
WORSE = 1.25  # a mean this much above the best one: the warm-up has gone wrong
MOVING = ("readings", "best", "_seen", "_real", "_fake")  # what a checkpoint holds of a Plateau


@dataclass
class Plateau:
    """Reads the distance between generated and real samples, and sees when it is small or no longer falls.

    The samples are those the iterations draw anyway. A reading comes every 16 iterations, of the newest 1024 samples
    or, where batches are small, of those of 64 iterations. One reading is noisy, so means of four are compared: where
    the last eight of them bring no progress over those before, that is a plateau. Shorter lulls are part of the way,
    with larger images above all. There is no verdict before eight readings.
    """

    distance: SlicedWasserstein
    team: Team = ALONE
    readings: list[float] = field(default_factory=list)  # all so far, in σ
    best: float = float("inf")  # the smallest mean of four readings so far
    at_best: bool = False  # whether the newest reading gave it
    _seen: int = 0
    _real: list[Tensor] = field(default_factory=list)
    _fake: list[Tensor] = field(default_factory=list)

    @property
    def last(self) -> float | None:
        """The newest reading, ``None`` before the first."""
        return self.readings[-1] if self.readings else None

    def observe(self, real: Any, fake: Any) -> None:
        """Take one iteration's samples."""
        self.at_best = False
        self._seen += 1
        n = len(tree_leaves(fake)[0])
        self._fake.append(self.distance.project(fake))
        self._real.append(self.distance.project(tree_map(lambda leaf: leaf[:n], real)))  # of a batch that may be larger
        while len(self._fake) > OLDEST or self._samples(self._fake[1:]) >= WINDOW:
            del self._real[0], self._fake[0]
        if self._seen % EVERY or (self._samples(self._fake) < WINDOW and len(self._fake) < OLDEST):
            return
        real, fake = self._newest()
        self.read(float(self.distance.between(real, fake)))

    def among(self) -> tuple[float, float] | None:
        """Which share of the newest generated samples lies where data lie, and which of real ones, if there are some.

        Every process has to ask for it.
        """
        real, fake = self._newest()
        return among(fake, real)

    def _newest(self) -> Tensor:
        """Projections of the newest real and generated samples of all processes."""
        ours = torch.stack([torch.cat(self._real), torch.cat(self._fake)])
        return self.team.gather(ours).transpose(0, 1).flatten(1, 2)

    def _samples(self, parts: list[Tensor]) -> int:
        """Of all processes."""
        return sum(len(part) for part in parts) * self.team.count

    def read(self, distance: float) -> None:
        """Take one reading."""
        self.readings.append(distance)
        if len(self.readings) >= SPAN and self._mean() < self.best:
            self.best, self.at_best = self._mean(), True

    def state_dict(self) -> dict[str, Any]:
        """What a later :meth:`load_state_dict` goes on from."""
        return {name.lstrip("_"): getattr(self, name) for name in MOVING}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in MOVING:
            setattr(self, name, state[name.lstrip("_")])

    @property
    def past_its_best(self) -> bool:
        """Whether the newest readings lie clearly above the best ones."""
        return self.best < (1 - PROGRESS) * self._mean()

    @property
    def verdict(self) -> str | None:
        """``"goal"``, ``"plateau"``, ``"worse"`` (the distance has risen again), or ``None``: go on."""
        if len(self.readings) < 2 * SPAN:
            return None
        if max(self.readings[-2:]) <= GOAL:
            return "goal"
        if self._mean() > WORSE * self.best:
            return "worse"
        means = [self._mean(end) for end in range(SPAN, len(self.readings) + 1)]
        before, newest = means[:-PATIENCE], means[-PATIENCE:]
        return "plateau" if before and min(newest) > (1 - PROGRESS) * min(before) else None

    def _mean(self, end: int | None = None) -> float:
        """Of the last four readings, or of the four before the reading `end`."""
        return sum(self.readings[:end][-SPAN:]) / SPAN
