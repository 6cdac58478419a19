"""Pictures of a trial: curves over the cost, and samples, with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.trial.readings import Reading

Curves = Mapping[str, Sequence[tuple[float, Reading]]]  # of each run: (where on the axis, what was read there)

CURVES = {  # what is drawn: its title, and its value for real data
    "likeness": ("Likeness: mean of the next three", 1.0),
    "precision": ("Precision: samples among the data", 1.0),
    "coverage": ("Coverage: data that samples reach", 1.0),
    "diversity": ("Diversity, of the data's", 1.0),
    "distance": ("Distance to the data, σ", 0.0),
}
COLOURS = {"random": "#868e96", "hand-over": "#1971c2", "warm start": "#d9480f"}


def draw_curves(path: Path, curves: Curves, axis: str, title: str = "") -> Path:
    """Draw the measures of each run into a PNG; runs whose name begins with an arm's have its colour.

    Raises:
        CoopInitError: if matplotlib is not installed or the file cannot be written.
    """
    if not matplotlib_is_there():
        raise CoopInitError("Pictures need matplotlib, which is not installed: pip install matplotlib")
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(13, 5.6), dpi=100, layout="constrained")
        figure.suptitle(textwrap.fill(title, 135), x=0.02, ha="left", fontsize=12, parse_math=False)
        *panels, spare = figure.subplots(2, 3).flat
        spare.axis("off")
        for axes, (name, (heading, real)) in zip(panels, CURVES.items(), strict=True):
            axes.set_title(heading, fontsize=13, loc="left")
            axes.set_xlabel(axis, fontsize=11)
            axes.spines[["top", "right"]].set_visible(False)
            axes.axhline(real, color="#adb5bd", linewidth=1, linestyle=":")
            _lines(axes, name, curves)
        spare.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=12, loc="upper left")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, format="png")
        except OSError as error:
            raise CoopInitError(f"{path} cannot be written ({error.strerror or error}). Give another path.") from error
    return path


def matplotlib_is_there() -> bool:
    """Whether it can be imported; imports it."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.style  # noqa: F401
    except ImportError:
        return False
    return True


def _lines(axes: Any, name: str, curves: Curves) -> None:
    labelled = set()
    for run, readings in curves.items():
        arm = next((arm for arm in COLOURS if run.startswith(arm)), run)
        values = [getattr(reading, name) for _, reading in readings]
        label = None if arm in labelled else arm
        labelled.add(arm)
        axes.plot([x for x, _ in readings], values, color=COLOURS.get(arm, "#d9480f"), linewidth=1.4, label=label)
    if all(math.isfinite(v) for run in curves.values() for _, r in run if (v := getattr(r, name)) is not None):
        axes.set_ylim(bottom=0)
