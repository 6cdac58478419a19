"""The benchmarks' pictures: how long an iteration takes in whose hands, and what of it takes how long."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

matplotlib.use("Agg")  # draws into files, with or without a display

LOOKS = {
    "library": ("coopinit_plugin", "#d9480f", "o"),
    "torchebm": ("torchebm", "#1971c2", "s"),
    "JEM": ("JEM", "#2f9e44", "^"),
    "ebm-anatomy": ("ebm-anatomy", "#9c36b5", "v"),
    "pytorch-CoopNets": ("pytorch-CoopNets", "#e8a838", "D"),
    "plain script": ("plain script", "#495057", "X"),
}

Row = tuple[str, int]  # a pair of networks and K
Found = Mapping[str, list[float] | None]


def shares(found: Mapping[Row, Mapping[str, float]], path: Path) -> None:
    """One bar for each pair of networks and K, cut into the parts of an iteration.

    Args:
        found: The share of each part, for each (pair, K).
        path: Where the PNG goes.
    """
    figure, axes = plt.subplots(figsize=(10, 0.45 * len(found) + 1.8))
    lines = _lines(found)
    left = [0.0] * len(found)
    for index, part in enumerate(next(iter(found.values()))):
        widths = [parts[part] for parts in found.values()]
        axes.barh(lines, widths, 0.75, left, color=matplotlib.colormaps["tab10"](index), label=part)
        for line, width, start in zip(lines, widths, left, strict=True):
            if width >= 0.05:
                axes.text(start + width / 2, line, f"{width:.0%}", ha="center", va="center", color="white", fontsize=11)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    _finish(axes, found, lines, "share of an iteration's time")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter("{x:.0%}")
    _save(figure, path, axes.get_legend_handles_labels(), rows=0.45 * len(found) + 1.8)


def draw(found: Mapping[Row, Found], path: Path) -> None:
    """One line for each pair of networks and K, a mark for each contender's median, a bar from quartile to quartile.

    Args:
        found: Seconds of each contender, one number a round, for each (pair, K).
        path: Where the PNG goes.
    """
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(found) + 1.7))
    marks = {}
    lines = _lines(found)
    for place, seconds in zip(lines, found.values(), strict=True):
        for who, (_, colour, mark) in LOOKS.items():
            if not seconds[who]:
                continue
            ratios = [a / b for a, b in zip(seconds[who], seconds["floor"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            ours = who == "library"
            axes.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.35, zorder=2 + ours)
            size = 11 if ours else 8
            marks[who] = axes.plot(middle, place, mark, color=colour, markersize=size, zorder=3 + ours)[0]
    axes.axvline(1, color="black", linewidth=1, zorder=1)
    _finish(axes, found, lines, "time of a cooperative iteration; 1: its passes through G and D alone")
    shown = [who for who in LOOKS if who in marks]
    legend = [marks[who] for who in shown], [LOOKS[who][0] for who in shown]
    _save(figure, path, legend, rows=0.42 * len(found) + 1.7)


def _lines(found: Mapping[Row, object]) -> list[float]:
    """Where each row is drawn, with a gap between two pairs of networks."""
    pairs = list(dict.fromkeys(pair for pair, _ in found))
    return [place + 0.6 * pairs.index(pair) for place, (pair, _) in enumerate(found)]


def _finish(axes: Axes, found: Mapping[Row, object], lines: list[float], label: str) -> None:
    axes.set_yticks(lines, [f"{pair}, K = {steps}" for pair, steps in found], fontsize=12)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=12)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(label, fontsize=12)


def _save(figure: plt.Figure, path: Path, legend: tuple[list, list], rows: float) -> None:
    figure.legend(*legend, loc="upper center", ncols=3, fontsize=12, frameon=False)
    lines = -(-len(legend[0]) // 3)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.15 + 0.3 * lines) / rows))
    figure.savefig(path, dpi=100)
    plt.close(figure)
