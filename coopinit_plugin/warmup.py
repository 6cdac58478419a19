"""The cooperative warm-up: look, borrow, iterate until the stop, hand over, give back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from coopinit_plugin.adapter import Adapter, Pair
from coopinit_plugin.balance import step_size
from coopinit_plugin.batches import Batches
from coopinit_plugin.borrowed import borrowed_randomness, copies, cpu_copy, device_of, give_back, state_of, unwrap
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.engine import Engine, engine
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.fitting import hand_over
from coopinit_plugin.inspection import look
from coopinit_plugin.iteration import Settings, cooperate
from coopinit_plugin.measures import SlicedWasserstein
from coopinit_plugin.modes import likelihood_mode, settle
from coopinit_plugin.report import Statistics, StepReport
from coopinit_plugin.result import CONFIG, WarmStart
from coopinit_plugin.stopping import Plateau
from coopinit_plugin.witness import Witness

logger = logging.getLogger(__name__)

BLIND_ITERATIONS = 10  # iterations that D's gradient may be exactly zero, as with a last layer that starts at zero
BAR = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"  # fits 80 columns; no estimate: the stop is not known


def warm_start(
    generator: nn.Module,
    discriminator: nn.Module,
    loader: Iterable[Any],
    *,
    config: WarmStartConfig | None = None,
    adapter: Adapter | None = None,
    accelerator: Any = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    ema: Iterable[nn.Module] = (),
    callback: Callable[[StepReport], bool | None] | None = None,
    progress: bool = True,
) -> WarmStart:
    """Initialise a GAN by a short cooperative maximum-likelihood warm-up (CoopInit, arXiv 2303.11649).

    D is trained as an energy-based model, short Langevin chains refine G's samples, G learns from the refined ones.
    The work is done on copies. At the end, and only then, the values are written into the tensors of `generator` and
    `discriminator`; optimizers made before, flags, hooks, wrappers, ``.grad`` and the state of every random generator
    are as they were. An error or an interrupt leaves both networks bit for bit untouched.

    Args:
        generator: G, any module; DDP, DataParallel and ``torch.compile`` are seen through.
        discriminator: D, likewise; logits or probabilities.
        loader: Any iterable of batches that can be iterated again, or an endless iterator.
        config: Settings; the default needs no number from you.
        adapter: How G and D are called; what it leaves out is inferred by forward passes.
        accelerator: Your own ``accelerate.Accelerator``; else one is made and forgotten again. Its trackers get the
            statistics as ``coopinit/...``.
        output_dir: Where to save the result, as ``result.save_pretrained(output_dir)`` does.
        resume: Take the result from `output_dir`, where one is complete, instead of warming up again.
        ema: Averaged copies of G, made before this call; they get G's warm weights too.
        callback: Called with every iteration's statistics in the main process; ``False`` stops there, weights kept.
        progress: Show a progress bar.

    Returns:
        The weights, with the settings, the history and a summary.

    Raises:
        CoopInitError: for whatever is wrong with the input or goes wrong on the way, with the next thing to try.

    Example:
        >>> result = coopinit_plugin.warm_start(G, D, loader)  # doctest: +SKIP
        >>> result.save_pretrained("init/")  # doctest: +SKIP
    """
    config = config if config is not None else WarmStartConfig()
    averaged = list(ema)
    _check_arguments(config, adapter, output_dir, resume)
    if resume and output_dir is not None and (Path(output_dir) / CONFIG).exists():
        result = WarmStart.from_pretrained(output_dir)
    else:
        result = _warm_up(
            generator, discriminator, loader, config, adapter or Adapter(), accelerator, callback, progress
        )
        if output_dir is not None:
            result.save_pretrained(output_dir)
    give_back(
        [("generator", generator, result.generator_state), ("discriminator", discriminator, result.discriminator_state)]
        + [(f"ema[{index}]", module, result.generator_state) for index, module in enumerate(averaged)]
    )
    return result


def _warm_up(
    generator: nn.Module,
    discriminator: nn.Module,
    loader: Any,
    config: WarmStartConfig,
    adapter: Adapter,
    accelerator: Any,
    callback: Callable[[StepReport], bool | None] | None,
    progress: bool,
) -> WarmStart:
    """Everything that happens on copies."""
    began = time.perf_counter()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        borrowed_randomness(config.seed, loader),
        engine(accelerator, _device(generator)) as run,
        # Casts of weights kept for the whole context would outlive the optimizers' steps: keep none.
        torch.autocast(run.device.type, enabled=False, cache_enabled=False),
    ):
        G, D = copies(generator, discriminator)
        wrapped_g, wrapped_d = run.prepare(G), run.prepare(D)
        batches = Batches(run.loader(loader), run.device)
        pair = Pair(G, D, look(G, D, batches.peek(), run.device, adapter), wrapped_g, wrapped_d)
        logger.info("How G and D are called:\n%s", pair.adapter)
        for warning in pair.adapter.warnings:
            logger.warning(warning)
        if config.compile:
            D.compile()
        witness = Witness(pair, batches.peek(), config.seed, run.device)
        history, stopped_by = _iterate(pair, batches, config, run, callback, progress)
        handed_over = hand_over(pair, batches, config.handover, run)
        _finite(G, "G", config)
        _finite(D, "D", config)
        batches.close()
        summary = {
            "iterations": len(history),
            "seconds": time.perf_counter() - began,
            "stopped_by": stopped_by,
            "distance_first": next((row.distance for row in history if row.distance is not None), None),
            "distance_last": history[-1].distance,
            "displacement_last": history[-1].displacement,
            **handed_over,
        }
        origin = witness.origin(loader, run.processes)
        weights = cpu_copy(state_of(G)), cpu_copy(state_of(D))
        return WarmStart(*weights, config, history, summary, origin, witness.samples())


def _iterate(
    pair: Pair,
    batches: Batches,
    config: WarmStartConfig,
    run: Engine,
    callback: Callable[[StepReport], bool | None] | None,
    progress: bool,
) -> tuple[list[StepReport], str]:
    """Cooperative iterations until the stop: (history, reason of the stop)."""
    pair.G.train()
    likelihood_mode(pair.D)
    adam_g = torch.optim.Adam(_trainable(pair.G), lr=config.lr_generator, betas=config.betas)
    adam_d = torch.optim.Adam(_trainable(pair.D), lr=config.lr_discriminator, betas=config.betas)
    step = step_size(config.step_size)
    x, z, batch = pair.draw(batches.peek(), run.device)
    settle(pair.D, lambda: pair.score(x, z, batch))
    scale = run.gather(torch.stack([leaf.float().std(correction=0) for leaf in tree_leaves(x)])).mean(0).tolist()
    settings = Settings(config.langevin_steps, config.noise_scale, config.energy_l2, scale)
    plateau = Plateau(SlicedWasserstein(x, scale))

    best: list[tuple[Tensor, Tensor]] = []
    history: list[StepReport] = []
    began = time.perf_counter()
    hidden = not (progress and run.is_main)
    with tqdm(total=config.most_iterations, desc="CoopInit", bar_format=BAR, disable=hidden) as bar:
        for iteration in range(1, config.most_iterations + 1):
            x, z, batch = pair.draw(next(batches), run.device)
            outcome = cooperate(pair, x, z, batch, step, settings, adam_g, adam_d)

            found = Statistics.pooled(run.gather(outcome.statistics).tolist())
            found.check(iteration, x, config)
            if step.size is None and iteration >= BLIND_ITERATIONS:
                raise CoopInitError(_blind(iteration))
            used = step.size or 0.0
            step.update(found.real - found.refined, found.spread)
            plateau.observe(x, outcome.fake)

            report = StepReport(
                iteration=iteration,
                **vars(found),
                step_size=used,
                distance=plateau.last,
                seconds=time.perf_counter() - began,
            )
            history.append(report)
            run.log(report.measures, iteration)
            bar.set_postfix_str(report.in_words, refresh=False)
            bar.update()
            if callback is not None and run.is_main and callback(report) is False:
                return history, "callback"
            if config.iterations == "auto":
                if plateau.at_best:
                    best = [(tensor, tensor.detach().clone()) for net in (pair.G, pair.D) for tensor in _state(net)]
                if plateau.verdict == "worse":
                    logger.warning(
                        "The distance of generated to real samples rose to %.3g σ again after %.3g σ: the warm-up "
                        "went wrong and ends here, with the weights of its best moment.",
                        plateau.last,
                        plateau.best,
                    )
                    with torch.no_grad():
                        for tensor, value in best:
                            tensor.copy_(value)
                if plateau.verdict is not None:
                    return history, plateau.verdict
    return history, "max_iterations" if config.iterations == "auto" else "iterations"


def _blind(iteration: int) -> str:
    return (
        f"The gradient of D's score with respect to its input was exactly zero in {iteration} iterations: the chain "
        "cannot move. Does D round, threshold or re-scale its input away, or is a layer dead? Give a differentiable "
        "score: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)"
    )


def _check_arguments(config: Any, adapter: Any, output_dir: Any, resume: bool) -> None:
    if not isinstance(config, WarmStartConfig):
        raise CoopInitError(
            f"config is a {type(config).__name__}; expected coopinit_plugin.WarmStartConfig(...), for example "
            "WarmStartConfig(iterations=200), or nothing: the default needs no number."
        )
    if adapter is not None and not isinstance(adapter, Adapter):
        raise CoopInitError(
            f"adapter is a {type(adapter).__name__}; expected coopinit_plugin.Adapter(...), for example "
            "Adapter(score=lambda D, x, z, batch: D(x)[0])."
        )
    if resume and output_dir is None:
        raise CoopInitError('resume=True needs output_dir, the folder to go on from, e.g. output_dir="init/".')


def _device(generator: nn.Module) -> torch.device | None:
    return device_of(unwrap(generator)) if isinstance(generator, nn.Module) else None


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _finite(module: nn.Module, letter: str, config: WarmStartConfig) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CoopInitError(
                f"The warm-up left {letter}'s {name} not finite: its last gradient was not. Your networks are "
                f"untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
                f"lr_generator={config.lr_generator / 4:g}); a square root or division without an epsilon in the "
                "networks (minibatch standard deviation, norms) gives such gradients."
            )
