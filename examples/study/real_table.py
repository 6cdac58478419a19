"""The tables of the whole runs on real images, one line a setting, from the rows that they wrote.

    python -m examples.study.real_table examples/study/results/stacked_mnist.csv
    python -m examples.study.real_table --readme examples/study/results/stacked_mnist.csv     # the table of README

Every figure is the median over the seeds. `fall` is the largest Fréchet distance of the adversarial stage over the one
right after the warm-up: 1 if samples never get worse.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

Row = dict[str, str]
Runs = dict[tuple[str, ...], dict[str, list[Row]]]  # the readings of each setting's runs, by seed
SETTING = ("task", "net", "images", "loss", "arm")
SHOWN = ("modes", "modes_of_quality", "quality", "reverse_kl", "frechet", "distance", "coverage", "d_memory")
NAMES = {  # as README calls each net and loss
    ("none", "non_saturating"): "no normalisation, non-saturating",
    ("batch", "non_saturating"): "BatchNorm, non-saturating",
    ("spectral", "non_saturating"): "spectral norm, non-saturating",
    ("none", "hinge"): "no normalisation, hinge",
    ("none", "least_squares"): "no normalisation, least squares",
    ("none", "non_saturating_r1"): "no normalisation, non-saturating + R1 (γ 1)",
    ("none", "wgan_gp"): "no normalisation, WGAN-GP",
    ("none", "r3gan"): "no normalisation, R3GAN",
    ("plain-g", "non_saturating"): "no normalisation, in G neither, non-saturating",
    ("unrolled-half", "non_saturating"): "Unrolled GAN's, D = ½ G, at 5000",
    ("unrolled-quarter", "non_saturating"): "Unrolled GAN's, D = ¼ G, at 5000",
}
LOST = 150  # modes; a run with fewer is called lost


def runs_of(path: Path) -> Runs:
    """All runs in a table."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[tuple(row[name] for name in SETTING if name in row)][row["seed"]].append(row)
    return runs


def table(path: Path) -> str:
    """Markdown: the readings right after the start, and at the end of the budget."""
    runs = runs_of(path)
    row = next(iter(next(iter(runs.values())).values()))[0]
    shown = [name for name in SHOWN if name in row]
    named = [name for name in SETTING if name in row]
    heads = [*named, "seeds", "warm-up's cost", *(f"{name}, at once" for name in shown[:2]), *shown, "fall"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for setting, seeds in sorted(runs.items()):
        of = list(seeds.values())

        def median(value: Callable[[list[Row]], str | float], of: list[list[Row]] = of) -> str:
            return f"{statistics.median(float(value(run)) for run in of):g}"

        cells = [*setting, str(len(of)), median(lambda run: run[0]["warm_cost"])]
        cells += [median(lambda run, name=name: run[0][name]) for name in shown[:2]]
        cells += [median(lambda run, name=name: run[-1][name]) for name in shown]
        cells.append(median(lambda run: round(max(map(_frechet, run[1:])) / _frechet(run[0]), 2)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def evidence(path: Path) -> str:
    """Markdown: random and warm starts side by side, and below in a line how many were lost and what they cost."""
    runs = runs_of(path)
    lines = [
        "| D, loss | random start, seeds | warm start: median, range, seeds | right after the warm-up "
        "| cost of the warm-up | Fréchet distance: random, warm |",
        "|---" * 6 + "|",
    ]
    costs, ends = [], []
    for (net, loss), name in NAMES.items():
        warm, random = (list(runs[net, loss, arm].values()) for arm in ("warm", "random"))
        if not warm:
            continue
        modes = [int(run[-1]["modes"]) for run in warm]
        costs.append(statistics.median(int(run[0]["warm_cost"]) for run in warm))
        ends += modes
        end = f"**{_median(warm, 'modes')}** ({_median(warm, 'modes_of_quality')})"
        beside = f"{_median(random, 'modes')} ({_median(random, 'modes_of_quality')}), {len(random)}" if random else "–"
        lines.append(
            f"| {name} | {beside} | {end}, {min(modes)} to {max(modes)}, {len(modes)} "
            f"| {_median(warm, 'modes', 0)} ({_median(warm, 'modes_of_quality', 0)}) | {costs[-1]:.0f} "
            f"| {_median(random, 'frechet')}, {_median(warm, 'frechet')} |"
        )
    lost = sum(modes < LOST for modes in ends)
    told = f"Of the {len(ends)} warm starts {lost or 'none'} {'were' if lost > 1 else 'was'} lost (under {LOST} modes)"
    return "\n".join([*lines, "", f"{told}; the median of their costs is {statistics.median(costs):.0f}."])


def _median(runs: list[list[Row]], name: str, reading: int = -1) -> int | str:
    return "–" if not runs else round(statistics.median(float(run[reading][name]) for run in runs))


def _frechet(row: Row) -> float:
    return float(row["frechet"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--readme", action="store_true", help="random and warm starts side by side, as README has them")
    asked = parser.parse_args()
    for path in asked.rows:
        print((evidence if asked.readme else table)(path), end="\n\n")


if __name__ == "__main__":
    main()
