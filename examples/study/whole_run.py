"""One whole run on real images, whatever the start: one row a reading, costs in adversarial iterations of its own."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  a warm-up imports it, and that is no part of its cost
import numpy as np
import torch
from torch import Tensor, nn

from coopinit_plugin import WarmStartConfig, warm_start
from examples.study.cost import clock
from examples.study.objectives import OBJECTIVES
from examples.study.pretrained import PRETRAININGS

ARMS = ("warm", "hand-over", "random", *PRETRAININGS)
KEPT = 24  # samples of a reading that are kept for a picture
UNIT = 30  # iterations of other networks by which the cost of one is known before the run begins


@dataclass(frozen=True)
class Task:
    """What is generated, by which networks, and how it is judged.

    Attributes:
        make: Gives (G, D).
        draw: Gives n real samples.
        batches: In an epoch.
        latent: Dimensions of z.
        batch: Samples in a batch.
        rates: Adam's learning rates of G and D.
        betas: Of both.
        measure: What is told of generated samples.
        readings: After so many adversarial iterations.
        samples: In a reading, and in the last one.
        beside: What is told of D, beside.
    """

    make: Callable[[], tuple[nn.Module, nn.Module]]
    draw: Callable[[int], Tensor]
    batches: int
    latent: int
    batch: int
    measure: Callable[[Tensor], dict[str, Any]]
    readings: tuple[int, ...]
    samples: tuple[int, int]
    rates: tuple[float, float] = (2e-4, 2e-4)
    betas: tuple[float, float] = (0.5, 0.999)
    beside: Callable[[nn.Module], dict[str, Any]] = lambda D: {}

    def __iter__(self) -> Iterator[Tensor]:
        """An epoch, as a loader gives it."""
        for _ in range(self.batches):
            yield self.draw(self.batch)

    def latents(self, n: int) -> Tensor:
        """(n, latent)."""
        return torch.randn(n, self.latent)


class Adversarial:
    """The adversarial stage, and what its iterations cost in seconds."""

    def __init__(self, task: Task, G: nn.Module, D: nn.Module, loss: str) -> None:
        self.task, self.G, self.D, self.objective = task, G.train(), D.train(), OBJECTIVES[loss]
        self.adams = [
            torch.optim.Adam(net.parameters(), rate, task.betas) for net, rate in zip((G, D), task.rates, strict=True)
        ]
        self.seconds, self.done = 0.0, 0

    def run(self, iterations: int) -> None:
        """Go on."""
        began = clock()
        for _ in range(iterations):
            real, fake = self.task.draw(self.task.batch), self.G(self.task.latents(self.task.batch))
            self.objective.step(self.D, real, fake, *self.adams)
        self.seconds += clock() - began
        self.done += iterations


class Run:
    """From the start to the end of the budget.

    Args:
        task: What is generated.
        asked: The arguments of :meth:`arguments`.
        names: The first columns of each row.
    """

    def __init__(self, task: Task, asked: argparse.Namespace, names: dict[str, Any]) -> None:
        self.task, self.asked = task, asked
        self.names = {**names, "loss": asked.loss, "arm": asked.arm}

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """What every run on real images is asked for."""
        parser.add_argument("--loss", choices=OBJECTIVES, default="non_saturating")
        parser.add_argument("--arm", choices=ARMS, default="warm")
        parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one run for each")
        parser.add_argument("--total", type=int, default=3000, help="cost in adversarial iterations (default: 3000)")
        parser.add_argument("--pretraining", type=int, default=400, help="cost of vae or glo (default: 400)")
        parser.add_argument("--keep", type=Path, help="folder for some samples of each reading, and real ones")

    def go(self) -> None:
        """One run for each seed."""
        for seed in self.asked.seed:
            self.names["seed"] = seed
            self._one(seed)

    def _one(self, seed: int) -> None:
        """Start, train, read."""
        task, asked = self.task, self.asked
        torch.manual_seed(1)
        unit = Adversarial(task, *task.make(), asked.loss)
        unit.run(UNIT)
        torch.manual_seed(seed)
        G, D = task.make()
        began, price = clock(), unit.seconds / unit.done
        if asked.arm in PRETRAININGS:
            until = began + asked.pretraining * price
            PRETRAININGS[asked.arm](G.train(), task.latent, task.draw, task.batch, lambda: clock() < until)
        elif asked.arm != "random":
            config = WarmStartConfig(iterations="auto" if asked.arm == "warm" else 0, seed=seed)
            print(warm_start(G, D, task, handover=OBJECTIVES[asked.loss].word, config=config).summary)
        warm = (clock() - began) / price
        stage, left = Adversarial(task, G, D, asked.loss), max(int(asked.total - warm), 0)
        for reading in [*(reading for reading in task.readings if reading < left - 50), left]:
            stage.run(reading - stage.done)
            self._row(stage, warm, task.samples[reading == left])

    def _row(self, stage: Adversarial, warm: float, samples: int) -> None:
        stage.G.eval()
        with torch.no_grad():
            drawn = torch.cat([stage.G(self.task.latents(512)) for _ in range(samples // 512)])
        stage.G.train()
        if self.asked.keep is not None:
            self.asked.keep.mkdir(parents=True, exist_ok=True)
            name = "-".join(str(value) for value in self.names.values())
            for part, samples_of in (("real", self.task.draw(KEPT)), (f"{name}-{stage.done:05}", drawn[:KEPT])):
                pixels = ((samples_of + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
                np.save(self.asked.keep / f"{part}.npy", pixels.numpy())
        told = {**self.names, "warm_cost": round(warm), "cost": round(warm + stage.done)}
        told |= {**self.task.measure(drawn), **self.task.beside(stage.D)}
        print(*(f"{key} {value}" for key, value in told.items()), sep=" · ", flush=True)
        self.asked.table.parent.mkdir(parents=True, exist_ok=True)
        new = not self.asked.table.exists()
        with self.asked.table.open("a", newline="") as file:
            table = csv.DictWriter(file, list(told))
            if new:
                table.writeheader()
            table.writerow(told)
