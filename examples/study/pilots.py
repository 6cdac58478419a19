"""Is the pilot's verdict right? ``python -m examples.study.pilots --task digits --repeat 10 --table FILE.csv``.

Three tasks whose answer is known, each a small pilot of three seeds, repeated with other seeds. A row a pilot; a pilot
that has its row is not run again.

- ``digits``: a DCGAN without normalisation in D on stacked 8×8 digits. A random start collapses: "use".
- ``penalty``: D's first weights are so small that a penalised D says nothing for long; what it lacks is the size of
  its logits, which the hand-over gives it: "hand-over".
- ``easy``: an MLP on a few overlapping Gaussians, where every start is as good: "no benefit".
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import coopinit_plugin
from coopinit_plugin.trial.run import ARMS
from examples.helpers.digits import StackedDigits
from examples.study import networks
from examples.study.objectives import OBJECTIVES
from examples.study.once import quiet

SEEDS = 3  # of a pilot
FIELDS = ("task", "repetition", "expected", "verdict", "random", "hand_over", "warm_start", "seconds", "words")


@dataclass(frozen=True)
class Task:
    """Something to learn, and what the pilot should say of it.

    Attributes:
        expected: The verdict in a word.
        data: Samples, from a seed.
        pair: New networks, G with its latents' shape as ``nz``.
        objective: A key of OBJECTIVES.
        rate: Adam's learning rate.
        iterations: Of a random start.
    """

    expected: str
    data: Callable[[int], Tensor]
    pair: Callable[[], tuple[nn.Module, nn.Module]]
    objective: str
    rate: float
    iterations: int

    def make(self, seed: int) -> tuple[Any, ...]:
        """G, D and their optimizers."""
        torch.manual_seed(seed)
        G, D = self.pair()
        return G, D, *(torch.optim.Adam(net.parameters(), self.rate, betas=(0.5, 0.999)) for net in (G, D))

    def step(self, G: nn.Module, D: nn.Module, batch: Any, adam_g: Any, adam_d: Any) -> tuple[Tensor, Tensor]:
        """One iteration."""
        real, objective = batch[0], OBJECTIVES[self.objective]
        fake = G(torch.randn(len(real), *G.latent))  # type: ignore[misc]
        return objective.step(D, real, fake, adam_g, adam_d)


def dcgan(width: float = 0.5) -> tuple[nn.Module, nn.Module]:
    """The DCGAN of examples/dcgan, D without normalisation."""
    G, D = networks.images(8, "none", width, width, False)
    G.latent = (G.nz, 1, 1)
    return G, D


def mlp(size: int, small: float | None = None, width: int = 64) -> tuple[nn.Module, nn.Module]:
    """Two layers of `width` in each; D's weights normal(0, `small`), or as torch draws them."""
    G = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
    D = nn.Sequential(nn.Linear(size, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
    D.append(nn.Linear(width, 1))
    if small is not None:
        for layer in D[::2]:
            nn.init.normal_(layer.weight, 0.0, small)
            nn.init.zeros_(layer.bias)
    G.latent = (8,)
    return G, D


def clusters(count: int, size: int, apart: float, seed: int) -> Tensor:
    """6400 samples of `count` equal Gaussians of unit variance in `size` dimensions, their centres `apart` σ."""
    centres = apart * torch.randn(count, size, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(count, (6400,), generator=generator)
    return centres[chosen] + torch.randn(6400, size, generator=generator)


TASKS = {
    "digits": Task("use", lambda seed: StackedDigits(6400, seed).images, dcgan, "non_saturating", 2e-4, 300),
    "penalty": Task("hand-over", partial(clusters, 6, 4, 2.0), partial(mlp, 4, 0.02), "wgan_gp", 1e-3, 400),
    "easy": Task("no benefit", partial(clusters, 3, 2, 1.0), partial(mlp, 2), "non_saturating_r1", 1e-3, 400),
}


def piloted(name: str, repetition: int, folder: Path | None = None) -> dict[str, Any]:
    """One pilot's row."""
    task = TASKS[name]
    torch.set_num_threads(1)
    with quiet():
        report = coopinit_plugin.pilot(
            task.make,
            [[x] for x in task.data(repetition).split(64)],
            task.step,
            iterations=task.iterations,
            seeds=range(SEEDS * repetition, SEEDS * (repetition + 1)),
            handover=OBJECTIVES[task.objective].word,
            output_dir=folder,
            progress=False,
        )
    ends = {
        name: " ".join(f"{run.status}:{run.end('likeness'):.2f}" for run in report.of(arm))
        for name, arm in zip(FIELDS[4:7], ARMS, strict=True)
    }
    told = {"task": name, "repetition": repetition, "expected": task.expected, "verdict": report.kind}
    return {**told, **ends, "seconds": round(report.seconds), "words": str(report.decision).replace("\n", " ")}


def main() -> None:
    known = argparse.ArgumentParser(prog="python -m examples.study.pilots", description=__doc__.split("\n\n")[0])
    known.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    known.add_argument("--repeat", type=int, default=10)
    known.add_argument("--table", type=Path, required=True)
    options = known.parse_args()
    done = list(csv.DictReader(options.table.open(encoding="utf-8"))) if options.table.exists() else []
    there = {(row["task"], int(row["repetition"])) for row in done}
    with options.table.open("a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            rows.writeheader()
        for repetition, name in itertools.product(range(options.repeat), options.task):
            if (name, repetition) not in there:
                rows.writerow(piloted(name, repetition))
                file.flush()
    print(table(list(csv.DictReader(options.table.open(encoding="utf-8")))))


def table(rows: list[dict[str, str]]) -> str:
    """Of each task: how often the verdict was the expected one, and what else was said."""
    lines = []
    for name in dict.fromkeys(row["task"] for row in rows):
        said = Counter(row["verdict"] for row in rows if row["task"] == name)
        right = TASKS[name].expected
        other = "".join(f", {kind!r} in {count}" for kind, count in said.items() if kind != right)
        lines.append(f"{name}: {right!r} in {said[right]} of {said.total()}{other}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
