"""The cooperative warm-up: look, borrow, iterate until the stop, hand over, give back."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves
from tqdm.auto import tqdm

from coopinit_plugin.adapter import Adapter, Pair
from coopinit_plugin.balance import BalancedStep, step_size
from coopinit_plugin.batches import Batches
from coopinit_plugin.borrowed import borrowed_randomness, copies, cpu_copy, device_of, give_back, state_of, unwrap
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.engine import Engine, engine
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.handover import Affine, critic_scale, following_loss, line_search, unit_scale
from coopinit_plugin.heads import find_heads
from coopinit_plugin.inspection import look
from coopinit_plugin.iteration import Outcome, Settings, cooperate
from coopinit_plugin.langevin import input_gradient
from coopinit_plugin.measures import SlicedWasserstein
from coopinit_plugin.modes import frozen, kept_buffers, kept_modes, likelihood_mode, refresh_statistics
from coopinit_plugin.result import StepReport, WarmStart
from coopinit_plugin.stopping import Plateau

logger = logging.getLogger(__name__)

HANDOVER_SAMPLES = 1024
BLIND_ITERATIONS = 10  # iterations that D's gradient may be exactly zero, as with a last layer that starts at zero


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
        accelerator: Your own ``accelerate.Accelerator``; else one is made and forgotten again.
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
    if resume and output_dir is not None and Path(output_dir).exists():
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
        torch.autocast(run.device.type, enabled=False),
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
        history, stopped_by, scale = _iterate(pair, batches, config, run, callback, progress)
        handed_over = _hand_over(pair, batches, config, run)
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
            "data_std": scale if len(scale) > 1 else scale[0],
            **handed_over,
        }
        return WarmStart(cpu_copy(state_of(G)), cpu_copy(state_of(D)), config, history, summary)


def _iterate(
    pair: Pair,
    batches: Batches,
    config: WarmStartConfig,
    run: Engine,
    callback: Callable[[StepReport], bool | None] | None,
    progress: bool,
) -> tuple[list[StepReport], str, list[float]]:
    """Algorithm 1 until the stop: (history, reason of the stop, σ of the data)."""
    pair.G.train()
    likelihood_mode(pair.D)
    adam_g = torch.optim.Adam(_trainable(pair.G), lr=config.lr_generator, betas=config.betas)
    adam_d = torch.optim.Adam(_trainable(pair.D), lr=config.lr_discriminator, betas=config.betas)
    step = step_size(config.step_size)

    first = batches.peek()
    x = pair.real(first)
    scale = [float(leaf.float().std(correction=0)) for leaf in tree_leaves(x)]
    settings = Settings(config.langevin_steps, config.noise_scale, config.energy_l2, scale)
    plateau = Plateau(SlicedWasserstein(x, scale))
    _settle(pair, x, first, run.device)

    history: list[StepReport] = []
    stopped_by = "max_iterations" if config.iterations == "auto" else "iterations"
    began = time.perf_counter()
    bar = tqdm(
        total=config.most_iterations, desc="CoopInit warm-up", disable=not (progress and run.is_main), leave=True
    )
    with bar:
        for iteration in range(1, config.most_iterations + 1):
            batch = next(batches)
            x = pair.real(batch)
            z = pair.latent(tree_leaves(x)[0].shape[0], run.device, batch)
            size = step.size
            outcome = cooperate(pair, x, z, batch, step, settings, adam_g, adam_d)
            report = _balance(outcome, step, size, iteration, x, run, plateau, began, config)
            history.append(report)
            ratio = report.gap / max(report.spread, 1e-12)
            bar.set_postfix_str(f"score gap {ratio:+.2f}, moved {report.displacement:.2f} σ")
            bar.update()
            if callback is not None and run.is_main and callback(report) is False:
                stopped_by = "callback"
                break
            if config.iterations == "auto" and plateau.reached:
                stopped_by = "plateau"
                break
    return history, stopped_by, scale


def _balance(
    outcome: Outcome,
    step: BalancedStep,
    used: float | None,
    iteration: int,
    x: Any,
    run: Engine,
    plateau: Plateau,
    began: float,
    config: WarmStartConfig,
) -> StepReport:
    """Read the iteration's statistics, once, adapt the step and see whether all is well."""
    rows = run.gather(outcome.statistics).tolist()
    real, real_std = _pooled([row[0] for row in rows], [row[1] for row in rows])
    refined, refined_std = _pooled([row[2] for row in rows], [row[3] for row in rows])
    squared = sum(row[4] for row in rows) / len(rows)
    if not all(map(math.isfinite, (real, real_std, refined, refined_std, squared))):
        raise CoopInitError(_diverged(iteration, x, real, refined, squared, config))
    if step.size is None and iteration >= BLIND_ITERATIONS:
        raise CoopInitError(
            f"The gradient of D's score with respect to its input was exactly zero in {iteration} iterations: the "
            "chain cannot move. Does D round, threshold or re-scale its input away, or is a layer dead? Give a "
            "differentiable score: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)"
        )
    spread = (real_std + refined_std) / 2
    size = step.size if used is None else used
    step.update(real - refined, spread)
    plateau.observe(x, outcome.fake)
    return StepReport(
        iteration=iteration,
        real=real,
        refined=refined,
        spread=spread,
        step_size=size or 0.0,
        displacement=squared**0.5,
        distance=plateau.last,
        seconds=time.perf_counter() - began,
    )


def _pooled(means: list[float], variances: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over all processes, from those of each."""
    mean = sum(means) / len(means)
    return mean, (sum(v + (m - mean) ** 2 for m, v in zip(means, variances, strict=True)) / len(means)) ** 0.5


def _settle(pair: Pair, x: Any, batch: Any, device: torch.device) -> None:
    """Give D's normalising layers the statistics of the first batch: a fresh D's are no data's."""
    z = pair.latent(tree_leaves(x)[0].shape[0], device, batch)
    refresh_statistics(pair.D, lambda: pair.score(x, z, batch), afresh=True)


def _hand_over(pair: Pair, batches: Batches, config: WarmStartConfig, run: Engine) -> dict[str, Any]:
    """Fit D's logits to the loss that follows; what was done, for the summary."""
    batch = batches.peek()
    x = pair.real(batch)
    z = pair.latent(tree_leaves(x)[0].shape[0], run.device, batch)
    real, fake = _scores(pair, batches, run)
    kind, loss = following_loss(config.handover, pair.adapter)
    affine, moved = Affine(1.0, 0.0), ""
    if kind != "none":
        with kept_modes(pair.D):
            likelihood_mode(pair.D)
            heads = find_heads(pair.D, lambda: pair.score(x, z, batch))
        scalable, shiftable = bool(heads.scaled), heads.shifted is not None
        moved = " and ".join(["scale"] * scalable + ["shift"] * shiftable)
        if kind == "unit":
            affine = unit_scale(real, fake)
        elif kind == "wasserstein":
            affine = critic_scale(real, fake, _gradient_norms(pair, x, z, batch))
        else:
            affine = line_search(loss, real, fake, scalable=scalable, shiftable=shiftable)
        affine = Affine(affine.scale if scalable else 1.0, affine.shift if shiftable else 0.0)
        heads.apply(affine)
        real, fake = affine.scale * (real + affine.shift), affine.scale * (fake + affine.shift)
        if not moved:
            logger.warning(
                "D's last layer admits neither scale nor shift (spectral norm and no bias?); its logits, of standard "
                "deviation %.2g, stay as the warm-up left them.",
                float(real.std()),
            )
    return {
        "handover": kind,
        "handover_moved": moved,
        "handover_scale": affine.scale,
        "handover_shift": affine.shift,
        "logit_real_mean": float(real.mean()),
        "logit_real_std": float(real.std(correction=0)),
        "logit_fake_mean": float(fake.mean()),
        "logit_fake_std": float(fake.std(correction=0)),
    }


def _scores(pair: Pair, batches: Batches, run: Engine) -> tuple[Tensor, Tensor]:
    """F on about a thousand real and as many generated samples, as the adversarial loop will see it: D in training."""
    real: list[Tensor] = []
    fake: list[Tensor] = []
    with torch.no_grad(), kept_modes(pair.D), kept_buffers(pair.G, pair.D):
        pair.D.train()
        while sum(len(part) for part in real) < HANDOVER_SAMPLES and len(real) < HANDOVER_SAMPLES:
            batch = next(batches)
            x = pair.real(batch)
            z = pair.latent(tree_leaves(x)[0].shape[0], run.device, batch)
            real.append(pair.score(x, z, batch))
            fake.append(pair.score(pair.generate(z), z, batch))
    rows = run.gather(torch.stack([torch.cat(real), torch.cat(fake)])).transpose(0, 1).flatten(1)
    return rows[0].double().cpu(), rows[1].double().cpu()


def _gradient_norms(pair: Pair, x: Any, z: Any, batch: Any) -> Tensor:
    """‖∇f‖ of each sample half-way between real and generated, where a gradient penalty looks."""
    with torch.no_grad(), kept_buffers(pair.G):
        fake = pair.generate(z)
    ours, nest = tree_flatten(fake)
    between = [((a + b) / 2).detach().requires_grad_() for a, b in zip(ours, tree_leaves(x), strict=True)]
    with kept_modes(pair.D), frozen(pair.D):
        likelihood_mode(pair.D)
        gradients, _ = input_gradient(lambda samples: pair.score(samples, z, batch), between, nest)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0).double().cpu()


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


def _diverged(iteration: int, x: Any, real: float, refined: float, squared: float, config: WarmStartConfig) -> str:
    """What is not finite, where, and what to change."""
    broken = [int((~torch.isfinite(leaf)).sum()) for leaf in tree_leaves(x)]
    if any(broken):
        return (
            f"Iteration {iteration}: the loader gave data that are not finite ({sum(broken)} numbers of the batch are "
            "NaN or infinite). Your networks are untouched. Clean those samples in the dataset (torch.nan_to_num)."
        )
    values = (("D's logits of real samples", real), ("D's logits of refined samples", refined), ("the chain", squared))
    what = ", ".join(name for name, value in values if not math.isfinite(value)) or "the statistics"
    step = "" if config.step_size == "balanced" else ' with step_size="balanced"'
    return (
        f"Iteration {iteration}: not finite any more: {what}. The warm-up has diverged; your networks are untouched. "
        f"Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
        f"energy_l2={max(config.energy_l2, 0.1) * 10:g}){step}, or fewer Langevin steps."
    )
