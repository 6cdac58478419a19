"""The study's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from PIL import Image

from examples.study.plans import Setting
from examples.study.summaries import Row, curve, median

matplotlib.use("Agg")  # draws into files, with or without a display

COLOURS = {
    "random": "#495057",
    "ours": "#d9480f",
    "fixed": "#e8a838",
    "handover-only": "#9c36b5",
    "vae": "#1971c2",
    "sliced": "#2f9e44",
    "r1-1": "#495057",
    "r1-10": "#495057",
    "r3gan": "#495057",
}
DASHES = {"r1-1": ":", "r1-10": "--", "r3gan": "-."}  # random starts, too, with another loss
MODES = 1000


def coverage(settings: Mapping[str, Mapping[str, list[Row]]], names: Mapping[str, str], path: Path) -> None:
    """Median modes against cost, a panel a setting, a line an arm, with the span of the middle half of the seeds."""
    columns = 3
    rows = -(-len(settings) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 2.6 * rows + 0.6), sharey=True, squeeze=False)
    lines = {}
    for panel, (title, arms) in zip(axes.flat, settings.items(), strict=False):
        for arm in sorted(arms, key=lambda arm: arm == "ours"):
            lines[arm] = _draw(panel, arm, arms[arm])
        panel.set_title(title, fontsize=14, loc="left")
        panel.set_ylim(-15, MODES * 1.03)
        panel.set_xlim(left=0)
        _plain(panel)
    for panel in list(axes.flat)[len(settings) :]:
        panel.axis("off")
    for panel in axes[:, 0]:
        panel.set_ylabel("modes covered", fontsize=13)
    for column in range(columns):
        lowest = max((row for row in range(rows) if row * columns + column < len(settings)), default=0)
        axes[lowest, column].set_xlabel("cost, GAN iterations", fontsize=13)
    shown = [arm for arm in COLOURS if arm in lines]
    figure.legend(
        [lines[arm] for arm in shown],
        [names[arm].replace("*", "") for arm in shown],
        loc="upper center",
        ncols=min(5, len(shown)),
        fontsize=13,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / (2.6 * rows + 0.6)))
    _save(figure, path)


def _draw(panel: Axes, arm: str, rows: list[Row]) -> object:
    curves = [curve(row) for row in rows]
    begun = float(np.median([costs[0] for costs, _ in curves]))
    times = np.linspace(begun, float(np.median([costs[-1] for costs, _ in curves])), 100)
    scores = np.stack([np.interp(times, *one) for one in curves])
    low, middle, high = np.quantile(scores, (0.25, 0.5, 0.75), axis=0)
    front = 3 if arm == "ours" else 2
    panel.fill_between(times, low, high, color=COLOURS[arm], alpha=0.15, linewidth=0)
    if begun > 30:
        panel.plot(begun, middle[0], "o", color=COLOURS[arm], markersize=7, zorder=front)
    how = {"linewidth": 3 if front == 3 else 2, "linestyle": DASHES.get(arm, "-"), "zorder": front}
    return panel.plot(times, middle, color=COLOURS[arm], **how)[0]


def grid(
    modes: Mapping[tuple[Setting, str], float], objectives: Mapping[str, str], norms: Mapping[str, str], path: Path
) -> None:
    """Two heat maps, random start and ours: losses and norms down, learning rates and widths across."""
    down = list(dict.fromkeys((setting.objective, setting.norm) for setting, _ in modes))
    across = list(dict.fromkeys((setting.lr, setting.d_width) for setting, _ in modes))
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.42 * len(down) + 1.6), sharey=True)
    for panel, arm, title in zip(axes, ("random", "ours"), ("random start", "ours"), strict=True):
        values = np.full((len(down), len(across)), np.nan)
        for (setting, of_arm), value in modes.items():
            if of_arm == arm:
                values[down.index((setting.objective, setting.norm)), across.index((setting.lr, setting.d_width))] = (
                    value
                )
        _heat(panel, values, [[_count(value) for value in line] for line in values])
        panel.set_title(title, fontsize=14)
        panel.set_xticks(
            range(len(across)),
            [f"lr {lr:.0e}\nD {'full' if width == 1 else '¼'}".replace("e-0", "e-") for lr, width in across],
            fontsize=11,
        )
        for line in range(3, len(down), 3):
            panel.axhline(line - 0.5, color="white", linewidth=3)
    labels = [f"{objectives[objective]}, {norms[norm] or 'no norm'}" for objective, norm in down]
    axes[0].set_yticks(range(len(down)), labels, fontsize=12)
    figure.suptitle("Modes at the end, of 1000, equal cost", fontsize=13, x=0.62)
    figure.tight_layout()
    _save(figure, path)


def sensitivity(settings: Mapping[str, Mapping[str, list[Row]]], path: Path) -> None:
    """A heat map a setting: Langevin steps across, iterations down, the cost of the warm-up in small."""
    figure, axes = plt.subplots(1, len(settings), figsize=(5.2 * len(settings), 4.4), sharey=True, squeeze=False)
    for panel, (title, arms) in zip(axes.flat, settings.items(), strict=True):
        found = {tuple(map(int, arm.replace("its=", "").replace("K=", "").split())): rows for arm, rows in arms.items()}
        down, across = (sorted({key[i] for key in found}) for i in (0, 1))
        values = np.full((len(down), len(across)), np.nan)
        texts = [["" for _ in across] for _ in down]
        for (iterations, steps), rows in found.items():
            place = down.index(iterations), across.index(steps)
            values[place] = median(rows, "modes").value
            texts[place[0]][place[1]] = f"{values[place]:.0f}\n{median(rows, 'warm_cost').value:.0f}"
        _heat(panel, values, texts)
        panel.set_title(title, fontsize=13)
        panel.set_xticks(range(len(across)), across)
        panel.set_yticks(range(len(down)), down)
        panel.set_xlabel("Langevin steps K", fontsize=11)
    axes[0, 0].set_ylabel("warm-up iterations", fontsize=11)
    figure.suptitle("Modes at the end of the same budget,\nand what the warm-up cost, in GAN iterations", fontsize=13)
    figure.tight_layout()
    _save(figure, path)


def _heat(panel: Axes, values: np.ndarray, texts: list[list[str]]) -> None:
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#f1f3f5")
    panel.imshow(values, vmin=0, vmax=MODES, cmap=colours, aspect="auto")
    for row, column in np.ndindex(values.shape):
        dark = values[row, column] < 0.6 * MODES
        panel.text(
            column, row, texts[row][column], ha="center", va="center", fontsize=11, color="white" if dark else "black"
        )
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _count(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0f}"


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)
    panel.tick_params(labelsize=12)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _save(figure: plt.Figure, path: Path) -> None:
    """In 128 colours, which nobody misses and which make the file a third as large."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    plt.close(figure)
