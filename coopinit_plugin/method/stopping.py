"""When to switch from the cooperative warm-up to the adversarial stage."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.method.pair import ALONE, Team

EVERY = 16  # iterations between readings of the distance
WINDOW = 1024  # samples in one reading, the newest ones
OLDEST = 64  # iterations that they may date back, if batches are small
SPAN = 4  # readings in a mean, for one reading is noisy
PATIENCE = 8  # means that may bring no progress: shorter lulls are part of the way, with larger images above all
GOAL = 0.16  # σ; if the two newest readings are this small the adversarial stage does the rest
PROGRESS = 0.05  # one of them must lie this much below the best before them
WORSE = 1.25  # a mean this much above the best one: the warm-up has gone wrong


@dataclass
class Plateau:
    """Reads the distance between the iterations' samples and the data; sees when it is small or no longer falls."""

    distance: SlicedWasserstein
    team: Team = ALONE
    readings: list[float] = field(default_factory=list)  # all so far, in σ
    at_best: bool = False  # whether the newest iteration brought a reading, and that the smallest mean so far
    _seen: int = 0
    _parts: list[Tensor] = field(default_factory=list)  # projections of generated and real samples, of each iteration

    def observe(self, real: Any, fake: Any) -> bool:
        """Take one iteration's samples; whether that made a new reading."""
        self.at_best = False
        self._seen += 1
        generated = self.distance.project(fake)
        real = self.distance.project(real)[: len(generated)]  # of a batch that may be larger
        window = min(OLDEST, ceil(WINDOW / (len(generated) * self.team.count)))
        self._parts = [*self._parts, torch.stack([generated, real])][-window:]
        due = self._seen % EVERY == 0 and len(self._parts) == window
        if due:
            self.read(float(self.distance.between(*self.newest())))
        return due

    def read(self, distance: float) -> None:
        """Take one reading."""
        before = self.best
        self.readings.append(distance)
        self.at_best = self.best < before

    def newest(self) -> Tensor:
        """Projections of the newest generated and real samples of all processes, each of which has to ask for them."""
        return self.team.gather(torch.cat(self._parts, dim=1)).transpose(0, 1).flatten(1, 2)

    @property
    def _means(self) -> list[float]:
        """Of each four readings that follow each other."""
        return [sum(self.readings[end - SPAN : end]) / SPAN for end in range(SPAN, len(self.readings) + 1)]

    @property
    def last(self) -> float | None:
        """The newest reading, ``None`` before the first."""
        return self.readings[-1] if self.readings else None

    @property
    def best(self) -> float:
        """The smallest mean so far, infinite before the first."""
        return min(self._means, default=float("inf"))

    @property
    def past_its_best(self) -> bool:
        """Whether the newest readings lie clearly above the best ones."""
        return self.best < (1 - PROGRESS) * self._means[-1] if self._means else False

    @property
    def verdict(self) -> str | None:
        """``"goal"``, ``"plateau"``, ``"worse"`` (the distance has risen again), or ``None``: go on."""
        if len(self.readings) < 2 * SPAN:
            return None
        if max(self.readings[-2:]) <= GOAL:
            return "goal"
        if self._means[-1] > WORSE * self.best:
            return "worse"
        before, newest = self._means[:-PATIENCE], self._means[-PATIENCE:]
        return "plateau" if before and min(newest) > (1 - PROGRESS) * min(before) else None

    def state_dict(self) -> dict[str, Any]:
        """What a later :meth:`load_state_dict` goes on from."""
        return {name: getattr(self, name) for name in ("readings", "_seen", "_parts")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        vars(self).update(state)
