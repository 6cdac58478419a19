"""The numbers behind the claim: warm against random over several seeds, ``python -m examples.dcgan.headline``.

A sample can be read if all of its three digits are as close to a real one as 99 % of the real ones are to each other.
Blurred digits are closer to others than sharp ones are, so this is not the whole of quality either.

Library defaults only; 800 adversarial iterations after the warm-up, and a random start for as many more as the warm-up
cost. A row a run goes to ``headline.csv``; runs that have their row are not repeated.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import median

from examples.dcgan.data import digits_task
from examples.dcgan.run import start as start_of
from examples.helpers.digits import coverage, readable, readable_modes

FILE = Path(__file__).with_name("headline.csv")
ITERATIONS = 800
COLUMNS = (
    "seed",
    "start",
    "warm_up_iterations",
    "warm_up_seconds",
    "adversarial_iterations",
    "seconds_per_100_adversarial",
    "seconds",
    "readable_modes_after_warm_up",
    "readable_modes_at_end",
    "readable_share_at_end",
    "modes_at_end",
    "reverse_kl",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.dcgan.headline", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    for seed in args.seeds:
        warm = once(seed, "warm")
        cost = float(warm["seconds"]) / float(warm["seconds_per_100_adversarial"]) * 100
        once(seed, "random", iterations=round(cost))
    report(rows())


def once(seed: int, start: str, iterations: int = ITERATIONS) -> dict[str, str]:
    """The row of this run: from the file, else from running it."""
    for row in rows():
        if (row["seed"], row["start"]) == (str(seed), start):
            return row
    run = start_of(digits_task(seed), seed, warm=start == "warm")
    run.train(iterations, every=10**9)
    (warmed, _), (ended, _) = run.curve
    read = [readable_modes(samples) for samples in (run.before, run.after)]
    modes_at_end, reverse_kl = coverage(run.after)
    values = (
        seed,
        start,
        run.result.summary["iterations"] if run.result else "",
        f"{warmed:.2f}" if run.result else "",
        run.iterations,
        f"{(ended - warmed) / run.iterations * 100:.3f}",
        f"{ended:.2f}",
        read[0] if run.result else "",
        read[1],
        f"{float(readable(run.after).float().mean()):.3f}",
        modes_at_end,
        f"{reverse_kl:.4f}",
    )
    new = not FILE.exists()
    with FILE.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(([COLUMNS] if new else []) + [values])
    return rows()[-1]


def rows() -> list[dict[str, str]]:
    if not FILE.exists():
        return []
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def report(table: list[dict[str, str]]) -> None:
    """Print the medians of both starts."""
    starts = {start: [row for row in table if row["start"] == start] for start in ("random", "warm")}
    print(f"\n{'median':<28}  {'random':>8}  {'warm':>8}")
    print(f"{'runs':<28}  {len(starts['random']):>8}  {len(starts['warm']):>8}")
    for column in COLUMNS[2:]:
        cells = [
            f"{median(values):.4g}" if (values := [float(row[column]) for row in part if row[column]]) else "–"
            for part in starts.values()
        ]
        print(f"{column:<28}  {cells[0]:>8}  {cells[1]:>8}")


if __name__ == "__main__":
    main()
