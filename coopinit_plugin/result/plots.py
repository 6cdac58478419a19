"""One picture of a warm-up: real samples, G's before and after, and the curves."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from coopinit_plugin.result.provenance import Samples
from coopinit_plugin.result.step_report import StepReport

PANELS = {  # of samples: (title, colour)
    "real": ("Real data", "#343a40"),
    "before": ("G before", "#1971c2"),
    "after": ("G after the warm-up", "#d9480f"),
}
ROWS = 4  # of images, and series, in a panel
LINES = 40  # vectors drawn in a panel


def draw(path: Path, samples: Samples, history: list[StepReport]) -> None:
    """Write the picture as a PNG; without samples, the curves are drawn alone."""
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = {name: samples[name].float() for name in PANELS if name in samples}
    curves = {
        "Distance to data, σ": [math.nan if row.distance is None else row.distance for row in history],
        "Chains move by, σ": [row.displacement for row in history],
        "D: real − refined, in SDs": [row.gap / max(row.score_std, 1e-12) for row in history],
        "Langevin step size": [row.step_size for row in history],
    }
    with matplotlib.style.context("default"):
        figure: Any = Figure(figsize=(10, 6.1 if shown else 2.8), dpi=100, layout="constrained")
        figure.suptitle(f"CoopInit warm-up, {len(history)} iterations", x=0.02, ha="left", fontsize=16, weight="bold")
        lower = figure
        if shown:
            upper, lower = figure.subfigures(2, 1, height_ratios=[3, 2])
            panels = upper.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False).flat
            scale = shown.get("real", [*shown.values()][-1])  # whose smallest value is black, and whose largest white
            for axes, (name, x) in zip(panels, shown.items(), strict=True):
                label, colour = PANELS[name]
                axes.set_title(label, fontsize=16, color=colour, weight="bold", loc="left")
                _panel(axes, x, colour, float(scale.min()), float(scale.max()))
        for axes, (label, values) in zip(lower.subplots(1, len(curves), sharex=True), curves.items(), strict=True):
            axes.set_title(label, fontsize=13, loc="left")
            axes.set_xlabel("iteration", fontsize=12)
            axes.axhline(0, color="#868e96", linewidth=1)
            axes.plot(range(1, 1 + len(values)), values, color=PANELS["after"][1], marker=".", markersize=3)
        figure.savefig(path, format="png")


def _panel(axes: Any, x: Tensor, colour: str, low: float, high: float) -> None:
    """One set of samples, in the way that shows its kind; the panels share their axes."""
    if x.ndim == 4:
        side = min(ROWS, math.isqrt(len(x)))
        images = ((x[: side * side] - low) / max(high - low, 1e-12)).clamp(0, 1).expand(-1, 3, -1, -1)
        framed = pad(images, (1, 1, 1, 1), value=1)
        grid = framed.reshape(side, side, *framed.shape[1:]).permute(0, 3, 1, 4, 2)
        axes.imshow(grid.flatten(2, 3).flatten(0, 1).numpy(), interpolation="antialiased")
        axes.axis("off")
    elif x.shape[1:] == (2,):
        axes.scatter(*x.T.tolist(), s=14, color=colour, alpha=0.7, linewidths=0)
    elif x.ndim == 3:  # a few series, by their first channel
        axes.plot(x[:ROWS, :, 0].T.numpy(), color=colour)
    else:  # vectors, each a line over its entries; single numbers in order of size
        axes.plot((x.sort(0).values if x.shape[1] == 1 else x[:LINES].T).numpy(), color=colour, alpha=0.5)
