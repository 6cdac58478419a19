"""What the user is told on the way and at the end: how far the samples are from the data, the cost, what to do next."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from coopinit_plugin.method.stopping import GOAL
from coopinit_plugin.result.step_report import StepReport

logger = logging.getLogger(__name__)

FAR = 0.5  # σ; a choice, not a measurement: where it is worth a warning
SCARCE = 0.5  # of the share that real samples have: so few among the data are worth a word

ENDS = {  # what is said of how a warm-up ended
    "goal": "By mean and spread they are near your data.",
    "plateau": "They came no closer any more, {goal:.2f} σ was aimed at.",
    "max_iterations": "They had not come to {goal:.2f} σ, the goal; "
    "WarmStartConfig(max_iterations={more}) gives them more time.",
    "worse": "They moved away from your data again, so the best moment was kept; {goal:.2f} σ was aimed at.",
    "max_seconds": "The time was over before they had come to {goal:.2f} σ, the goal.",
    "far": "The warm-up ended with samples still {distance_kept:.2f} σ from your data; it may not help. If "
    "something was warned of before it, mend that first. If the distance was falling, give it more: "
    "WarmStartConfig(max_iterations=1000). If it stood still (far-apart modes, a strong D), give the chain more: "
    "WarmStartConfig(langevin_steps=20).",
}


def standing(history: list[StepReport], most: int, goal: float | None, step_seconds: float, width: int | None) -> str:
    """Where the warm-up stands, of `most` iterations, the `goal` in σ, as much as fits into the terminal's `width`."""
    newest, first = history[-1], next((row.distance for row in history if row.distance is not None), None)
    told = [f"warm-up {newest.iteration}/{most}" + (" at most" if goal is not None else "")]
    if newest.distance is not None:
        aim = "" if goal is None else f", goal {goal:.2f}"
        told.append(f"samples {newest.distance:.2f} σ from your data (first {first:.2f}{aim})")
    told.append(_costing(newest.seconds / step_seconds))
    while width and len(told) > 1 and len(" · ".join(told)) >= width:
        told.pop()
    return " · ".join(told)


def _costing(steps: float) -> str:
    return f"about as costly as {max(1, round(steps)):,} of your steps"


def outcome(summary: Mapping[str, Any]) -> str:
    """What came out of a warm-up, and what to do next."""
    count, share, end = summary["iterations"], summary["among_data"], _end(summary)
    told = [f"{count} iterations" if count else "the hand-over alone", _costing(summary["cost_in_steps"])]
    if summary["distance_kept"] is not None:
        told.append("samples {distance_kept:.2f} σ from your data (first {distance_first:.2f})".format_map(summary))
    if share is not None:
        told.append("{among_data:.0%} of them among your data (of real ones {among_data_real:.0%})".format_map(summary))
    sentences = [f"CoopInit: {', '.join(told)}."]
    if end in ENDS:
        sentences.append(ENDS[end].format(more=2 * count, goal=GOAL, **summary))
    if share is not None and share < SCARCE * summary["among_data_real"] and end != "far":
        sentences.append("One by one they are not among them yet: your loop is there for that.")
    if end != "far":
        sentences.append("Go on with your adversarial loop as it is.")
    return " ".join(sentences)


def _end(summary: Mapping[str, Any]) -> str:
    """What ended the warm-up; "far" if its own stop did so far from the data."""
    stopped: str = summary["stopped_by"]
    own = stopped in ("plateau", "max_iterations", "worse", "max_seconds")
    return "far" if own and (summary["distance_kept"] or 0) > FAR else stopped


def tell(summary: Mapping[str, Any], progress: bool) -> None:
    """Say on the standard error stream, in one line, what came out; without `progress` only what there is to worry."""
    worrying = _end(summary) == "far"
    if progress and not worrying:
        tqdm.write(outcome(summary), file=sys.stderr)
    else:
        logger.log(logging.WARNING if worrying else logging.INFO, outcome(summary))
