"""How early, and how surely, does the watch call a run that ends lost? ``python -m examples.study.watch OUTPUT.csv``.

Each run is a setting of the study from a random or a warm start, watched 48 times. It is lost if it ends with under
15 % of the modes. A row a run; a run that is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import torch

import coopinit_plugin
from examples.study.objectives import OBJECTIVES
from examples.study.once import BATCH, SCALES, Run, quiet
from examples.study.plans import Setting

CALLS = 48  # of the watch in a run
LOST = 0.15  # of the modes
SETTINGS = [
    *itertools.product(["digits"], ["none", "spectral", "batch"], ["non_saturating", "hinge"]),
    *itertools.product(["series", "grid100"], ["none", "batch"], ["non_saturating"]),
]
FIELDS = ("task", "norm", "objective", "start", "seed", "iterations", "modes", "lost", "called", "words")


def watched(task: str, norm: str, objective: str, start: str, seed: int, iterations: int) -> dict[str, object]:
    """One run's row: whether it ended lost, and at which iteration the watch first called that."""
    run = Run(Setting(task, objective, norm), OBJECTIVES[objective], seed, SCALES["full"])
    if start == "warm":
        config = coopinit_plugin.WarmStartConfig(handover=run.objective.word, seed=seed)
        coopinit_plugin.warm_start(run.G, run.D, run.loader, config=config, progress=False)
    every = max(1, iterations // CALLS)
    watch = coopinit_plugin.Watch(run.task.data[-512:].split(64), every=every)
    stage = run.adversarial(run.G, run.D, run.objective)
    called = ""
    words = ""
    for iteration in range(iterations + 1):
        if iteration:
            next(stage)
        if iteration % every == 0:
            state = torch.get_rng_state()
            with torch.no_grad():
                warnings = watch(fake=run.G(torch.randn(BATCH, *run.task.latent)), step=iteration).warnings
            torch.set_rng_state(state)
            if warnings and called == "":
                called, words = str(iteration), warnings[0]
    modes = run.task.measure(run.samples())["modes"]
    lost = int(modes < LOST * run.task.modes)
    values = (task, norm, objective, start, seed, iterations, int(modes), lost, called, words)
    return dict(zip(FIELDS, values, strict=True))


def table(rows: list[dict[str, str]]) -> str:
    """Lost runs called before half of their budget, and healthy ones called at all."""
    lost, healthy = ([row for row in rows if row["lost"] == flag] for flag in ("1", "0"))
    early = [row for row in lost if row["called"] and int(row["called"]) <= int(row["iterations"]) / 2]
    false = [row for row in healthy if row["called"]]
    when = sorted(int(row["called"]) for row in early)
    median = f", the median one at iteration {when[len(when) // 2]}" if when else ""
    return (
        f"{len(early)} of {len(lost)} lost runs were called before half of their budget{median}; "
        f"{len(false)} of {len(healthy)} healthy ones were called."
    )


def main() -> None:
    """Run what is missing, and print the table."""
    known = argparse.ArgumentParser(prog="python -m examples.study.watch", description=__doc__.split("``")[0])
    known.add_argument("table", type=Path)
    known.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    known.add_argument("--iterations", type=int, default=1200)
    known.add_argument(
        "--only", nargs=3, action="append", metavar=("TASK", "NORM", "LOSS"), help="default: all of them"
    )
    options = known.parse_args()
    done = list(csv.DictReader(options.table.open(encoding="utf-8"))) if options.table.exists() else []
    there = {tuple(row[name] for name in FIELDS[:5]) for row in done}
    with options.table.open("a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            rows.writeheader()
        settings = map(tuple, options.only or SETTINGS)
        for seed, start, setting in itertools.product(options.seeds, ["random", "warm"], settings):
            if (*setting, start, str(seed)) not in there:
                with quiet():
                    rows.writerow(watched(*setting, start, seed, options.iterations))
                file.flush()
    print(table(list(csv.DictReader(options.table.open(encoding="utf-8")))))


if __name__ == "__main__":
    main()
