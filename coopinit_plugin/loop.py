"""The loop of the warm-up: cooperative iterations, reported and stored on the way, until the stop."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from coopinit_plugin.calling.data import check_finite
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.balance import Statistics
from coopinit_plugin.method.iteration import cooperate
from coopinit_plugin.method.stopping import GOAL
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.words import standing
from coopinit_plugin.state import Stage, State

logger = logging.getLogger(__name__)

SELDOM = 10.0  # seconds between two lines of the bar in a file or a pipe, where none replaces the one before
BLIND_ITERATIONS = 10  # iterations that D's gradient may be exactly zero, as with a last layer that starts at zero


def iterate(state: State, stage: Stage, step_seconds: float) -> tuple[str, float | None]:
    """Run cooperative iterations until the stop; (its reason, the distance of the weights that are handed over).

    `step_seconds` is what an adversarial iteration takes, the unit of the cost on the bar.
    """
    config, run, plateau = stage.config, stage.run, state.plateau
    before = state.history[-1].seconds if state.history else 0.0
    began = last = time.perf_counter()
    goal, hidden = GOAL if config.iterations == "auto" else None, not (stage.progress and run.is_main)
    most = config.most_iterations
    with tqdm(total=most, initial=len(state.history), desc="warm-up", bar_format="{desc}", disable=hidden) as bar:
        in_place = hasattr(bar, "container") or getattr(sys.stderr, "isatty", bool)()  # in a notebook, in a terminal
        if not (hidden or in_place):
            bar.mininterval = SELDOM
        while len(state.history) < most:
            report = _iteration(state, stage, before - began)
            now = began + report.seconds - before
            width = getattr(bar, "ncols", None)  # a bar that is not shown has none
            bar.set_description_str(standing(state.history, most, goal, step_seconds, width), refresh=False)
            bar.update()
            stopped = stage.callback is not None and run.is_main and stage.callback(report) is False
            late = report.seconds + began - stage.began + (now - last) > (config.max_seconds or math.inf)
            last = now
            stopped, late, due = run.any(stopped, late, stage.checkpoints.due)
            if stopped:
                return "callback", plateau.last
            if config.iterations == "auto":
                if plateau.at_best:
                    state.remember()
                if plateau.verdict is not None:
                    return plateau.verdict, _best_kept(state)
            if late:
                return "max_seconds", _best_kept(state)
            if due:
                stage.checkpoints.write(state.state_dict(run))
    if config.iterations == "auto":
        return "max_iterations", _best_kept(state)
    return "iterations", plateau.last


def _iteration(state: State, stage: Stage, since: float) -> StepReport:
    """Run one iteration and report it; `since` turns the clock into seconds since the first iteration."""
    config, run, pair, step = stage.config, stage.run, state.pair, state.step
    iteration = len(state.history) + 1
    real = pair.draw(next(state.batches), run.device)
    for group in state.adam_d.param_groups:
        group["lr"] = config.lr_discriminator * (step.pace if config.langevin_steps == "auto" else 1)
    lag = state.history[-1].displacement ** 2 if state.history else 0.0, state.plateau.last or 0.0
    fake, found = cooperate(pair, state.memory, real, step, state.settings, state.adam_g, state.adam_d, *lag)
    state.averaged.update(iteration)

    found = found.read(state.settings.team)
    _check_statistics(found, iteration, real[0], config)
    if step.size is None and iteration >= BLIND_ITERATIONS:
        raise CoopInitError(
            f"The gradient of D's score with respect to its input was exactly zero in {iteration} iterations: the "
            "chain cannot move. Does D round, threshold or re-scale its input away, or is a layer dead? Give a "
            "differentiable score: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)"
        )
    used, steps = step.size or 0.0, step.steps
    step.update(found.real - found.refined, found.score_std, found.drift)
    state.plateau.observe(real[0], fake)
    report = StepReport(
        iteration=iteration,
        real=found.real,
        refined=found.refined,
        score_std=found.score_std,
        step_size=used,
        langevin_steps=steps,
        displacement=found.displacement,
        distance=state.plateau.last,
        seconds=time.perf_counter() + since,
    )
    state.history.append(report)
    return report


def _best_kept(state: State) -> float | None:
    """Go back if the best moment has passed; the distance of the weights that are handed over."""
    plateau = state.plateau
    if not state.best or not plateau.past_its_best:
        return plateau.last
    if plateau.verdict == "worse":
        logger.warning(
            "The distance of generated to real samples rose to %.3g σ again after %.3g σ: the warm-up went wrong and "
            "ends here, with the weights of its best moment.",
            plateau.last,
            plateau.best,
        )
    state.go_back()
    return plateau.best


def _check_statistics(found: Statistics, iteration: int, x: Any, config: WarmStartConfig) -> None:
    """Refuse to go on after an iteration whose statistics are not finite."""
    named = {
        "D's logits of real samples": found.real,
        "D's logits of refined samples": found.refined,
        "the refined samples": found.displacement,
    }
    broken = [name for name, value in named.items() if not math.isfinite(value)]
    if not broken and math.isfinite(found.score_std):
        return
    check_finite(x, f"Iteration {iteration}")
    step = "" if config.step_size == "balanced" else ' and step_size="balanced"'
    raise CoopInitError(
        f"Iteration {iteration}: not finite any more: {', '.join(broken) or 'the spread of the logits'}. The "
        "warm-up has diverged; your networks are untouched. Try WarmStartConfig(lr_discriminator="
        f"{config.lr_discriminator / 4:g}, energy_l2={max(config.energy_l2, 0.1) * 10:g}){step}, or fewer Langevin "
        "steps. A square root or a division without an epsilon in the networks makes such gradients, too."
    )


def check_weights(module: nn.Module, letter: str, config: WarmStartConfig) -> None:
    """Refuse weights that are not finite."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CoopInitError(
                f"The warm-up left {letter}'s {name} not finite: its last gradient was not. Your networks are "
                f"untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
                f"lr_generator={config.lr_generator / 4:g}); a square root or division without an epsilon in the "
                "networks (minibatch standard deviation, norms) gives such gradients."
            )
