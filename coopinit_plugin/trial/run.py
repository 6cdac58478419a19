"""One run of a pilot: the user's own networks and step, from one of the starts, until the budget is used up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import tensors_of, unwrap
from coopinit_plugin.host.randomness import seed_all
from coopinit_plugin.nests import first_line
from coopinit_plugin.trial.gauge import Clock, Gauge, Plan
from coopinit_plugin.trial.making import made
from coopinit_plugin.trial.readings import COLLAPSED, END, LOST, Reading
from coopinit_plugin.warmup import warm_start

logger = logging.getLogger(__name__)

ARMS = ("random", "hand-over", "warm start")
CHARGE = 2  # adversarial iterations that a cooperative one counts as, if the budget is in iterations; measured: 1 to 2
HANDOVER = 8  # those that a hand-over counts as
LONGEST = 0.5  # of a run's budget may go into the warm-up


@dataclass(frozen=True)
class Run:
    """What came out of one run.

    Attributes:
        arm: "random", "hand-over" or "warm start".
        seed: Of the networks, the data's order and the warm-up.
        status: "usable"; "collapsed", "far" (never near the data), "diverged", "refused" (by the warm-up) or "failed".
        error: What was raised, in one line.
        readings: Over the cost.
        iterations: Of the adversarial loop.
        seconds: On the run's clock: warm-up and adversarial iterations.
        measuring: Seconds that the readings took beside them.
        budget: Seconds or iterations that the run could use.
        warm_iterations: Of the warm-up.
        warm_seconds: That it took.
        warm_share: Of the budget that it took.
        warm_memory: Peak of the accelerator's memory in the warm-up, bytes; ``None`` on a CPU.
        lengths: Distance of G's samples to the data over the warm-up: (iterations, seconds, σ).
        fid: Fréchet Inception distance at the end, on as many samples as are measured; ``None`` on a CPU, without
            torch-fidelity, or of data that are no images.
    """

    arm: str
    seed: int
    status: str
    error: str
    readings: tuple[Reading, ...]
    iterations: int
    seconds: float
    measuring: float
    budget: float
    warm_iterations: int = 0
    warm_seconds: float = 0.0
    warm_share: float = 0.0
    warm_memory: int | None = None
    lengths: tuple[tuple[int, float, float], ...] = ()
    fid: float | None = None
    samples: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def usable(self) -> bool:
        """Whether the run ended with something to go on from."""
        return self.status == "usable"

    @property
    def decided(self) -> bool:
        """Whether the run says something about its start: an error of the user's code does not."""
        return self.status not in ("failed", "refused")

    def end(self, name: str) -> float:
        """The mean of a measure over the last quarter of the budget."""
        return at_end(self.readings, name)

    @property
    def as_dict(self) -> dict[str, Any]:
        """Plain values and one tensor, for a file."""
        return {**asdict(replace(self, samples=None)), "samples": self.samples}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Run:
        """The run that a file holds."""
        return cls(**{**row, "readings": tuple(Reading(**reading) for reading in row["readings"])})


def at_end(readings: Sequence[Reading], name: str) -> float:
    """The mean of a measure over the readings from three quarters of the budget on, or else the last one."""
    late = [reading for reading in readings if reading.cost >= END] or readings[-1:]
    return sum(getattr(reading, name) for reading in late) / len(late) if late else math.nan


class Diverged(Exception):
    """A loss is not finite any more."""


def run_once(plan: Plan, arm: str, seed: int, budget: float, tick: Callable[[float], None]) -> Run:
    """Run from one start until the budget, in seconds or iterations, is used up; what goes wrong is part of the run.

    Args:
        plan: What all runs have in common.
        arm: The start.
        seed: Of everything.
        budget: Seconds or iterations.
        tick: Told the share of the budget on the way.
    """
    clock = Clock(budget, plan.by_clock)
    readings: list[Reading] = []
    told: dict[str, Any] = {"status": "", "error": "", "iterations": 0, "measuring": 0.0}
    stage = "make"
    try:
        G, D, *rest = made(plan.make, seed)
        gauge = Gauge(plan, G, D, clock, readings)
        if arm != ARMS[0]:
            stage = "warm_start"
            with clock.running():
                told |= _warmed(plan, arm, seed, budget, G, D, rest)
            clock.charged += HANDOVER + CHARGE * told["warm_iterations"]
            told["warm_share"] = clock.share
        seed_all(seed)
        stage = "train_step"
        gauge.read(0)
        for iterations in trained(plan, G, D, rest, clock):
            told["iterations"] = iterations
            gauge.read_if_due(iterations)
            tick(clock.share)
        gauge.read(told["iterations"])
        told |= {"fid": gauge.fid, "samples": gauge.samples, "status": judged(readings)}
        told["measuring"] = gauge.seconds
    except Diverged as raised:
        told |= {"status": "diverged", "error": str(raised)}
    except Exception as raised:
        refused = stage == "warm_start" and isinstance(raised, CoopInitError)
        words = str(raised) if isinstance(raised, CoopInitError) else f"{stage} failed: {first_line(raised)}"
        told |= {"status": "refused" if refused else "failed", "error": words}
    return Run(arm, seed, readings=tuple(readings), seconds=clock.seconds, budget=budget, **told)


def judged(readings: Sequence[Reading]) -> str:
    """How a run that has come to its end has ended."""
    if not math.isfinite(readings[-1].distance):
        return "diverged"
    if at_end(readings, "energy") <= LOST:
        return "usable"
    return "collapsed" if at_end(readings, "diversity") < COLLAPSED else "far"


def trained(plan: Plan, G: nn.Module, D: nn.Module, rest: list[Any], clock: Clock) -> Iterator[int]:
    """The user's adversarial loop; stops after each iteration to give its number.

    Raises:
        Diverged: if a loss is not finite.
        CoopInitError: if the step changes G's architecture.
    """
    shape, iterations, rest = _shape(G), 0, _accepted(plan.step, rest)
    while clock.share < 1:
        for batch in plan.data:
            with clock.running():
                losses = plan.step(G, D, batch, *rest)
            iterations, clock.charged = iterations + 1, clock.charged + 1
            _check_finite(losses, iterations)
            if iterations in (1, 2) and _shape(G) != shape:
                raise CoopInitError(
                    f"train_step changed G's parameters in iteration {iterations}: names or shapes differ from what "
                    "make returned. The pilot compares one architecture; make the final one in make(seed)."
                )
            yield iterations
            if clock.share >= 1:
                return


def _accepted(step: Callable[..., Any], rest: list[Any]) -> list[Any]:
    """What `make` returned beside G and D, if the step takes it."""
    try:
        signature(step).bind(None, None, None, *rest)
    except TypeError:
        return []
    except ValueError:  # a builtin tells nothing
        pass
    return rest


def _shape(G: nn.Module) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in tensors_of(G).items()}


def _check_finite(losses: Any, iteration: int) -> None:
    for leaf in tree_leaves(losses):
        if isinstance(leaf, (Tensor, float)) and not math.isfinite(float(torch.as_tensor(leaf).detach().sum())):
            raise Diverged(f"train_step returned {float(torch.as_tensor(leaf).sum())} in iteration {iteration}")


def _warmed(
    plan: Plan, arm: str, seed: int, budget: float, G: nn.Module, D: nn.Module, rest: list[Any]
) -> dict[str, Any]:
    """Warm up in place; what there is to tell of it."""
    config = replace(plan.config, seed=seed)
    if arm == ARMS[1]:
        config = replace(config, iterations=0)
    elif plan.by_clock:
        config = replace(config, max_seconds=min(config.max_seconds or math.inf, LONGEST * budget))
    else:
        most = max(1, int(LONGEST * budget / CHARGE))
        iterations = config.iterations if config.iterations == "auto" else min(config.iterations, most)
        config = replace(config, iterations=iterations, max_iterations=min(config.max_iterations, most))
    shape = _shape(unwrap(G))
    ema = [net for net in rest if isinstance(net, nn.Module) and _shape(unwrap(net)) == shape]
    cuda, began = torch.cuda.is_available(), time.perf_counter()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    result = warm_start(G, D, plan.data, config=config, adapter=plan.given, ema=ema, progress=False)
    lengths = [(row.iteration, row.seconds, row.distance) for row in result.history if row.distance is not None]
    return {
        "warm_iterations": len(result.history),
        "warm_seconds": time.perf_counter() - began,
        "warm_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "lengths": tuple(lengths),
    }
