"""The picture of real images: real, from a random start, right after the warm-up, trained.

    python -m examples.study.stacked_mnist --data mnist.npz --arm random --keep runs/kept/stacked --total 3000
    python -m examples.study.stacked_mnist --data mnist.npz --arm warm --keep runs/kept/stacked --total 3000
    python -m examples.study.pictures runs/kept/stacked runs/stacked_mnist.csv examples/study/results/stacked_mnist.png

Each sample of Stacked MNIST is shown as its three channels, side by side. Of every start the first seed that was kept
is taken, and of its samples the first ones: nothing is chosen.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure

COLUMNS, ROWS = 2, 6  # samples in a panel


def panel(samples: np.ndarray) -> np.ndarray:
    """A grid of samples (N, C, H, W): the channels of each side by side, a light line around each sample."""
    wide = np.concatenate(list(samples.swapaxes(0, 1)), axis=-1)  # (N, H, C·W)
    columns = COLUMNS if samples.shape[1] > 1 else COLUMNS + 2
    framed = np.pad(wide[: columns * ROWS], ((0, 0), (2, 2), (2, 2)), constant_values=255)
    return np.concatenate(
        [np.concatenate(list(row), axis=1) for row in framed.reshape(ROWS, columns, *framed.shape[1:])]
    )


def draw(kept: Path, rows: Path) -> Figure:
    """Four panels, of what lies in the folder, with what the rows say of them."""
    random, warm = (_first_run(kept, arm) for arm in ("random", "warm"))
    parts = [
        ("Real", kept / "real.npy"),
        (f"Random start{_told(random[-1], rows)}", random[-1]),
        (f"Right after the warm-up{_told(warm[0], rows)}", warm[0]),
        (f"Warm start{_told(warm[-1], rows)}", warm[-1]),
    ]
    figure, axes = pyplot.subplots(1, 4, figsize=(12, 3.9), layout="constrained")
    for axis, (title, file) in zip(axes, parts, strict=True):
        axis.imshow(panel(np.load(file)), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=11, loc="left")
        axis.axis("off")
    return figure


def _done(file: Path) -> int:
    """Adversarial iterations."""
    return int(file.stem.rpartition("-")[2])


def _told(file: Path, rows: Path) -> str:
    """The cost of this reading in adversarial iterations, and what its row says."""
    with rows.open(newline="") as table:
        for row in csv.DictReader(table):
            name = "-".join(list(row.values())[: list(row).index("warm_cost")])
            if file.stem.startswith(name + "-") and abs(int(row["cost"]) - int(row["warm_cost"]) - _done(file)) <= 1:
                if "modes" in row:
                    found = f"{row['modes']} of 1000 modes ({row['modes_of_quality']} read surely)"
                else:
                    found = f"Fréchet {float(row['frechet']):,.1f}"
                return f", cost {int(row['cost']):,}\n{found}"
    return ""


def _first_run(kept: Path, arm: str) -> list[Path]:
    """The readings of one run, in order."""
    files = sorted(kept.glob(f"*-{arm}-*.npy"))
    run = files[0].name.rpartition("-")[0]
    return [file for file in files if file.name.rpartition("-")[0] == run]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, help="the folder of --keep")
    parser.add_argument("rows", type=Path, help="the table of --table")
    parser.add_argument("picture", type=Path)
    asked = parser.parse_args()
    draw(asked.kept, asked.rows).savefig(asked.picture, dpi=110)


if __name__ == "__main__":
    main()
