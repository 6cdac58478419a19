"""One run in this process: the start, the adversarial stage until the budget is used up, its row."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import logging
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import coopinit_plugin
from coopinit_plugin import WarmStartConfig
from examples.study.arms import ARMS, Arm, pretrain_as_vae, pretrain_by_sliced_distance, warm
from examples.study.objectives import OBJECTIVES, Objective
from examples.study.plans import Plan, Setting
from examples.study.tasks import TASKS, Task

BATCH = 64
COLLAPSED = 0.05  # of the modes, or of the real samples


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    Attributes:
        iterations: The budget of a setting is the time of so many of its own adversarial iterations.
        points: Of the curve, evenly over the budget.
        samples: Of one measurement.
        width: Of the networks, as a share of the usual ones.
        most_warm_up: Iterations that no warm-up exceeds.
    """

    iterations: int = 1200
    points: int = 12
    samples: int = 10_000
    width: float = 1.0
    most_warm_up: int | None = None


SCALES = {
    "full": Scale(),
    "quick": Scale(iterations=12, points=2, samples=1000, width=0.25, most_warm_up=4),
}


class Diverged(Exception):
    """A loss is not finite any more."""


class Clock:
    """CPU seconds of this process; stands still while paused."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since: float | None = time.process_time()

    @property
    def seconds(self) -> float:
        return self._spent + (0.0 if self._since is None else time.process_time() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._spent, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.process_time()


class Batches:
    """The data in batches, shuffled anew in each pass."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Tensor]:
        for chosen in torch.randperm(len(self.data)).split(BATCH):
            if len(chosen) == BATCH:
                yield self.data[chosen]

    def forever(self) -> Iterator[Tensor]:
        while True:
            yield from self


class Run:
    """A pair of networks, its loss and its data.

    Args:
        setting: What is trained.
        objective: Its loss, or the arm's.
        seed: Of everything.
        scale: How large.
    """

    def __init__(self, setting: Setting, objective: Objective, seed: int, scale: Scale) -> None:
        torch.set_num_threads(1)
        self.task: Task = TASKS[setting.task]()
        self.objective, self.scale = objective, scale
        self.widths = (scale.width, setting.d_width * scale.width)
        self.loader = Batches(self.task.data)
        torch.manual_seed(seed)
        self.G, self.D = self.task.pair(setting.norm, *self.widths, objective.sigmoid)
        self.lr = setting.lr
        self._use_everything_once(seed)

    def _use_everything_once(self, seed: int) -> None:
        """What is imported or compiled at its first use is not on any clock."""
        G, D = copy.deepcopy((self.G, self.D))
        config = WarmStartConfig(iterations=1, handover=self.objective.word)
        with quiet(), suppress(Diverged, coopinit_plugin.CoopInitError):  # a run that fails shall fail on its clock
            coopinit_plugin.warm_start(G, D, self.loader, config=config, progress=False)
            stage = self.adversarial(G, D)
            for _ in range(3):
                next(stage)
        torch.manual_seed(seed)

    def adversarial(self, G: nn.Module, D: nn.Module) -> Iterator[None]:
        """The adversarial stage as everybody writes it; stops after each iteration."""
        adam_g = torch.optim.Adam(G.parameters(), lr=self.lr, betas=(0.5, 0.999))
        adam_d = torch.optim.Adam(D.parameters(), lr=self.lr, betas=(0.5, 0.999))
        for real in self.loader.forever():
            fake = G(torch.randn(len(real), *self.task.latent))

            adam_d.zero_grad()
            loss_d = self.objective.d_loss(D, real, fake)
            loss_d.backward()
            adam_d.step()

            adam_g.zero_grad()
            loss_g = self.objective.g_loss(D, real, fake)
            loss_g.backward()
            adam_g.step()

            if not math.isfinite(loss_d.item() + loss_g.item()):
                raise Diverged
            yield

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Always from the same latents, G in evaluation mode; torch's own random state stays as it is."""
        z = torch.randn(self.scale.samples, *self.task.latent, generator=torch.Generator().manual_seed(0))
        self.G.eval()
        samples = torch.cat([self.G(part) for part in z.split(1000)])
        self.G.train()
        if not samples.isfinite().all():
            raise Diverged
        return samples


def seconds_of_a_budget(setting: Setting, scale: Scale) -> float:
    """CPU seconds of so many adversarial iterations: the median of ten stretches, times their number."""
    run = Run(setting, OBJECTIVES[setting.objective], 0, scale)
    stage = run.adversarial(run.G, run.D)
    length = min(20, scale.iterations)
    stretches = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(length):
            next(stage)
        stretches.append((time.process_time() - began) / length)
    return statistics.median(stretches) * scale.iterations


def once(plan: Plan, budget: float, start_seconds: float, scale: Scale) -> dict[str, object]:
    """The row of this run.

    Args:
        plan: Which run.
        budget: CPU seconds for everything but measuring.
        start_seconds: What a pretraining of G may take of them.
        scale: How large.
    """
    arm = ARMS[plan.arm]
    run = Run(plan.setting, OBJECTIVES[arm.objective or plan.setting.objective], plan.seed, scale)
    row: dict[str, object] = dict(zip(("setting", "arm", "seed"), plan.key, strict=True))
    row |= {"status": "ok", "budget": f"{budget:.3f}", "library": library()}
    curve: list[tuple[float, float]] = []
    iterations, found = 0, dict[str, float]()
    clock = Clock()

    def measure() -> Tensor:
        samples = run.samples()
        found.update(run.task.measure(samples))
        curve.append((clock.seconds, next(iter(found.values()))))
        return samples

    try:
        row |= _start(arm, run, clock, start_seconds, plan.seed)
        with clock.paused():
            measure()
        if arm.start != "random":
            row |= {"warm_seconds": f"{curve[0][0]:.3f}", "warm_score": f"{curve[0][1]:g}"}
        stage = run.adversarial(run.G, run.D)
        step = budget / scale.points
        due = (clock.seconds // step + 1) * step
        while clock.seconds < budget:
            next(stage)
            iterations += 1
            if due <= clock.seconds < budget:
                due += step
                with clock.paused():
                    measure()
        with clock.paused():
            found |= run.task.finish(measure())
    except (Diverged, coopinit_plugin.CoopInitError) as error:
        row["status"] = "diverged" if isinstance(error, Diverged) else " ".join(f"refused: {error}".split())[:200]
        found = {"modes": 0.0} if run.task.modes else {}
        curve.append((clock.seconds, 0.0 if run.task.modes else math.nan))
        row.setdefault("warm_seconds", f"{clock.seconds:.3f}" if arm.start != "random" and not iterations else "")
    row |= {"seconds": f"{clock.seconds:.3f}", "iterations": iterations}
    row |= {name: f"{value:.5g}" for name, value in found.items()}
    if run.task.modes:
        row |= of_the_curve(curve, budget, run.task.modes)
    else:
        row["collapsed"] = int(found.get("coverage", 0.0) < COLLAPSED)
    row["curve"] = " ".join(f"{seconds:.2f}:{score:.4g}" for seconds, score in curve)
    return row


def _start(arm: Arm, run: Run, clock: Clock, seconds: float, seed: int) -> dict[str, object]:
    """Bring G and D where the arm starts; what there is to tell of it."""
    if arm.start == "warm":
        changes = dict(arm.changes)
        if run.scale.most_warm_up is not None:
            most = run.scale.most_warm_up
            changes |= {"max_iterations": most}
            if "iterations" in changes:
                changes["iterations"] = min(changes["iterations"], most)
        config = WarmStartConfig(**{"handover": run.objective.word, "seed": seed, **changes})
        with quiet():
            summary = warm(arm, run.G, run.D, run.loader, config).summary
        return {
            "warm_iterations": summary["iterations"],
            "warm_stop": summary["stopped_by"],
            "warm_handover": f"{summary['handover']} {summary['handover_scale']:.3g} {summary['handover_shift']:.3g}",
        }
    go_on = lambda: clock.seconds < seconds  # noqa: E731
    if arm.start == "vae":
        encoder = run.task.pair("batch", run.scale.width, run.scale.width, False)[1]
        pretrain_as_vae(run.G, encoder, run.task.latent, run.loader.forever(), go_on)
    elif arm.start == "sliced":
        pretrain_by_sliced_distance(run.G, run.task.latent, run.loader.forever(), go_on)
    return {}


def of_the_curve(curve: list[tuple[float, float]], budget: float, modes: int) -> dict[str, object]:
    """Times to 50 % and 90 % of the modes, the mean share of modes over the budget, whether it ends collapsed.

    Between two measurements the curve is a straight line; before the first one, at the end of the start, it is zero.
    """
    found: dict[str, object] = {"collapsed": int(curve[-1][1] < COLLAPSED * modes)}
    for name, share in (("seconds_to_half", 0.5), ("seconds_to_most", 0.9)):
        wanted = share * modes
        if curve[0][1] >= wanted:
            found[name] = f"{curve[0][0]:.3f}"
            continue
        for (t0, y0), (t1, y1) in itertools.pairwise(curve):
            if y1 >= wanted:
                found[name] = f"{t0 + (t1 - t0) * (wanted - y0) / (y1 - y0):.3f}"
                break
    area = sum((t1 - t0) * (y0 + y1) / 2 for (t0, y0), (t1, y1) in itertools.pairwise(curve))
    area += max(0.0, budget - curve[-1][0]) * curve[-1][1]
    return found | {"area": f"{area / modes / max(budget, curve[-1][0]):.4f}"}


@functools.cache
def library() -> str:
    """Which version of the library made a row: the first digits of a hash over its sources."""
    files = sorted(Path(coopinit_plugin.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


@contextmanager
def quiet() -> Iterator[None]:
    """The library's warnings belong into the row, not among the lines of the runs."""
    logger = logging.getLogger("coopinit_plugin")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
