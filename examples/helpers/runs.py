"""Training runs, watched: warm against random start at the same cost, over seeds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

import coopinit_plugin
from coopinit_plugin import SlicedWasserstein, WarmStart, WarmStartConfig

BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
SMOKE = 5  # iterations, cooperative and adversarial ones

KeepGoing = Callable[[int], bool]  # told the number of adversarial iterations done, 0 at first


class Judged(Protocol):
    """What a run needs to know of its task."""

    measure: Callable[[Tensor], float]
    tell: Callable[[float], str]
    score: str


def distance_to(unseen: Tensor) -> Callable[[Tensor], float]:
    """The sliced Wasserstein distance of samples to others, in σ of the latter; of equally many of both."""
    distance = SlicedWasserstein(unseen, [float(unseen.std())])
    real = distance.project(unseen)

    def measure(samples: Tensor) -> float:
        n = min(len(samples), len(real))
        return float(distance.between(distance.project(samples[:n]), real[:n]))

    return measure


@dataclass
class Run:
    """A GAN from a random or from a warm start; its clock stands still while the generator is measured.

    Its seconds are CPU seconds of this process. Torch is held to one thread, so that on an idle machine they are
    wall-clock seconds.

    Attributes:
        task: What is learnt: the measure of samples, and how a score reads.
        seed: Of the batches and the latents.
        warm: Whether the warm-up comes first.
        loop: The training loop, with the warm-up where it has one; goes on for as long as it is told to.
        sample: Generates the samples that are measured, always from the same latents.
        iterations: Adversarial iterations done.
        seconds: Seconds of training, the warm-up included.
        curve: (Seconds, score), first right before the adversarial iterations, last at the end.
        before: The samples then.
        after: The samples at the end, from the same latents.
        result: What the warm-up gave.
    """

    task: Judged
    seed: int
    warm: bool
    loop: Callable[[KeepGoing], WarmStart | None]
    sample: Callable[[], Tensor]

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.iterations = 0
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []
        self.before: Tensor
        self.after: Tensor
        self.result: WarmStart | None = None

    @property
    def name(self) -> str:
        return "Warm start" if self.warm else "Random start"

    @property
    def cost(self) -> int:
        """Adversarial iterations in whose time the run, its warm-up included, could have been done, at its own pace."""
        return round(self.iterations * self.seconds / (self.seconds - self.curve[0][0]))

    def train(self, iterations: int, every: int = 50) -> Run:
        """Train for so many adversarial iterations; measure after `every` so many."""
        torch.manual_seed(self.seed)  # both starts from the same weights, whatever ran before
        torch.optim.Adam([torch.zeros(1)])  # the first one of a process imports for seconds: not on the clock
        bar: tqdm | None = None
        resumed = time.process_time()

        def keep_going(done: int) -> bool:
            nonlocal bar, resumed
            self.iterations = done
            self.seconds += time.process_time() - resumed
            bar = bar or tqdm(desc=self.name, total=iterations, bar_format=BAR)
            if done % every == 0 or done == iterations:
                self._measure()
                bar.set_postfix_str(self.task.tell(self.curve[-1][1]), refresh=False)
            bar.update(done - bar.n)
            resumed = time.process_time()
            return done < iterations

        self.result = self.loop(keep_going)
        bar.close()
        return self

    def _measure(self) -> None:
        self.after = self.sample()
        if not self.curve:
            self.before = self.after
        self.curve.append((self.seconds, float(self.task.measure(self.after))))


def compared(start: Callable[[int, bool], Run], options: argparse.Namespace, every: int = 50) -> list[Run]:
    """For each seed the random and the warm start; the random one gets as many iterations more as the warm-up cost.

    Iterations, not seconds: on a busy machine the seconds of two runs cannot be compared.
    """
    iterations, every = (SMOKE, 1000) if options.smoke else (options.iterations, every)
    runs = []
    for seed in options.seeds:
        random = start(seed, False)
        runs.append(random)
        if options.no_warm_start:
            random.train(iterations, every)
            continue
        with short_warm_up() if options.smoke else nullcontext():
            runs.append(start(seed, True).train(iterations, every))
        random.train(iterations if options.smoke else runs[-1].cost, every)
    return runs


def short_warm_up() -> AbstractContextManager:
    """Inside, a warm-up is of as few iterations as ``--smoke`` trains for, whatever its settings say."""
    whole = coopinit_plugin.warm_start

    def short(*given: Any, config: WarmStartConfig | None = None, **named: Any) -> WarmStart:
        return whole(*given, config=replace(config or WarmStartConfig(), iterations=SMOKE), **named)

    return patch.object(coopinit_plugin, "warm_start", short)


def report(runs: list[Run]) -> None:
    """Print what came out, a line for each run, and the medians where there are several seeds."""
    row = "{:>4}  {:<12}  {:>14}  {:>14}  {:>7}  {:>21}  {:>21}".format
    print()
    print(row("seed", "", "warm-up", "GAN iterations", "seconds", "before the first", "after the last"))
    for run in runs:
        (begun, first), (ended, last) = run.curve[0], run.curve[-1]
        warmed = f"{run.result.summary['iterations']} its, {begun:.1f} s" if run.result else "–"
        told = run.task.tell(first), run.task.tell(last)
        print(row(run.seed, run.name, warmed, run.iterations, f"{ended:.1f}", *told))
    for name in dict.fromkeys(run.name for run in runs if len({run.seed for run in runs}) > 1):
        middle = [median(run.curve[at][1] for run in runs if run.name == name) for at in (0, -1)]
        print(row("all", name, "", "median", "", *map(runs[0].task.tell, middle)))
    print("\nSeconds of one CPU core, the warm-up included; measuring is not counted.")


def parser(name: str, about: str, iterations: int) -> argparse.ArgumentParser:
    """The options that every comparison has."""
    made = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    made.add_argument("--no-warm-start", action="store_true", help="the random start alone")
    made.add_argument(
        "--iterations", type=_positive, default=iterations, help="after the warm-up (default: %(default)s)"
    )
    made.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="default: 0")
    made.add_argument("--out", type=Path, default=Path("runs") / name, metavar="DIR", help="default: %(default)s")
    made.add_argument(
        "--smoke", action="store_true", help="small networks, 5 iterations each: only to see that it runs"
    )
    return made


@contextmanager
def refusing_data(known: argparse.ArgumentParser) -> Iterator[None]:
    """Data that do not fit end the program, with the parser's usage and what is wrong with ``--data``."""
    try:
        yield
    except ValueError as error:
        known.error(f"--data {error}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
