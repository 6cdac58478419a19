"""One picture of a warm-up: real samples, G's before and after, and the curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.result.provenance import Origin
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.thumbnails import Samples

WIDTH, TOP, PANELS, CURVES = 1000, 66, 330, 215  # pixels: the picture, its heading, samples, curves
COLOURS = {"real": "#343a40", "before": "#1971c2", "after": "#d9480f"}
TITLES = {"real": "Real data", "before": "G before", "after": "G after the warm-up"}
ROWS = 4  # of images and series in a panel
THREADS = 40  # vectors drawn as lines
LONG = 32  # entries above which a vector is drawn as a series


def draw(
    path: Path, samples: Samples, history: list[StepReport], summary: dict[str, Any], origin: Origin | None
) -> None:
    """Write the picture as a PNG; without samples, the curves are drawn alone.

    Raises:
        CoopInitError: if matplotlib is not installed.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CoopInitError("Pictures need matplotlib, which is not installed: pip install matplotlib") from error
    sets = {name: x.float() for name, x in samples.items()}
    height = TOP + (PANELS if sets else 0) + CURVES
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)

        def place(left: float, top: float, wide: float, high: float) -> Any:
            axes = figure.add_axes((left / WIDTH, 1 - (top + high) / height, wide / WIDTH, high / height))
            axes.tick_params(labelsize=11)
            return axes

        figure.text(0.02, 1 - 12 / height, _heading(history, summary), va="top", fontsize=16, weight="bold")
        for index, name in enumerate(TITLES if sets else ()):
            axes = place(index * WIDTH / 3 + 40, TOP + 24, WIDTH / 3 - 56, PANELS - 56)
            axes.set_title(TITLES[name], fontsize=16, color=COLOURS[name], weight="bold", loc="left")
            if name in sets:
                _panel(axes, name, sets, origin)
            else:
                axes.text(0.5, 0.5, "not kept here", ha="center", va="center", fontsize=14, color=COLOURS[name])
                axes.axis("off")
        for index, (title, values) in enumerate(_curves(history).items()):
            axes = place(index * WIDTH / 4 + 52, height - CURVES + 42, WIDTH / 4 - 72, CURVES - 92)
            _curve(axes, title, values, len(history))
        figure.savefig(path, format="png")


def _heading(history: list[StepReport], summary: dict[str, Any]) -> str:
    text = f"CoopInit warm-up, {summary.get('iterations', len(history))} iterations"
    if isinstance(summary.get("seconds"), (int, float)):
        text += f" in {summary['seconds']:.1f} s"
    first, last = summary.get("distance_first"), summary.get("distance_last")
    if isinstance(first, (int, float)) and isinstance(last, (int, float)):
        text += f": {first:.2f} → {last:.2f} σ from the data"
    return text


def _panel(axes: Any, name: str, sets: dict[str, Tensor], origin: Origin | None) -> None:
    """One set of samples, in the way that shows its kind; all sets on the same scale."""
    x, colour = sets[name], COLOURS[name]
    scale = sets["real"] if "real" in sets else torch.cat(list(sets.values()))
    behind = sets["real"] if "real" in sets and name != "real" else None  # the data in grey, to compare with
    if x.ndim == 4:
        _images(axes, x, *_black_and_white(scale, origin))
        return
    low, high = (float(torch.quantile(scale.flatten()[:100_000], q)) for q in (0.005, 0.995))
    low, high = low - 0.15 * (high - low or 1), high + 0.15 * (high - low or 1)
    if x.ndim == 3 or x.shape[1] > LONG:
        _series(axes, x if x.ndim == 3 else x.unsqueeze(2), low, high, colour)
    elif x.shape[1] == 1:
        bins = torch.linspace(low, high, 41).tolist()
        if behind is not None:
            axes.hist(behind[:, 0].tolist(), bins, density=True, color=COLOURS["real"], alpha=0.25)
        axes.hist(x[:, 0].clamp(low, high).tolist(), bins, density=True, color=colour, alpha=0.7)
        axes.set_yticks([])
    elif x.shape[1] == 2:
        if behind is not None:
            axes.scatter(*behind.T.tolist(), s=9, color=COLOURS["real"], alpha=0.2, linewidths=0)
        axes.scatter(*x.T.tolist(), s=14, color=colour, alpha=0.7, linewidths=0)
        for limit, column in zip((axes.set_xlim, axes.set_ylim), scale.T, strict=True):
            bottom, top = float(column.min()), float(column.max())
            limit(bottom - 0.3 * (top - bottom or 1), top + 0.3 * (top - bottom or 1))
    else:  # every sample a line over the vector's entries, before the band that holds 90 % of the data
        bottom, top = torch.quantile(scale, torch.tensor([0.05, 0.95]), dim=0).tolist()
        axes.fill_between(range(x.shape[1]), bottom, top, color=COLOURS["real"], alpha=0.18, linewidth=0)
        axes.plot(x[:THREADS].T.numpy(), color=colour, alpha=0.35, linewidth=0.9)
        axes.locator_params("x", integer=True)
        axes.set(xlim=(0, x.shape[1] - 1), ylim=(low, high))


def _black_and_white(scale: Tensor, origin: Origin | None) -> tuple[float, float]:
    """What is drawn black, and what white."""
    low, high = (origin.low, origin.high) if origin else (float(scale.min()), float(scale.max()))
    for usual in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if usual[0] <= low and high <= usual[1] and high - low > 0.5 * (usual[1] - usual[0]):
            return usual
    return low, max(high, low + 1e-12)


def _images(axes: Any, x: Tensor, black: float, white: float) -> None:
    """Rows of images, as many as suit the panel."""
    x = ((x - black) / (white - black)).clamp(0, 1)
    rows = min(ROWS, max(1, round(len(x) ** 0.5)))
    columns = max(1, min(round(rows * x.shape[2] / x.shape[3]), len(x) // rows))
    gap = max(1, x.shape[2] // 16)
    padded = torch.nn.functional.pad(x[: rows * columns].expand(-1, 3, -1, -1), (0, gap, 0, gap), value=1)
    grid = padded.reshape(rows, columns, *padded.shape[1:]).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    axes.imshow(grid[:-gap, :-gap].numpy(), interpolation="antialiased")
    axes.set_anchor("NW")
    axes.axis("off")


def _series(axes: Any, x: Tensor, low: float, high: float, colour: str) -> None:
    """A few series, one above the other; the first three channels of each."""
    for row, one in enumerate(x[:ROWS]):
        for channel, style in zip(one.T, ("-", "--", ":"), strict=False):
            axes.plot((channel + (ROWS - 1 - row) * (high - low)).tolist(), style, color=colour, linewidth=1.4)
    axes.set(xlim=(0, max(x.shape[1] - 1, 1)), ylim=(low, low + ROWS * (high - low)), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _curves(history: list[StepReport]) -> dict[str, list[tuple[int, float]]]:
    """(Iteration, value) pairs by title."""
    read = [(row.iteration, row.distance) for row in history if row.distance is not None]
    return {
        "Distance to the data, σ": [
            new for new, old in zip(read, [(0, None), *read], strict=False) if new[1] != old[1]
        ],
        "Score gap, in its spreads": [(row.iteration, row.gap / max(row.score_std, 1e-12)) for row in history],
        "Chain displacement, σ": [(row.iteration, row.displacement) for row in history],
        "Langevin step size": [(row.iteration, row.step_size) for row in history],
    }


def _curve(axes: Any, title: str, values: list[tuple[int, float]], iterations: int) -> None:
    values = [pair for pair in values if math.isfinite(pair[1])]
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel("iteration", fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    if not values:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "too short for\na reading", ha="center", va="center", fontsize=12, transform=axes.transAxes)
        return
    x, y = zip(*values, strict=True)
    axes.plot(x, y, color=COLOURS["after"], linewidth=2 if len(x) < 60 else 1, marker="o" if len(x) < 3 else None)
    axes.set_xlim(0, iterations + 1)
    if min(y) > 0 and max(y) > 30 * min(y):  # as the step size may be
        axes.set_yscale("log")
        return
    axes.locator_params(nbins=4)
    if min(y) >= 0:
        axes.set_ylim(0, 1.08 * max(max(y), 1e-12))
    else:
        axes.axhline(0, color="#868e96", linewidth=1)
