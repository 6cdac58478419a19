"""One reading of a run, and the alarms that a series of readings raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import describe
from coopinit_plugin.trial.measures import Measured

COLLAPSED = 0.15  # of the data's diversity
LIVELY = 0.4  # a diversity from which a fall to the above needs no patience
PATIENCE = 16  # readings without progress that a run may take before it has got anywhere
RISING = 1.15  # the newer half of them over the older one: the run is on its way
LOST = 0.15  # an energy coefficient: the samples are not near the data
END = 0.75  # of a budget; the readings from here on are a run's end
FAR = 3.0  # times the smallest distance so far, and as many σ
DEAD = 1e-6  # standard deviation of D's scores over their size
TELLS_APART = 0.8  # probability that D scores a training sample above a held-back one


@dataclass(frozen=True)
class Reading(Measured):
    """A measurement, with D's scores at the time.

    Attributes:
        step: Iteration of the adversarial loop.
        cost: What the run had cost by then, the warm-up included, as a share of its budget; 0 outside a pilot.
        real_score: D's mean score of training samples, ``None`` if not given, as the others.
        fake_score: Of generated ones.
        held_score: Of real samples that D was not trained on.
        score_std: Standard deviation of D's scores.
        known: Probability that D scores a training sample above a held-back one; one half if it knows none by heart.
        warnings: What was wrong, in words.
    """

    step: int
    cost: float = 0.0
    real_score: float | None = None
    fake_score: float | None = None
    held_score: float | None = None
    score_std: float | None = None
    known: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def row(self) -> dict[str, float]:
        """Plain floats for a tracker: ``accelerator.log(reading.row)``."""
        values = {name: value for name, value in asdict(self).items() if name not in ("step", "cost", "warnings")}
        return {f"watch/{name}": value for name, value in values.items() if value is not None and value == value}


def scores(**given: Tensor | None) -> dict[str, Any]:
    """D's scores of ``real``, ``fake`` and ``held`` samples, summed up for a reading."""
    flat = {name: _flat(name, f) for name, f in given.items() if f is not None}
    found: dict[str, Any] = {f"{name}_score": float(f.mean()) for name, f in flat.items()}
    if flat:
        found["score_std"] = float(torch.cat(list(flat.values())).std(correction=0))
    if "real" in flat and "held" in flat:
        above = flat["real"][:, None] - flat["held"]
        found["known"] = float((above > 0).float().mean() + (above == 0).float().mean() / 2)
    return found


def _flat(name: str, f: Any) -> Tensor:
    if not isinstance(f, Tensor) or not f.numel():
        raise CoopInitError(f"{name}_score is {describe(f)}; expected D's output for the samples, a tensor.")
    return f.detach().float().flatten().cpu()


def alarms(readings: Sequence[Reading]) -> dict[str, str]:
    """What is wrong at the newest reading: the alarm's name, and what to say."""
    found = {"divergence": _diverged(readings), "collapse": _collapsed(readings), "dead D": _dead(readings[-1])}
    found["memorising"] = _memorising(readings)
    return {name: words for name, words in found.items() if words}


def _collapsed(readings: Sequence[Reading]) -> str:
    """Diversity has fallen; or the samples have stayed far from the data, and neither gets better."""
    seen = [reading for reading in readings if math.isfinite(reading.distance)]
    if len(seen) < 2:
        return ""
    low = max(1, round(100 * seen[-1].diversity))
    lively = [reading.step for reading in seen if reading.diversity >= LIVELY]
    if lively and max(reading.diversity for reading in seen[-2:]) < COLLAPSED:
        return f"the samples' diversity fell to {low}% of the data's in {seen[-1].step - lively[-1]} steps; collapse"
    newest = seen[-PATIENCE:]
    steps = newest[-1].step - newest[0].step
    (diversity, more_diverse), (energy, more_energy) = (_mean_and_trend(newest, n) for n in ("diversity", "energy"))
    if len(newest) < PATIENCE or energy <= LOST or more_diverse > RISING or more_energy < 1 / RISING:
        return ""
    if diversity < COLLAPSED:
        return f"the samples' diversity is at {low}% of the data's and has not risen for {steps} steps; collapse"
    return f"the samples are {seen[-1].distance:.2g} σ from the data and have come no closer in {steps} steps"


def _mean_and_trend(readings: Sequence[Reading], name: str) -> tuple[float, float]:
    """The mean of a measure, and its newer half's over its older half's."""
    values = [getattr(reading, name) for reading in readings]
    half = len(values) // 2
    return sum(values) / len(values), (sum(values[-half:]) + 1e-9) / (sum(values[:half]) + 1e-9)


def _diverged(readings: Sequence[Reading]) -> str:
    now = readings[-1]
    scored = [f for f in (now.real_score, now.fake_score, now.held_score) if f is not None]
    if not all(map(math.isfinite, [now.distance, *scored])):
        return "the samples or D's scores are not finite any more; the run has diverged"
    best = min((reading.distance for reading in readings if math.isfinite(reading.distance)), default=0)
    if now.distance > FAR * max(best, 1):
        return f"the samples moved away to {now.distance:.2g} σ from the data, after {best:.2g} σ; divergence"
    return ""


def _dead(now: Reading) -> str:
    size = max((abs(f) for f in (now.real_score, now.fake_score) if f is not None), default=0)
    if now.score_std is None or now.fake_score is None or now.score_std > DEAD * max(size, 1e-3):
        return ""
    return f"D gives every sample the same score, {now.fake_score:.3g}: it is dead, and G learns nothing from it"


def _memorising(readings: Sequence[Reading]) -> str:
    known = [reading.known for reading in readings[-2:] if reading.known is not None]
    if len(known) < 2 or min(known) < TELLS_APART:
        return ""
    return (
        f"D scores training samples above real ones that it has not seen in {known[-1]:.0%} of pairs: it knows them "
        "by heart"
    )
