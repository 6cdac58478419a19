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
from coopinit_plugin.result.thumbnails import Samples, unpack

WIDTH, TOP, PANELS, CURVES = 1000, 66, 330, 215  # pixels: the picture, its heading, samples, curves
COLOURS = {"real": "#343a40", "before": "#1971c2", "after": "#d9480f"}
TITLES = {"real": "Real data", "before": "G before", "after": "G after the warm-up"}
ROWS = 4  # of series in a panel
THREADS = 40  # vectors drawn as lines
LONG = 32  # entries above which a vector is drawn as a series


def draw(
    path: Path, samples: Samples, history: list[StepReport], summary: dict[str, Any], origin: Origin | None
) -> None:
    """Write the picture as a PNG.

    Args:
        path: The file.
        samples: As :func:`coopinit_plugin.result.thumbnails.pack` makes them; panels are left out where they are.
        history: One row an iteration.
        summary: For the heading.
        origin: For the range of the data.

    Raises:
        CoopInitError: where matplotlib is not installed.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CoopInitError("Pictures need matplotlib, which is not installed: pip install matplotlib") from error
    sets = {name: x for name in TITLES if (x := unpack(samples, name)) is not None}
    height = TOP + (PANELS if sets else 0) + CURVES
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100)

        def place(left: float, top: float, width: float, high: float) -> Any:
            return figure.add_axes((left / WIDTH, 1 - (top + high) / height, width / WIDTH, high / height))

        figure.text(0.02, 1 - 12 / height, _heading(history, summary), va="top", fontsize=16, weight="bold")
        for index, name in enumerate(TITLES if sets else ()):
            x = sets.get(name)
            left = 20 if x is None or x.ndim > 2 or x.shape[1] > LONG else 48  # room for the numbers of an axis
            wide, high = WIDTH / 3 - left - 16, PANELS - 56
            axes = place(index * WIDTH / 3 + left, TOP + 24, wide, high)
            axes.set_title(TITLES[name], fontsize=16, color=COLOURS[name], weight="bold", loc="left")
            axes.tick_params(labelsize=11)
            if x is None:
                axes.text(0.5, 0.5, "not kept here", ha="center", va="center", fontsize=14, color=COLOURS[name])
                axes.axis("off")
            else:
                _panel(axes, name, x, sets, origin, wide / high)
        top = height - CURVES
        for index, (title, values, zero) in enumerate(_curves(history)):
            axes = place(index * WIDTH / 4 + 52, top + 42, WIDTH / 4 - 72, CURVES - 92)
            _curve(axes, title, values, zero)
        figure.savefig(path, format="png")


def _heading(history: list[StepReport], summary: dict[str, Any]) -> str:
    text = f"CoopInit warm-up, {summary.get('iterations', len(history))} iterations"
    if isinstance(summary.get("seconds"), (int, float)):
        text += f" in {summary['seconds']:.1f} s"
    first, last = summary.get("distance_first"), summary.get("distance_last")
    if isinstance(first, (int, float)) and isinstance(last, (int, float)):
        text += f": {first:.2f} → {last:.2f} σ from the data"
    return text


def _panel(axes: Any, name: str, x: Tensor, sets: dict[str, Tensor], origin: Origin | None, aspect: float) -> None:
    """One set of samples, in the way that shows its kind; all sets on the same scale."""
    scale = sets["real"] if "real" in sets else torch.cat(list(sets.values()))
    if x.ndim == 4:
        low, high = _brightness(scale, origin)
        axes.imshow(_grid((x - low) / (high - low), aspect), interpolation="antialiased")
        axes.set_anchor("NW")
        axes.axis("off")
        return
    low, high = (float(torch.quantile(scale.flatten()[:100_000], q)) for q in (0.005, 0.995))
    low, high = low - 0.15 * (high - low or 1), high + 0.15 * (high - low or 1)
    if x.ndim == 2 and x.shape[1] > LONG:
        x = x.unsqueeze(2)
    if x.ndim == 3:
        _series(axes, x, low, high, COLOURS[name])
    elif x.shape[1] == 1:
        bins = torch.linspace(low, high, 41).tolist()
        if "real" in sets and name != "real":
            axes.hist(sets["real"][:, 0].tolist(), bins, density=True, color=COLOURS["real"], alpha=0.25)
        axes.hist(x[:, 0].clamp(low, high).tolist(), bins, density=True, color=COLOURS[name], alpha=0.7)
        axes.set_yticks([])
    elif x.shape[1] == 2:
        if "real" in sets and name != "real":
            axes.scatter(*sets["real"].T.tolist(), s=9, color=COLOURS["real"], alpha=0.2, linewidths=0)
        axes.scatter(*x.T.tolist(), s=14, color=COLOURS[name], alpha=0.7, linewidths=0)
        limits = [(float(column.min()), float(column.max())) for column in scale.T]
        margins = [0.3 * (top - bottom or 1) for bottom, top in limits]
        axes.set_xlim(limits[0][0] - margins[0], limits[0][1] + margins[0])
        axes.set_ylim(limits[1][0] - margins[1], limits[1][1] + margins[1])
    else:
        _vectors(axes, x, sets.get("real"), low, high, COLOURS[name])


def _brightness(scale: Tensor, origin: Origin | None) -> tuple[float, float]:
    """What is drawn black, and what white."""
    low, high = (origin.low, origin.high) if origin else (float(scale.min()), float(scale.max()))
    for usual in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if usual[0] <= low and high <= usual[1] and high - low > 0.5 * (usual[1] - usual[0]):
            return usual
    return low, max(high, low + 1e-12)


def _grid(x: Tensor, aspect: float) -> Any:
    """As many images as suit the panel, on white; ``(H, W, 3)`` in [0, 1]."""
    rows = 4 if x.shape[2] > 16 else 5
    rows = min(rows, max(1, round((len(x) / aspect) ** 0.5)))
    columns = max(1, min(int(rows * aspect * x.shape[2] / x.shape[3]), len(x) // rows))
    gap = max(1, x.shape[2] // 16)
    high, wide = x.shape[2] + gap, x.shape[3] + gap
    grid = torch.ones(rows * high - gap, columns * wide - gap, 3)
    for index, image in enumerate(x[: rows * columns].clamp(0, 1)):
        top, left = index // columns * high, index % columns * wide
        grid[top : top + high - gap, left : left + wide - gap] = image.expand(3, -1, -1).permute(1, 2, 0)
    return grid.numpy()


def _series(axes: Any, x: Tensor, low: float, high: float, colour: str) -> None:
    """A few series, one above the other; of many channels a map, time to the right."""
    if x.shape[2] > 3:
        shown = torch.cat([torch.nn.functional.pad(one.T, (0, 0, 0, 1), value=torch.nan) for one in x[:ROWS]])
        axes.imshow(shown[:-1].numpy(), aspect="auto", vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
        axes.set_yticks([])
        return
    for row, one in enumerate(x[:ROWS]):
        for channel, style in zip(one.T, ("-", "--", ":"), strict=False):
            shifted = channel.clamp(low, high) + (ROWS - 1 - row) * (high - low)
            axes.plot(shifted.tolist(), style, color=colour, linewidth=1.4)
    axes.set_ylim(low, low + ROWS * (high - low))
    axes.set_xlim(0, max(x.shape[1] - 1, 1))
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def _vectors(axes: Any, x: Tensor, real: Tensor | None, low: float, high: float, colour: str) -> None:
    """Every sample a line over the vector's entries, before the band that holds 90 % of the real ones."""
    entries = range(x.shape[1])
    if real is not None:
        bottom, top = torch.quantile(real, torch.tensor([0.05, 0.95]), dim=0).tolist()
        axes.fill_between(entries, bottom, top, color=COLOURS["real"], alpha=0.18, linewidth=0)
    axes.plot(x[:THREADS].T.numpy(), color=colour, alpha=0.35, linewidth=0.9)
    axes.set_xlim(0, x.shape[1] - 1)
    axes.set_ylim(low, high)


def _curves(history: list[StepReport]) -> list[tuple[str, list[tuple[int, float]], bool]]:
    """(Title, (iteration, value) pairs, whether zero is where it should end)."""
    read = [(row.iteration, row.distance) for row in history if row.distance is not None]
    new = [pair for pair, before in zip(read, [(0, None), *read], strict=False) if pair[1] != before[1]]
    return [
        ("Distance to the data, σ", new, False),
        ("Score gap, in its spreads", [(row.iteration, row.gap / max(row.score_std, 1e-12)) for row in history], True),
        ("Chain displacement, σ", [(row.iteration, row.displacement) for row in history], False),
        ("Langevin step size", [(row.iteration, row.step_size) for row in history], False),
    ]


def _curve(axes: Any, title: str, values: list[tuple[int, float]], zero: bool) -> None:
    values = [pair for pair in values if math.isfinite(pair[1])]
    axes.set_title(title, fontsize=13, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=11)
    axes.set_xlabel("iteration", fontsize=12)
    if not values:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "too short for\na reading", ha="center", va="center", fontsize=12, transform=axes.transAxes)
        return
    x, y = zip(*values, strict=True)
    wide = min(y) > 0 and max(y) > 30 * min(y)  # as the step size may be
    if wide:
        axes.set_yscale("log")
    else:
        axes.locator_params(nbins=4)
    axes.plot(x, y, color=COLOURS["after"], linewidth=2 if len(x) < 60 else 1, marker="o" if len(x) < 3 else None)
    if zero:
        axes.axhline(0, color="#868e96", linewidth=1)
    elif min(y) >= 0 and not wide:
        axes.set_ylim(0, 1.08 * max(max(y), 1e-12))
