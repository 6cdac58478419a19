"""What the user is told on the way and at the end: how far the samples are from the data, the cost, what to do next."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from coopinit_plugin.method.stopping import GOAL
from coopinit_plugin.result.step_report import StepReport

logger = logging.getLogger(__name__)

FAR = 0.5  # σ; a choice, not a measurement: where it is worth a warning
FEW = 0.5  # of the share that real samples have: so few among the data are worth a word

ENDS = {
    "goal": "the samples came as close to the data as is aimed at",
    "plateau": "the samples came no closer to the data any more",
    "worse": "the samples were moving away from the data; the best moment's weights came back",
    "max_iterations": "the largest number of iterations was reached",
    "max_seconds": "the time was up",
    "iterations": "this number of iterations was asked for",
    "callback": "a callback ended it",
}


def standing(history: list[StepReport], most: int, goal: float | None, step_seconds: float, width: int | None) -> str:
    """Where the warm-up stands, of `most` iterations, the `goal` in σ, as much as fits into the terminal's `width`."""
    newest, first = history[-1], next((row.distance for row in history if row.distance is not None), None)
    told = [f"warm-up {newest.iteration}/{most}" + (" at most" if goal is not None else "")]
    if newest.distance is not None and first is not None:
        aim = "" if goal is None else f", goal {goal:.2f}"
        told.append(f"samples {newest.distance:.2f} σ from your data (first {first:.2f}{aim})")
    told.append(costing(newest.seconds / step_seconds))
    while width and len(told) > 1 and len(" · ".join(told)) >= width:
        told.pop()
    return " · ".join(told)


def costing(steps: float) -> str:
    """A cost in adversarial iterations, in words."""
    return f"about as costly as {max(1, round(steps)):,} of your steps"


def outcome(summary: Mapping[str, Any]) -> str:
    """What came out of a warm-up, and what to do next."""
    told = [f"{summary['iterations']} iterations" if summary["iterations"] else "the hand-over alone"]
    told.append(costing(summary["cost_in_steps"]))
    if (kept := summary["distance_kept"]) is not None:
        told.append(f"samples {kept:.2f} σ from your data (first {summary['distance_first']:.2f})")
    if (share := summary["among_data"]) is not None:
        told.append(f"{share:.0%} of them among your data (of real ones {summary['among_data_real']:.0%})")
    return f"CoopInit: {', '.join(told)}. {concern(summary) or _next(summary)}"


def tell(summary: Mapping[str, Any], progress: bool, taken_from: object = None) -> None:
    """Say in one line on the standard error stream what came out; without `progress` only if it is a reason to worry.

    `taken_from` is the folder that held the result of an earlier call, if nothing was run.
    """
    line = f"CoopInit: {taken_from} holds the result of a finished warm-up, which was loaded; nothing was run."
    line = outcome(summary) if taken_from is None else line
    if taken_from is None and concern(summary):
        logger.warning(line)
    elif progress:
        tqdm.write(line, file=sys.stderr)
    else:
        logger.info(line)


def concern(summary: Mapping[str, Any]) -> str | None:
    """What to warn of if the library's own stop came far from the data."""
    distance = summary["distance_kept"]
    if summary["stopped_by"] not in ("plateau", "max_iterations") or distance is None or distance <= FAR:
        return None
    return (
        f"The warm-up ended with generated samples still {distance:.2f} σ from the data; it may not help. If something "
        "was warned of before it, mend that first. If the distance was falling, give it more: "
        "WarmStartConfig(max_iterations=1000). If it stood still (far-apart modes, a strong D), give the chain more: "
        "WarmStartConfig(langevin_steps=20)."
    )


def _next(summary: Mapping[str, Any]) -> str:
    share, stopped_by, told = summary["among_data"], summary["stopped_by"], list[str]()
    few = share is not None and share < FEW * summary["among_data_real"]
    if stopped_by == "goal" and share is not None:
        told.append("By mean and spread they are near your data." if few else "They are close to your data.")
    elif stopped_by == "plateau":
        told.append(f"They came no closer any more, {GOAL:.2f} σ was aimed at.")
    elif stopped_by == "max_iterations":
        more = f"WarmStartConfig(max_iterations={2 * summary['iterations']})"
        told.append(f"They had not come to {GOAL:.2f} σ, the goal; {more} gives them more time.")
    if few:
        told.append("One by one they are not among them yet: your loop is there for that.")
    told.append("Go on with your adversarial loop as it is.")
    if few:
        told.append("result.plot('warm_start.png') shows them.")
    return " ".join(told)
