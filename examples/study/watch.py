"""How early, and how surely, does the watch call a run that ends lost? ``python -m examples.study.watch OUTPUT.csv``.

Each run is a setting of the study from a random or a warm start, watched every 25 iterations. It is lost where it ends
with under 5 % of the modes. A row a run; a run that is there already is not run again.
"""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path

import torch

import coopinit_plugin
from examples.study.objectives import OBJECTIVES
from examples.study.once import BATCH, COLLAPSED, SCALES, Run, quiet
from examples.study.plans import Setting

EVERY = 25  # iterations between calls
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
    watch = coopinit_plugin.Watch(run.task.data[-512:].split(64), every=EVERY)
    stage = run.adversarial(run.G, run.D, run.objective)
    called = ""
    words = ""
    for iteration in range(iterations + 1):
        if iteration:
            next(stage)
        if iteration % EVERY == 0:
            state = torch.get_rng_state()
            with torch.no_grad():
                warnings = watch(fake=run.G(torch.randn(BATCH, *run.task.latent)), step=iteration).warnings
            torch.set_rng_state(state)
            if warnings and called == "":
                called, words = str(iteration), warnings[0]
    modes = run.task.measure(run.samples())["modes"]
    lost = int(modes < COLLAPSED * run.task.modes)
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


def main(path: Path, seeds: int = 2, iterations: int = 1200) -> None:
    """Run what is missing, and print the table."""
    done = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    there = {tuple(row[name] for name in FIELDS[:5]) for row in done}
    with path.open("a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            rows.writeheader()
        for seed, start, setting in itertools.product(range(seeds), ["random", "warm"], SETTINGS):
            if (*setting, start, str(seed)) not in there:
                with quiet():
                    rows.writerow(watched(*setting, start, seed, iterations))
                file.flush()
    print(table(list(csv.DictReader(path.open(encoding="utf-8")))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
