"""One picture of a warm-up: real samples, G's before and after, and the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.result.card import said
from coopinit_plugin.result.files import Contents

PANELS = {  # of samples: (title, colour)
    "real": ("Real data", "#343a40"),
    "before": ("G before", "#1971c2"),
    "after": ("G after the warm-up", "#d9480f"),
}
ROWS = 4  # of images and series in a panel
LINES = 40  # vectors drawn in a panel
FEW = 40  # values of a curve that are drawn as points, too
WIDEST_GAP = 3  # standard deviations; the first iterations' gap is no scale for the others


def draw(path: Path, result: Contents) -> None:
    """Write the picture as a PNG; without samples, the curves are drawn alone."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CoopInitError("Pictures need matplotlib, which is not installed: pip install matplotlib") from error
    # Single numbers are drawn as one vector, in order of size.
    sets = {name: (x.sort(0).values.T if x.shape[1:] == (1,) else x).float() for name, x in result.samples.items()}
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(10, 6.1 if sets else 2.8), dpi=100, layout="constrained")
        known = {key: said(value) for key, value in result.summary.items() if value is not None}
        heading = f"CoopInit warm-up, {len(result.history)} iterations in {known.get('seconds')} s"
        if "distance_last" in known:
            heading += f": {known.get('distance_first')} → {known['distance_last']} σ from the data"
        figure.suptitle(heading, x=0.02, ha="left", fontsize=16, weight="bold", parse_math=False)
        rows = figure.subfigures(2 if sets else 1, 1, height_ratios=[3, 2] if sets else None, squeeze=False)[:, 0]
        shown = [name for name in PANELS if name in sets]
        panels = rows[0].subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0] if sets else ()
        for axes, name in zip(panels, shown, strict=True):
            axes.set_title(PANELS[name][0], fontsize=16, color=PANELS[name][1], weight="bold", loc="left")
            _panel(axes, name, sets, (result.origin.low, result.origin.high))
        left, moved, gap, size = rows[-1].subplots(1, 4)
        readings = [row.distance for row in result.history]
        new = [value if value != before else None for before, value in zip([None, *readings], readings, strict=False)]
        _curve(left, "Distance to data, σ", new)
        _curve(moved, "Chains move by, σ", [row.displacement for row in result.history])
        gaps = [row.gap / max(row.score_std, 1e-12) for row in result.history]
        _curve(gap, "D: real − refined, in SDs", [_within(value, WIDEST_GAP) for value in gaps])
        _curve(size, "Langevin step size", [row.step_size for row in result.history])
        figure.savefig(path, format="png")


def _panel(axes: Any, name: str, sets: dict[str, Tensor], values: tuple[float, float]) -> None:
    """One set of samples, in the way that shows its kind; the panels share their axes."""
    x, (_, colour), grey = sets[name], PANELS[name], PANELS["real"][1]
    data = sets.get("real", x)  # behind the others, in grey
    if x.ndim == 4:
        _images(axes, (x - values[0]) / max(values[1] - values[0], 1e-12))
    elif x.ndim == 3:  # a few series, one above the other; three channels of each
        for row, series in enumerate(x[:ROWS]):
            for channel, style in zip(series.T, ("-", "--", ":"), strict=False):
                axes.plot((channel - row * 1.2 * float(data.max() - data.min())).tolist(), style, color=colour)
        axes.set_yticks([])
    elif x.shape[1] == 2:  # points
        axes.scatter(*data.T.tolist(), s=9, color=grey, alpha=0.2, linewidths=0)
        axes.scatter(*x.T.tolist(), s=14, color=colour, alpha=0.7, linewidths=0)
    else:  # every vector a line over its entries, before a band that holds 90 % of the data
        bottom, top = torch.quantile(data, torch.tensor([0.05, 0.95]), dim=0).tolist()
        axes.fill_between(range(data.shape[1]), bottom, top, color=grey, alpha=0.18)
        axes.plot(x[:LINES].T.numpy(), color=colour, alpha=0.35 if len(x) > 1 else 1)


def _images(axes: Any, x: Tensor) -> None:
    """Rows of images whose black is 0 and white is 1, as many as suit the panel."""
    rows = min(ROWS, math.isqrt(len(x)))
    columns = max(1, min(round(rows * x.shape[2] / x.shape[3]), len(x) // rows))
    gap = max(1, x.shape[2] // 16)
    shown = x[: rows * columns].clamp(0, 1).expand(-1, 3, -1, -1)
    padded = torch.nn.functional.pad(shown, (0, gap, 0, gap), value=1)
    grid = padded.reshape(rows, columns, *padded.shape[1:]).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    axes.imshow(grid[:-gap, :-gap].numpy(), interpolation="antialiased")
    axes.set_anchor("NW")
    axes.axis("off")


def _within(value: float, most: float) -> float:
    return math.copysign(most, value) if most < abs(value) < math.inf else value


def _curve(axes: Any, title: str, values: Sequence[float | None]) -> None:
    """One value an iteration, if there is one."""
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel("iteration", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    numbers = [math.nan if value is None else value for value in values]
    finite = [number for number in numbers if math.isfinite(number)]
    if not finite:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "too short for\na reading", ha="center", va="center", fontsize=12, transform=axes.transAxes)
        return
    at = [index for index, number in enumerate(numbers, 1) if math.isfinite(number)]
    axes.plot(at, finite, color=PANELS["after"][1], marker="o" if len(finite) < FEW else None, clip_on=False)
    axes.set_xlim(0, len(numbers) + 1)
    if min(finite) > 0 and max(finite) > 30 * min(finite):  # as the step size may be
        axes.set_yscale("log")
    elif min(finite) >= 0:
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(0, color="#868e96", linewidth=1)
