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

from coopinit_plugin.arguments import check_arguments, check_loader, checked_config
from coopinit_plugin.calling.adapter import Adapter, bound, following_loss
from coopinit_plugin.calling.data import check_finite
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.cost import adversarial_seconds
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity
from coopinit_plugin.host.copies import checked, copies
from coopinit_plugin.host.engine import engine
from coopinit_plugin.host.networks import averages, cpu_copy, device_of, give_back, state_of, tensors_of
from coopinit_plugin.host.randomness import borrowed_randomness, loader_generators, randomness
from coopinit_plugin.loop import check_weights, iterate
from coopinit_plugin.method.hand_over import hand_over
from coopinit_plugin.method.kept import buffers, kept
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.slower_generator import slowed_generator
from coopinit_plugin.result.provenance import witness
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.warm_start import CONFIG, WarmStart
from coopinit_plugin.result.words import tell
from coopinit_plugin.state import Stage, State, begin, known

logger = logging.getLogger(__name__)

FEW = 8  # the logits of fewer samples are alike, or changed alike, by chance


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
        accelerator: Your own ``accelerate.Accelerator``; else one is made and forgotten again.
        output_dir: Where checkpoints go on the way, and the result, as ``result.save_pretrained(output_dir)`` saves it.
        resume: Go on from the checkpoint in `output_dir`, as if there had been no interruption; take the result
            where it is complete; begin where there is neither.
        ema: Averaged copies of G, made before this call, or the modules that hold them (``AveragedModel``, ...); they
            get G's warm weights too.
        callback: Called with every iteration's statistics in the main process, e.g. to log ``vars(step)``; ``False``
            stops there, weights kept.
        progress: Show on the standard error stream how far it is, and in one line what came out.

    Returns:
        The weights, with the settings, the history and a summary. In the summary ``cost_in_steps`` is the time of the
        iterations and the hand-over in plain adversarial iterations of the same networks (one step of D, one of G, no
        penalty); ``among_data`` is the share of generated samples that lie where data lie, ``among_data_real`` that of
        real ones.

    Raises:
        CoopInitError: for whatever is wrong with the input or goes wrong on the way, with the next thing to try.

    Example:
        >>> result = coopinit_plugin.warm_start(G, D, loader)  # doctest: +SKIP
        >>> result.save_pretrained("init/")  # doctest: +SKIP
    """
    config = checked_config(config, handover)
    check_arguments(adapter, output_dir, resume, callback)
    check_loader(loader)
    shown = progress and sys.stderr is not None  # as it is under pythonw and in services of Windows
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        borrowed_randomness(config.seed, loader),
        engine(accelerator, device_of(generator) if isinstance(generator, nn.Module) else None) as run,
    ):
        averaged = averages(ema, checked("generator", generator))
        checkpoints = Checkpoints(output_dir, run.is_main)
        begun, finished = run.any(
            resume and checkpoints.path.exists(), resume and (Path(output_dir or "") / CONFIG).exists()
        )
        if finished and not begun:
            logger.warning("%s holds the result of a finished warm-up, which is taken: nothing is run.", output_dir)
            result = WarmStart.from_pretrained(output_dir or "")
            check_same(identity(result.config, 1), identity(config, 1), output_dir)
        else:
            stage = Stage(config, run, checkpoints, checkpoints.read() if begun else None, callback, shown)
            result = _warm_up(generator, discriminator, loader, adapter or Adapter(), stage)
            if output_dir is not None and run.is_main:
                result.save_pretrained(output_dir)
                checkpoints.remove()
    own = ("generator", generator, result.generator_state), ("discriminator", discriminator, result.discriminator_state)
    give_back([*own, *((f"ema[{i}]", module, result.generator_state) for i, module in enumerate(averaged))])
    if run.is_main:
        tell(result.summary, progress)
    return result


def _warm_up(generator: nn.Module, discriminator: nn.Module, loader: Any, adapter: Adapter, stage: Stage) -> WarmStart:
    """Everything that happens on copies."""
    config, run = stage.config, stage.run
    if stage.saved is None:
        stage.checkpoints.remove()
    part = run.part_of(loader)
    # Casts of weights kept for the whole context would outlive the optimizers' steps: keep none.
    with torch.autocast(run.device.type, enabled=False, cache_enabled=False):
        G, D = (net.to(run.device) for net in copies(generator, discriminator))
        run.from_main([*tensors_of(G).values(), *tensors_of(D).values()])
        batches = Batches(part, run.device, loader_generators(loader))
        adapter, pair = known((generator, discriminator), G, D, batches, adapter, stage)
        run.check_first(batches.peek())
        came_out = witness(pair, batches.peek(), config.seed, run.device)
        step_seconds = adversarial_seconds(pair, batches.peek(), run.device, config.seed)
        state = begin(pair, batches, stage)
        before, began = state.history[-1].seconds if state.history else 0.0, time.perf_counter()
        stopped_by, distance = iterate(state, stage, step_seconds)
        share = state.plateau.among() if distance is not None and distance == state.plateau.last else None
        state.averaged.hand_over()
        told = _handed_over(bound(G, D, adapter), adapter, state, stage, distance)
        history, ended = state.history, time.perf_counter()
        summary = {
            "iterations": len(history),
            "seconds": before + ended - stage.began,
            "cost_in_steps": (before + ended - began) / step_seconds,  # imports and the look at the networks left out
            "stopped_by": stopped_by,
            "distance_first": next((row.distance for row in history if row.distance is not None), None),
            "distance_last": history[-1].distance if history else None,
            "distance_kept": distance,
            "among_data": share and share[0],
            "among_data_real": share and share[1],
            "displacement_last": history[-1].displacement if history else None,
            **told,
        }
        summary, history = run.gather_objects((summary, history) if run.is_main else None)[0]
        weights = [cpu_copy(state_of(a), state_of(b)) for a, b in ((G, generator), (D, discriminator))]
        return WarmStart(weights[0], weights[1], config, history, summary, *came_out())


def _handed_over(pair: Pair, adapter: Adapter, state: State, stage: Stage, distance: float | None) -> dict[str, Any]:
    """Make D fit for the adversarial loss that follows; what was done, for the summary."""
    config, run, batches = stage.config, stage.run, state.batches

    def draw() -> tuple[Any, Any, Any]:
        drawn = pair.draw(next(batches), run.device)
        check_finite(drawn[0], "Hand-over")
        return drawn

    still = _still(pair)
    before = (FEW - 1) // len(tree_leaves(pair.real(batches.peek()))[0])
    few = [*(draw() for _ in range(before)), pair.draw(batches.peek(), run.device)]  # the last one is not used up
    slowed = 0
    apart = {*pair.G.parameters()}.isdisjoint(pair.D.parameters())  # else the one would change with the other
    if config.handover != "none" and apart and config.most_iterations:
        x, z, batch = few[-1]
        with kept(randomness([])):
            z_again = pair.latent(len(tree_leaves(x)[0]), run.device, batch)
        penalised = bool(config.r1) or config.handover == "wasserstein"
        slowed = slowed_generator(still, z, z_again, state.sizes, distance, penalised)
        run.from_main([*tensors_of(pair.G).values(), *tensors_of(pair.D).values()])  # judged by own samples
    kind, loss = following_loss(config.handover, adapter)
    told, worries = hand_over(pair, still, few, draw, kind, loss, config.r1, state.settings.team)
    for worry in worries if run.is_main else ():
        logger.warning(worry)
    run.from_main([*tensors_of(pair.G).values(), *tensors_of(pair.D).values()])
    check_weights(pair.G, "G", config)
    check_weights(pair.D, "D", config)
    return {"layers_slowed": slowed, **told}


def _still(pair: Pair) -> Pair:
    """The pair, as functions that give the same for the same: random state and buffers are the same at every call."""
    modules = [*pair.G.modules(), *pair.D.modules()]
    own = [value for module in modules for value in vars(module).values() if isinstance(value, torch.Generator)]
    rewind = randomness(own)  # to this moment

    def still(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with kept(randomness(own), buffers(pair.G, pair.D)):
                rewind()
                return f(*given)

        return call

    return replace(pair, generate=still(pair.generate), logits=still(pair.logits))
