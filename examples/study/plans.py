"""Which runs the study consists of: parts, settings, arms, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from examples.study.arms import ABLATIONS, FIXED_NUMBERS, SENSITIVITY


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


def _ablation() -> Iterator[tuple[Setting, list[str]]]:
    for objective, norm in (("non_saturating", "none"), ("hinge", "none"), ("non_saturating", "batch")):
        yield Setting("digits", objective, norm), ["random", "ours", *ABLATIONS]


def _sensitivity() -> Iterator[tuple[Setting, list[str]]]:
    for norm in ("none", "batch"):
        yield Setting("digits", "non_saturating", norm), list(SENSITIVITY)


def _stop() -> Iterator[tuple[Setting, list[str]]]:
    for setting, _ in _grid():
        if setting.lr == 2e-4 and setting.d_width == 1:
            yield setting, ["ours", *FIXED_NUMBERS]


def _patches() -> Iterator[tuple[Setting, list[str]]]:
    arms = ["random", "ours", "fixed", "vae", "sliced"]
    yield Setting("patches", "non_saturating"), [*arms, "r1-1"]
    yield Setting("patches", "non_saturating", "batch"), arms
    yield Setting("patches", "hinge", "spectral"), arms


def _series() -> Iterator[tuple[Setting, list[str]]]:
    plain = Setting("series", "non_saturating")
    for setting in (
        plain,
        replace(plain, objective="non_saturating_r1"),
        replace(plain, objective="hinge"),
        replace(plain, norm="batch"),
    ):
        yield setting, ["random", "ours"]


def _multimodal() -> Iterator[tuple[Setting, list[str]]]:
    for task in ("grid100", "cloud100"):
        yield (
            Setting(task, "non_saturating"),
            ["random", "ours", "its=25 K=2", "its=100 K=2", "its=100 K=10", "K=10", "noise=0.12"],
        )


def _large() -> Iterator[tuple[Setting, list[str]]]:
    for objective, norm in (
        ("non_saturating", "none"),
        ("hinge", "none"),
        ("wgan_gp", "none"),
        ("r3gan", "none"),
        ("non_saturating", "batch"),
        ("hinge", "spectral"),
    ):
        yield Setting("digits32", objective, norm), ["random", "ours"]
    for objective, norm in (("non_saturating", "none"), ("non_saturating", "batch"), ("hinge", "spectral")):
        yield Setting("patches32", objective, norm), ["random", "ours"]


LONG = ("large",)  # parts whose runs are given 3000 iterations

PARTS = {
    "headline": (_headline, range(10)),
    "grid": (_grid, range(3)),
    "ablation": (_ablation, range(3)),
    "sensitivity": (_sensitivity, range(2)),
    "stop": (_stop, range(3)),
    "patches": (_patches, range(5)),
    "series": (_series, range(5)),
    "multimodal": (_multimodal, range(3)),
    "large": (_large, range(3)),
}


def plans(part: str, seeds: Iterable[int] | None = None) -> list[Plan]:
    """All runs of a part, seed by seed: what there is of it at any time is a fair sample."""
    settings, usual = PARTS[part]
    return [Plan(part, setting, arm, seed) for seed in (seeds or usual) for setting, arms in settings() for arm in arms]


def a_taste(parts: Iterable[str]) -> list[Plan]:
    """Each part and arm once, each task, loss and norm of D once: that everything works."""
    chosen: list[Plan] = []
    for part in parts:
        arms_seen: set[str] = set()
        for setting, arms in PARTS[part][0]():
            seen = {(plan.setting.task, plan.setting.objective, plan.setting.norm) for plan in chosen}
            new = (setting.task, setting.objective, setting.norm) not in seen
            fresh = [arm for arm in arms if arm not in arms_seen]
            chosen += [Plan(part, setting, arm, 0) for arm in fresh or (["ours"] if new and "ours" in arms else [])]
            arms_seen.update(fresh)
    return chosen
