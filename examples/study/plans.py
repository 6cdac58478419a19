"""Which runs the study consists of: parts, settings, arms, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product


@dataclass(frozen=True)
class Setting:
    """What is trained, whatever the start.

    Attributes:
        task: A key of TASKS.
        objective: A key of OBJECTIVES.
        norm: D's: ``"none"``, ``"batch"``, ``"spectral"``.
        lr: Of both Adams in the adversarial stage.
        d_width: D's channels, as a share of the usual ones.
    """

    task: str
    objective: str
    norm: str = "none"
    lr: float = 2e-4
    d_width: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.task}/{self.objective}/{self.norm}/lr{self.lr:g}/{'full' if self.d_width == 1 else 'quarter'}"

    @property
    def cost(self) -> str:
        """What the cost of an iteration depends on: everything but the learning rate."""
        return f"{self.task}/{self.objective}/{self.norm}/{'full' if self.d_width == 1 else 'quarter'}"


@dataclass(frozen=True)
class Plan:
    """One run."""

    part: str
    setting: Setting
    arm: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.setting.name, self.arm, str(self.seed)

    def __str__(self) -> str:
        return " ".join((self.part, *self.key))


def _grid() -> Iterator[tuple[Setting, list[str]]]:
    for objective, norm, lr, width in product(
        ("non_saturating", "hinge", "least_squares", "wgan_gp", "relativistic"),
        ("none", "batch", "spectral"),
        (2e-4, 1e-3),
        (1.0, 0.25),
    ):
        yield Setting("digits", objective, norm, lr, width), ["random", "ours"]


def _headline() -> Iterator[tuple[Setting, list[str]]]:
    arms = ["random", "ours", "fixed", "handover-only", "vae", "sliced"]
    plain = Setting("digits", "non_saturating")
    yield plain, [*arms, "r1-1", "r1-10", "r3gan"]
    for objective in ("non_saturating_r1", "hinge", "least_squares", "relativistic", "r3gan", "wgan_gp"):
        yield replace(plain, objective=objective), arms
    yield replace(plain, norm="batch"), arms
    yield replace(plain, norm="spectral"), arms
    yield replace(plain, norm="spectral", objective="hinge"), arms
    yield replace(plain, objective="sigmoid_bce"), ["random", "ours"]


PARTS = {
    "headline": (_headline, range(10)),
    "grid": (_grid, range(3)),
}


def plans(part: str, seeds: Iterable[int] | None = None) -> list[Plan]:
    """All runs of a part, seed by seed: what there is of it at any time is a fair sample."""
    settings, usual = PARTS[part]
    return [Plan(part, setting, arm, seed) for seed in (seeds or usual) for setting, arms in settings() for arm in arms]
