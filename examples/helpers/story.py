"""The pictures: grids of samples, and one that tells the whole story."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import interpolate

from examples.helpers.runs import Run

matplotlib.use("Agg")  # draws into files, with or without a display

COLOURS = {True: "#d9480f", False: "#495057"}  # warm, random
CELL = 48  # pixels of one sample in a picture, about


def grid(samples: Tensor, width: int = 335, height: int = 270, gap: int = 3) -> np.ndarray:
    """As many samples as fit, (about `height`, about `width`, 3) in [0, 1], each of their pixels a crisp block."""
    block = max(1, round(CELL / samples.shape[-2]))
    tall, wide = (block * side + gap for side in samples.shape[-2:])
    rows, columns = height // tall, width // wide
    images = (samples[: rows * columns].expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().clip(-1, 1) + 1) / 2
    picture = np.ones((rows * tall - gap, columns * wide - gap, 3))
    for index, image in enumerate(images.repeat(block, axis=1).repeat(block, axis=2)):
        top, left = index // columns * tall, index % columns * wide
        picture[top : top + tall - gap, left : left + wide - gap] = image
    return picture


def side_by_side(stacks: Tensor) -> Tensor:
    """The channels of each (N, C, H, W) in grey beside one another, enlarged so that a person can read digits."""
    larger = interpolate(stacks, scale_factor=max(1, CELL // stacks.shape[-1]), mode="bicubic").clamp(-1, 1)
    return larger.permute(0, 2, 1, 3).flatten(2)[:, None]


def save_grid(samples: Tensor, path: Path) -> None:
    plt.imsave(path, grid(samples, width=408, height=408))


def show_images(axes: Axes, samples: Tensor) -> None:
    axes.imshow(grid(samples), interpolation="nearest", extent=(0, 1, 0, 1), aspect="auto")
    axes.axis("off")


def save_story(
    what: str,
    runs: list[Run],
    path: Path,
    show: Callable[[Axes, Tensor], None] = show_images,
    beside: Callable[[Axes], None] | None = None,
) -> None:
    """Real samples and those of the first seed's runs side by side, and below them the scores of all against time.

    Args:
        what: The network's name.
        runs: In the order in which they were compared.
        path: The PNG.
        show: Draws samples.
        beside: Draws what stands beside the curves.
    """
    task = runs[0].task
    quality = getattr(task, "quality", lambda samples: "")
    panels = [("Real data", task.about, task.real(80), "black")]
    shown = [run for run in runs if run.seed == runs[0].seed]
    for run in shown:
        (begun, first), (ended, last) = run.curve[0], run.curve[-1]
        if run.warm:
            told = task.tell(first) + quality(run.before)
            panels.append((f"Right after the warm-up, {begun:.0f} s", told, run.before, COLOURS[True]))
        told = task.tell(last) + quality(run.after)
        panels.append((f"{run.name}, trained {ended:.0f} s", told, run.after, COLOURS[run.warm]))

    margin, head, high, wide, curves = 20, 126, 270, 345, 320  # pixels
    columns = len(panels) if beside is None else max(len(panels), 4)
    width, height = margin + columns * wide, head + high + curves
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)

    def write(text: str, left: int, top: int, **how: Any) -> None:
        figure.text(left / width, 1 - top / height, text, va="top", **how)

    def place(left: int, top: int, w: int, h: int) -> Axes:
        return figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))

    against = f"The same {what}, {ended:.0f} s on one CPU core: random against warm start"
    heading = against if len(shown) > 1 else f"{what} from a random start"
    write(heading, margin, 18, fontsize=20, weight="bold")
    for index, (title, score, samples, colour) in enumerate(panels):
        left = margin + index * wide
        write(title, left, 72, fontsize=15, color=colour)
        write(score, left, 98, fontsize=12.5, color=colour, weight="bold" if index else "normal")
        show(place(left, head, 303, 252), samples)
    aside = 0 if beside is None else 2 * wide - 70
    draw_curves(place(86, head + high + 10, width - 86 - 185 - aside, curves - 70), runs)
    if beside is not None:
        beside(place(width - aside + 160, head + high + 10, aside - 190, curves - 70))
    figure.savefig(path)
    plt.close(figure)


def finish(what: str, runs: list[Run], path: Path, **panels: Any) -> None:
    """End a comparison: save its story, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_story(what, runs, path, **panels)
    print(f"\nPicture: {path}")


def draw_curves(axes: Axes, runs: list[Run]) -> None:
    """The score of each run against its seconds, the warm-up shaded."""
    highest = 1.05 * max(score for run in runs for _, score in run.curve) or 1.0
    axes.set_xlim(0, max(run.seconds for run in runs if run.seed == runs[0].seed))
    axes.set_ylim(0, highest)
    label = -1.0
    for run in sorted(runs, key=lambda run: run.curve[-1][1]):
        colour = COLOURS[run.warm]
        seconds, scores = zip(*run.curve, strict=True)
        if run.seed != runs[0].seed:  # further seeds, thin
            axes.plot(seconds, scores, color=colour, linewidth=1, alpha=0.6)
            continue
        axes.plot(seconds, scores, color=colour, linewidth=3, solid_capstyle="butt")
        label = max(scores[-1] / highest, label + 0.1)  # names of close curves stay apart
        words = {"transform": axes.transAxes, "va": "center", "fontsize": 15, "color": colour}
        axes.text(1.01, label, run.name.lower(), weight="bold", **words)
        if run.warm:
            axes.plot(seconds[0], scores[0], "o", color=colour, markersize=9, clip_on=False)
            axes.axvspan(0, seconds[0], color=colour, alpha=0.12, linewidth=0)
            share = seconds[0] / run.seconds
            axes.text(share / 2, 0.5, "warm-up", ha="center", rotation=90 if share < 0.2 else 0, **words)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("seconds of training, the warm-up included", fontsize=13)
    axes.set_ylabel(runs[0].task.score, fontsize=13)
    axes.tick_params(labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def told_detectors(known: str, found: dict[str, list[float]]) -> None:
    """Print the average precision of the detectors: `found` has a number a seed for each way to come by defects."""
    print(f"\nAverage precision of a detector trained with {known} and")
    for name, values in found.items():
        print(f"{name:<28}  median {median(values):.3f}   {'  '.join(f'{value:.3f}' for value in values)}")


def draw_detectors(axes: Axes, found: dict[str, list[float]]) -> None:
    """A row for each way, a dot for each seed, a line at the median."""
    for row, (name, values) in enumerate(reversed(found.items())):
        colour = COLOURS[name.endswith("warm start")]
        axes.plot([median(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=4)
        axes.plot(values, [row] * len(values), "o", color=colour, markersize=8, alpha=0.6)
    axes.set_yticks(range(len(found)), list(found)[::-1], fontsize=13)
    axes.set_xlabel("detector's average precision", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
