"""The tables of the whole runs on real images, one line a setting, from the rows that they wrote.

    python -m examples.study.real_table examples/study/results/stacked_mnist.csv

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
SETTING = ("task", "net", "images", "loss", "arm")
SHOWN = ("modes", "modes_of_quality", "quality", "reverse_kl", "frechet", "distance", "coverage", "d_memory")


def table(path: Path) -> str:
    """Markdown: the readings right after the start, and at the end of the budget."""
    runs: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[tuple(row[name] for name in SETTING if name in row)][row["seed"]].append(row)
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


def _frechet(row: Row) -> float:
    return float(row["frechet"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    for path in parser.parse_args().rows:
        print(table(path), end="\n\n")


if __name__ == "__main__":
    main()
