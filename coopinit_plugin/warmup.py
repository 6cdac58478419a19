"""The cooperative warm-up: look, borrow, iterate until the stop, hand over, give back."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.arguments import check_arguments, checked_config
from coopinit_plugin.calling.adapter import Adapter, bound
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.handing_over import handed_over
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity, tensors_of
from coopinit_plugin.host.copies import checked, copies, moved
from coopinit_plugin.host.engine import engine
from coopinit_plugin.host.memory import explained_memory
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.host.networks import averages, cpu_copy, device_of, give_back, state_of, unwrap
from coopinit_plugin.host.randomness import borrowed_randomness, loader_generators, seed_all
from coopinit_plugin.host.untouched import needs_batch, prove, seen, untouched
from coopinit_plugin.loop import Stage, iterate
from coopinit_plugin.method.averaging import AveragedGenerator
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.distance import SlicedWasserstein, sigmas
from coopinit_plugin.method.energy_mode import likelihood_mode, settle
from coopinit_plugin.method.iteration import Settings
from coopinit_plugin.method.layer_sizes import layer_sizes
from coopinit_plugin.method.memory import PAIRS, PLACES, Chains, Memory
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import Plateau, concern
from coopinit_plugin.method.team import Team
from coopinit_plugin.result.files import CONFIG
from coopinit_plugin.result.provenance import Witness
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.warm_start import WarmStart
from coopinit_plugin.state import State

logger = logging.getLogger(__name__)


def warm_start(
    generator: nn.Module,
    discriminator: nn.Module,
    loader: Iterable[Any],
    *,
    handover: str | None = None,
    config: WarmStartConfig | None = None,
    adapter: Adapter | None = None,
    accelerator: Any = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    ema: Iterable[nn.Module] | nn.Module | None = (),
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
        handover: Which adversarial loss follows, by one word: ``"logistic"`` (BCE, non-saturating), ``"hinge"``,
            ``"least_squares"`` (LSGAN), ``"wasserstein"`` (WGAN-GP), ``"relativistic"``; see
            ``WarmStartConfig.handover``. Not needed if D ends in a sigmoid.
        config: Settings; the default needs no number from you.
        adapter: How G and D are called; what it leaves out is inferred by forward passes.
        accelerator: Your own ``accelerate.Accelerator``; else one is made and forgotten again. Its trackers get the
            statistics as ``coopinit/...``.
        output_dir: Where checkpoints go on the way, and the result, as ``result.save_pretrained(output_dir)`` saves it.
        resume: Go on from the checkpoint in `output_dir`, as if there had been no interruption; take the result
            where it is complete; begin where there is neither.
        ema: Averaged copies of G, made before this call, or the helpers that hold them (``AveragedModel``, ...); they
            get G's warm weights too.
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
    config = checked_config(config, handover)
    check_arguments(adapter, output_dir, resume)
    shown = progress and sys.stderr is not None  # as it is under pythonw and in services of Windows
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        borrowed_randomness(config.seed, loader),
        engine(accelerator, _device(generator)) as run,
        run.failing_together(),
        explained_memory(),
    ):
        averaged = averages(ema, checked("generator", generator))
        checkpoints = Checkpoints(output_dir, run.is_main)
        finished = output_dir is not None and (Path(output_dir) / CONFIG).exists()
        begun, finished = run.any(resume and run.is_main and checkpoints.exists, resume and run.is_main and finished)
        if finished and not begun and output_dir is not None:
            result = _finished(output_dir, config)
        else:
            stage = Stage(config, run, checkpoints, checkpoints.read() if begun else None, callback, shown)
            result = _warm_up(generator, discriminator, loader, adapter or Adapter(), stage)
            _store(result, output_dir, stage)
    give_back(
        [
            ("generator", generator, result.generator_state),
            ("discriminator", discriminator, result.discriminator_state),
            *((f"ema[{index}]", module, result.generator_state) for index, module in enumerate(averaged)),
        ]
    )
    return result


def _warm_up(generator: nn.Module, discriminator: nn.Module, loader: Any, adapter: Adapter, stage: Stage) -> WarmStart:
    """Everything that happens on copies."""
    config, run = stage.config, stage.run
    if stage.saved is None:
        stage.checkpoints.remove()
    with (
        # Casts of weights kept for the whole context would outlive the optimizers' steps: keep none.
        torch.autocast(run.device.type, enabled=False, cache_enabled=False),
        run.loader(loader) as (part, is_part),
    ):
        G, D = (moved(net, run.device) for net in copies(generator, discriminator))
        run.from_main([*tensors_of(G).values(), *tensors_of(D).values()])
        batches = Batches(part, run.device, loader_generators(loader))
        adapter, pair = _known((generator, discriminator), G, D, batches, adapter, stage)
        batches.share(run, is_part)
        pair = bound(G, D, adapter, run.precision)
        witness = Witness(pair, batches.peek(), config.seed, run.device)
        state = _begin(pair, batches, loader_generators(loader), stage)
        stopped_by, distance = iterate(state, stage)
        if run.is_main and stopped_by in ("plateau", "max_iterations") and (worry := concern(distance)):
            logger.warning(worry)
        state.averaged.hand_over()
        told = handed_over(bound(G, D, adapter), adapter, state, stage)
        batches.close()
        history = state.history
        summary = {
            "iterations": len(history),
            "seconds": time.perf_counter() - stage.began,
            "stopped_by": stopped_by,
            "distance_first": next((row.distance for row in history if row.distance is not None), None),
            "distance_last": history[-1].distance if history else None,
            "distance_kept": distance,
            "displacement_last": history[-1].displacement if history else None,
            **told,
        }
        origin = witness.origin(loader, run.processes)
        summary, history = run.gather_objects((summary, history) if run.is_main else None)[0]
        weights = [cpu_copy(state_of(a), state_of(b)) for a, b in ((G, generator), (D, discriminator))]
        return WarmStart(weights[0], weights[1], config, history, summary, origin, witness.samples())


def _known(
    users: tuple[nn.Module, nn.Module], G: nn.Module, D: nn.Module, batches: Batches, given: Adapter, stage: Stage
) -> tuple[Adapter, Pair]:
    """How G and D, copies of the user's, are called; and proof that they can be warmed up so."""
    run = stage.run
    adapter = seen(users, G, D, batches.peek(), given, stage.config.handover not in ("auto", "none"))
    real, latent = batches.steady(adapter.real, "x"), batches.steady(adapter.latent, "z")
    adapter = replace(adapter, real=real, latent=latent)
    pair = bound(G, D, adapter, run.precision)
    with untouched(*users):
        unreached = prove(pair, batches.peek(), run.device)
    logger.info("How G and D are called:\n%s", adapter)
    for warning in (*adapter.warnings, *unreached) if run.is_main else ():
        logger.warning(warning)
    return adapter, pair


def _begin(pair: Pair, batches: Batches, generators: list[torch.Generator], stage: Stage) -> State:
    """All that moves, made ready: at the start, or where the checkpoint left it."""
    config, run, saved = stage.config, stage.run, stage.saved
    pair.G.train()
    likelihood_mode(pair.D)
    adam_g = torch.optim.Adam(_trainable(pair.G), lr=config.lr_generator, betas=config.betas)
    adam_d = torch.optim.Adam(_trainable(pair.D), lr=config.lr_discriminator, betas=config.betas)
    same = identity(config, run.processes, G=pair.G, D=pair.D)
    if saved is not None:
        check_same(saved["identity"], same, stage.checkpoints.path)
    seed_all(config.seed, run.index)  # from here on each process draws its own noise
    team = Team(run.processes, run.index, run.gather, run.average)
    x, z, batch = pair.draw(batches.peek(), run.device)
    lay_out(pair.D, lambda: pair.score(x, z, batch), x)
    if config.most_iterations:  # the hand-over alone leaves D's buffers as they are
        settle(pair.D, lambda: pair.score(x, z, batch), team=team)
    scale = saved["scale"] if saved is not None else sigmas(x, team)
    if keeps_batch := needs_batch(pair, x, z):
        batches.keep_alike()
    places = max(PLACES, -(-PAIRS // (len(tree_leaves(x)[0]) * team.count)))
    state = State(
        pair=pair,
        memory=Memory(places, config.seed, team),
        adam_g=adam_g,
        adam_d=adam_d,
        step=step_size(config.step_size, config.langevin_steps),
        settings=Settings(config.noise_scale, config.energy_l2, scale, team=team, keeps_batch=keeps_batch),
        averaged=AveragedGenerator(pair.G, pair.D, config.averaging),
        plateau=Plateau(SlicedWasserstein(x, scale), team),
        sizes={"G": layer_sizes(pair.G), "D": layer_sizes(pair.D)},
        batches=batches,
        generators=generators,
        identity=same,
    )
    if saved is not None:
        state.load_state_dict(saved, Chains(z, (batch if keeps_batch else None, pair.mask(x)), x), run)
    elif run.any(stage.checkpoints.due)[0]:
        stage.checkpoints.write(state.state_dict(run))
    return state


def _store(result: WarmStart, output_dir: str | Path | None, stage: Stage) -> None:
    if output_dir is not None and stage.run.is_main:
        result.save_pretrained(output_dir)
        stage.checkpoints.remove()


def _finished(folder: str | Path, config: WarmStartConfig) -> WarmStart:
    """The result that is there already."""
    result = WarmStart.from_pretrained(folder)
    check_same(identity(result.config, 1), identity(config, 1), folder)
    return result


def _device(generator: nn.Module) -> torch.device | None:
    return device_of(unwrap(generator)) if isinstance(generator, nn.Module) else None


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
