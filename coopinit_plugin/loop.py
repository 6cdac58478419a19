"""The loop of the warm-up: cooperative iterations, reported and stored on the way, until the stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.checkpoint import Checkpoints
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.method.iteration import cooperate
from coopinit_plugin.result.step_report import Statistics, StepReport
from coopinit_plugin.state import Progress

logger = logging.getLogger(__name__)

BLIND_ITERATIONS = 10  # iterations that D's gradient may be exactly zero, as with a last layer that starts at zero
BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"  # fits 80 columns; no estimate: the stop is not known


@dataclass(frozen=True)
class Stage:
    """What the call asks for, and where it runs.

    Attributes:
        config: The settings.
        run: The engine.
        checkpoints: Where they go.
        saved: The one to go on from.
        callback: The user's.
        progress: Whether a bar is shown.
        began: On the clock of ``time.perf_counter``.
    """

    config: WarmStartConfig
    run: Engine
    checkpoints: Checkpoints
    saved: dict[str, Any] | None
    callback: Callable[[StepReport], bool | None] | None
    progress: bool
    began: float = field(default_factory=time.perf_counter)


def iterate(progress: Progress, stage: Stage) -> tuple[str, float | None]:
    """Cooperative iterations until the stop: (its reason, distance of what is handed over)."""
    config, run = stage.config, stage.run
    pair, step, plateau, history = progress.pair, progress.step, progress.plateau, progress.history
    before = history[-1].seconds if history else 0.0
    began = last = time.perf_counter()
    hidden = not (stage.progress and run.is_main)
    with tqdm(
        total=config.most_iterations, initial=len(history), desc="CoopInit", bar_format=BAR, disable=hidden
    ) as bar:
        for iteration in range(len(history) + 1, config.most_iterations + 1):
            x, z, batch = pair.draw(next(progress.batches), run.device)
            for group in progress.adam_d.param_groups:
                group["lr"] = config.lr_discriminator * step.pace
            outcome = cooperate(pair, x, z, batch, step, progress.settings, progress.adam_g, progress.adam_d)
            progress.averaged.update(iteration)

            found = Statistics.pooled(run.gather(outcome.statistics).tolist())
            found.check(iteration, x, config)
            if step.size is None and iteration >= BLIND_ITERATIONS:
                raise CoopInitError(_blind(iteration))
            used, steps = step.size or 0.0, step.steps
            step.update(found.real - found.refined, found.spread, found.drift)
            plateau.observe(x, outcome.fake)

            now = time.perf_counter()
            report = StepReport(
                iteration=iteration,
                real=found.real,
                refined=found.refined,
                spread=found.spread,
                step_size=used,
                langevin_steps=steps,
                displacement=found.displacement,
                distance=plateau.last,
                seconds=before + now - began,
            )
            history.append(report)
            run.log(report.measures, iteration)
            bar.set_postfix_str(report.in_words, refresh=False)
            bar.update()
            stopped = stage.callback is not None and run.is_main and stage.callback(report) is False
            late = before + now - stage.began + (now - last) > (config.max_seconds or math.inf)
            last = now
            stopped, late, due = run.any(stopped, late, stage.checkpoints.due)
            if stopped:
                return "callback", plateau.last
            if config.iterations == "auto":
                if plateau.at_best:
                    progress.remember()
                if plateau.verdict is not None:
                    return plateau.verdict, _best_kept(progress)
            if late:
                return "max_seconds", _best_kept(progress)
            if due:
                stage.checkpoints.write(progress.state_dict(run))
    if config.iterations == "auto":
        return "max_iterations", _best_kept(progress)
    return "iterations", plateau.last


def _best_kept(progress: Progress) -> float | None:
    """Go back where the best moment has passed; the distance of the weights that are handed over."""
    plateau = progress.plateau
    if not progress.best or not plateau.past_its_best:
        return plateau.last
    if plateau.verdict == "worse":
        logger.warning(
            "The distance of generated to real samples rose to %.3g σ again after %.3g σ: the warm-up went wrong and "
            "ends here, with the weights of its best moment.",
            plateau.last,
            plateau.best,
        )
    progress.go_back()
    return plateau.best


def _blind(iteration: int) -> str:
    return (
        f"The gradient of D's score with respect to its input was exactly zero in {iteration} iterations: the chain "
        "cannot move. Does D round, threshold or re-scale its input away, or is a layer dead? Give a differentiable "
        "score: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)"
    )
