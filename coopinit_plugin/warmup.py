"""The cooperative warm-up: look, borrow, iterate until the stop, hand over, give back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.calling.adapter import Adapter, bound, following_loss
from coopinit_plugin.calling.inspection import look
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.backup import backed_up
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity, settings, tensors_of
from coopinit_plugin.host.engine import Engine, engine
from coopinit_plugin.host.memory import explained_memory
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.host.networks import copies, cpu_copy, device_of, give_back, state_of, unwrap
from coopinit_plugin.host.randomness import borrowed_randomness, loader_generators, seed_all
from coopinit_plugin.loop import Stage, iterate
from coopinit_plugin.method.averaging import AveragedGenerator
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.method.energy_mode import likelihood_mode, normalisers, settle
from coopinit_plugin.method.hand_over import hand_over
from coopinit_plugin.method.iteration import Settings
from coopinit_plugin.method.judges import Samples, judges, scores
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.layer_sizes import layer_sizes, restore_sizes
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import Plateau, concern
from coopinit_plugin.result.provenance import Witness
from coopinit_plugin.result.step_report import StepReport, check_weights, spread
from coopinit_plugin.result.warm_start import CONFIG, WarmStart
from coopinit_plugin.state import Progress

logger = logging.getLogger(__name__)


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
        output_dir: Where checkpoints go on the way, and the result, as ``result.save_pretrained(output_dir)`` saves it.
        resume: Go on from the checkpoint in `output_dir`, as if there had been no interruption; take the result
            where it is complete; begin where there is neither.
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
    with backed_up([generator, discriminator, *averaged]) if config.low_memory else nullcontext():
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            borrowed_randomness(config.seed, loader),
            engine(accelerator, _device(generator)) as run,
            run.failing_together(),
            explained_memory(),
        ):
            checkpoints = Checkpoints(output_dir, run.is_main)
            finished = output_dir is not None and (Path(output_dir) / CONFIG).exists()
            begun, finished = run.any(
                resume and run.is_main and checkpoints.exists, resume and run.is_main and finished
            )
            if finished and not begun and output_dir is not None:
                result = _finished(output_dir, config)
            else:
                if not begun:
                    checkpoints.remove()
                saved = checkpoints.read() if begun else None
                stage = Stage(config, run, checkpoints, saved, callback, progress)
                result = _warm_up(generator, discriminator, loader, adapter or Adapter(), stage)
                if output_dir is not None and run.is_main:
                    result.save_pretrained(output_dir)
                    checkpoints.remove()
        give_back(
            [
                ("generator", generator, result.generator_state),
                ("discriminator", discriminator, result.discriminator_state),
                *((f"ema[{index}]", module, result.generator_state) for index, module in enumerate(averaged)),
            ],
            backed_up=config.low_memory,
        )
    return result


def _warm_up(generator: nn.Module, discriminator: nn.Module, loader: Any, adapter: Adapter, stage: Stage) -> WarmStart:
    """Everything that happens on copies."""
    config, run = stage.config, stage.run
    with (
        # Casts of weights kept for the whole context would outlive the optimizers' steps: keep none.
        torch.autocast(run.device.type, enabled=False, cache_enabled=False),
        run.loader(loader) as (part, is_part),
    ):
        G, D = (net.to(run.device) for net in copies(generator, discriminator, in_place=config.low_memory))
        run.from_main([*tensors_of(G).values(), *tensors_of(D).values()])
        generators = loader_generators(loader)
        batches = Batches(part, run.device, generators)
        loss_named = config.handover not in ("auto", "none")
        adapter = look(G, D, batches.peek(), run.device, adapter, loss_named)
        pair = bound(G, D, adapter, run.precision)
        batches.share(run, is_part)
        logger.info("How G and D are called:\n%s", adapter)
        for warning in adapter.warnings if run.is_main else ():
            logger.warning(warning)
        witness = Witness(pair, batches.peek(), config.seed, run.device)
        averaged = AveragedGenerator(pair.G, pair.D, config.averaging)
        progress = _begin(pair, averaged, batches, generators, stage)
        stopped_by, distance = iterate(progress, stage)
        averaged.hand_over()
        history = progress.history
        if run.is_main and stopped_by in ("plateau", "max_iterations") and (worry := concern(distance)):
            logger.warning(worry)
        D._compiled_call_impl = None  # a compiled D does not run the hooks by which the hand-over finds its last layer
        pair = bound(G, D, adapter)
        leave = config.handover == "none" or not {*G.parameters()}.isdisjoint(D.parameters())  # G would change with it
        resized = 0 if leave else _restore_sizes(pair, batches, progress.sizes, run)
        handed_over = hand_over(pair, batches, *following_loss(config.handover, adapter), config.r1, run)
        run.from_main([*tensors_of(G).values(), *tensors_of(D).values()])
        check_weights(G, "G", config)
        check_weights(D, "D", config)
        batches.close()
        summary = {
            "iterations": len(history),
            "seconds": time.perf_counter() - stage.began,
            "stopped_by": stopped_by,
            "distance_first": next((row.distance for row in history if row.distance is not None), None),
            "distance_last": history[-1].distance,
            "distance_kept": distance,
            "displacement_last": history[-1].displacement,
            "layers_resized": resized,
            **handed_over,
        }
        origin = witness.origin(loader, run.processes)
        summary, history = run.gather_objects((summary, history) if run.is_main else None)[0]
        weights = [cpu_copy(state_of(a), state_of(b)) for a, b in ((G, generator), (D, discriminator))]
        return WarmStart(weights[0], weights[1], config, history, summary, origin, witness.samples())


def _restore_sizes(pair: Pair, batches: Batches, sizes: list[float], run: Engine) -> int:
    """D's layers as large as they were; how many weights that changed."""
    real = judges(pair, batches, run.device)
    with torch.no_grad(), kept(buffers(pair.G)):
        fake = [(pair.generate(z), z, batch) for _, z, batch in real]
    alone = [layer for layer in normalisers(pair.D) if not isinstance(layer, nn.SyncBatchNorm)]  # wait for no process

    def on_own_statistics(pair: Pair, samples: Samples) -> Tensor:
        """Those of each batch, as in the adversarial loop."""
        with kept(training(*alone), buffers(*alone)):
            for layer in alone:
                layer.train()
            return scores(pair, samples)

    ways = [scores, on_own_statistics] if alone else [scores]
    with kept(training(pair.D)):
        likelihood_mode(pair.D)
        resized = restore_sizes(pair.D, sizes, [partial(f, pair, samples) for f in ways for samples in (real, fake)])
    run.from_main([*tensors_of(pair.D).values()])  # each process has judged by its own batch
    return resized


def _begin(
    pair: Pair, averaged: AveragedGenerator, batches: Batches, generators: list[torch.Generator], stage: Stage
) -> Progress:
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
    average = run.average if run.processes > 1 else None
    x, z, batch = pair.draw(batches.peek(), run.device)
    if not config.low_memory:  # it would take a copy of D's weights
        lay_out(pair.D, lambda: pair.score(x, z, batch), x)
    if config.compile:
        pair.D.compile()
    settle(pair.D, lambda: pair.score(x, z, batch), average)
    scale = saved["scale"] if saved is not None else spread(x, run.gather)
    progress = Progress(
        pair=pair,
        adam_g=adam_g,
        adam_d=adam_d,
        step=step_size(config.step_size, config.langevin_steps),
        settings=Settings(config.noise_scale, config.energy_l2, scale, average=average),
        averaged=averaged,
        plateau=Plateau(SlicedWasserstein(x, scale), run.gather, run.processes),
        sizes=layer_sizes(pair.D),
        batches=batches,
        generators=generators,
        identity=same,
        best_on=torch.device("cpu") if config.low_memory else run.device,
    )
    if saved is not None:
        progress.load_state_dict(saved, run)
    elif run.any(stage.checkpoints.due)[0]:
        stage.checkpoints.write(progress.state_dict(run))
    return progress


def _finished(folder: str | Path, config: WarmStartConfig) -> WarmStart:
    """The result that is there already."""
    result = WarmStart.from_pretrained(folder)
    was, now = ({"config": settings(made), "processes": 1, "tensors": {}} for made in (result.config, config))
    check_same(was, now, folder)
    return result


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
