"""One run in this process: the start, the adversarial stage until the budget is used up, its row."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import coopinit_plugin
from coopinit_plugin import WarmStartConfig
from examples.study.arms import ARMS, Arm, pretrain_as_vae, pretrain_by_sliced_distance, warm
from examples.study.cost import DEVICE, Cost, seconds_apart
from examples.study.objectives import OBJECTIVES, Objective
from examples.study.plans import Plan, Setting
from examples.study.tasks import TASKS, Task

BATCH = 64
COLLAPSED = 0.05  # of the modes, or of the real samples


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    Attributes:
        iterations: The budget: the time of so many of the setting's own adversarial iterations.
        points: Of the curve of a random start, evenly over the budget.
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
    "long": Scale(iterations=3000, points=15),
    "quick": Scale(iterations=12, points=2, samples=1000, width=0.25, most_warm_up=4),
}


class Diverged(Exception):
    """A loss is not finite any more."""


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
        self.loader = Batches(self.task.data.to(DEVICE))
        torch.manual_seed(seed)
        self.G, self.D = (net.to(DEVICE) for net in self.task.pair(setting.norm, *self.widths, objective.sigmoid))
        self.lr = setting.lr
        self._use_everything_once(seed)

    def _use_everything_once(self, seed: int) -> None:
        """What is imported or compiled at its first use is not on any clock."""
        G, D = copy.deepcopy((self.G, self.D))
        config = WarmStartConfig(iterations=1, handover=self.objective.word)
        with quiet(), suppress(Diverged, coopinit_plugin.CoopInitError):  # a run that fails shall fail on its clock
            coopinit_plugin.warm_start(G, D, self.loader, config=config, progress=False)
            stage = self.adversarial(G, D, self.objective)
            for _ in range(3):
                next(stage)
        torch.manual_seed(seed)

    def cost(self, usual: Objective, seed: int) -> Cost:
        """A clock for this run, in the time of iterations under the setting's usual loss."""
        objectives = dict.fromkeys((self.objective, usual))
        stages = [self.adversarial(*copy.deepcopy((self.G, self.D)), objective) for objective in objectives]
        seconds = seconds_apart(stages, rounds=20, until=Diverged)
        torch.manual_seed(seed)
        return Cost(seconds[0], price=seconds[0] / seconds[-1])

    def adversarial(self, G: nn.Module, D: nn.Module, objective: Objective) -> Iterator[None]:
        """The adversarial stage as everybody writes it; stops after each iteration."""
        adam_g = torch.optim.Adam(G.parameters(), lr=self.lr, betas=(0.5, 0.999))
        adam_d = torch.optim.Adam(D.parameters(), lr=self.lr, betas=(0.5, 0.999))
        for real in self.loader.forever():
            fake = G(torch.randn(len(real), *self.task.latent, device=DEVICE))
            loss_d, loss_g = objective.step(D, real, fake, adam_g, adam_d)
            if not math.isfinite(loss_d.item() + loss_g.item()):
                raise Diverged
            yield

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Always from the same latents, G in evaluation mode; torch's own random state stays as it is."""
        z = torch.randn(self.scale.samples, *self.task.latent, generator=torch.Generator().manual_seed(0))
        self.G.eval()
        samples = torch.cat([self.G(part.to(DEVICE)).cpu() for part in z.split(1000)])
        self.G.train()
        if not samples.isfinite().all():
            raise Diverged
        return samples


def once(plan: Plan, start_cost: float, scale: Scale) -> dict[str, object]:
    """The row of this run.

    Args:
        plan: Which run.
        start_cost: What a pretraining of G may cost.
        scale: How large.
    """
    arm, usual = ARMS[plan.arm], OBJECTIVES[plan.setting.objective]
    objective = OBJECTIVES[arm.objective] if arm.objective else usual
    run = Run(plan.setting, objective, plan.seed, scale)
    row: dict[str, object] = dict(zip(("setting", "arm", "seed"), plan.key, strict=True))
    row |= {"status": "ok", "library": library()}
    points: list[tuple[int, float]] = []  # adversarial iterations, score
    found = dict[str, float]()
    every = max(1, scale.iterations // scale.points)
    cost = run.cost(usual, plan.seed)

    def measure() -> Tensor:
        with cost.paused():
            samples = run.samples()
            found.update(run.task.measure(samples))
            points.append((cost.iterations, next(iter(found.values()))))
            return samples

    try:
        row |= _start(arm, run, cost, start_cost, plan.seed)
        cost.begin()
        measure()
        if arm.start != "random":
            row["warm_score"] = f"{points[0][1]:g}"
        stage = run.adversarial(run.G, run.D, objective)
        while cost.total < scale.iterations:
            next(stage)
            cost.iterations += 1
            if cost.iterations % every == 0 and cost.total < scale.iterations:
                measure()
        samples = measure()
        with cost.paused():
            found |= run.task.finish(samples)
    except (Diverged, coopinit_plugin.CoopInitError) as error:
        row["status"] = "diverged" if isinstance(error, Diverged) else " ".join(f"refused: {error}".split())[:200]
        found = {"modes": 0.0} if run.task.modes else {}
        points.append((cost.iterations, 0.0 if run.task.modes else math.nan))
    curve = [(cost.at(iterations), score) for iterations, score in points]
    row |= {"seconds": f"{cost.seconds:.3f}", "iterations": cost.iterations}
    if arm.start != "random":
        row["warm_cost"] = f"{cost.at(0):.1f}"
    row |= {name: f"{value:.5g}" for name, value in found.items()}
    if run.task.modes:
        row |= of_the_curve(curve, scale.iterations, run.task.modes)
    else:
        row["collapsed"] = int(found.get("coverage", 0.0) < COLLAPSED)
    row["curve"] = " ".join(f"{spent:.0f}:{score:.4g}" for spent, score in curve)
    return row


def _start(arm: Arm, run: Run, cost: Cost, most: float, seed: int) -> dict[str, object]:
    """Bring G and D where the arm starts; what there is to tell of it."""
    if arm.start == "warm":
        changes = dict(arm.changes)
        if run.scale.most_warm_up is not None:
            changes |= {"max_iterations": run.scale.most_warm_up}
            if "iterations" in changes:
                changes["iterations"] = min(changes["iterations"], run.scale.most_warm_up)
        config = WarmStartConfig(**{"handover": run.objective.word, "seed": seed, **changes})
        with quiet():
            summary = warm(arm, run.G, run.D, run.loader, config).summary
        return {
            "warm_iterations": summary["iterations"],
            "warm_stop": summary["stopped_by"],
            "warm_handover": f"{summary['handover']} {summary['handover_scale']:.3g} {summary['handover_shift']:.3g}",
        }
    go_on = lambda: cost.total < most  # noqa: E731
    if arm.start == "vae":
        encoder = run.task.pair("batch", run.scale.width, run.scale.width, False)[1].to(DEVICE)
        pretrain_as_vae(run.G, encoder, run.task.latent, run.loader.forever(), go_on)
    elif arm.start == "sliced":
        pretrain_by_sliced_distance(run.G, run.task.latent, run.loader.forever(), go_on)
    return {}


def of_the_curve(curve: list[tuple[float, float]], budget: float, modes: int) -> dict[str, object]:
    """Costs to 50 % and 90 % of the modes, the mean share of modes over the budget, whether it ends collapsed.

    Between two measurements the curve is a straight line; before the first one, at the end of the start, it is zero.
    """
    found: dict[str, object] = {"collapsed": int(curve[-1][1] < COLLAPSED * modes)}
    for name, share in (("cost_to_half", 0.5), ("cost_to_most", 0.9)):
        wanted = share * modes
        if curve[0][1] >= wanted:
            found[name] = f"{curve[0][0]:.1f}"
            continue
        for (t0, y0), (t1, y1) in itertools.pairwise(curve):
            if y1 >= wanted:
                found[name] = f"{t0 + (t1 - t0) * (wanted - y0) / (y1 - y0):.1f}"
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
