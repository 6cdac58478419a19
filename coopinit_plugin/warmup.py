"""The cooperative warm-up: look, borrow, iterate until the stop, hand over, give back."""

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

from coopinit_plugin.calling.adapter import Adapter, bound, following_loss
from coopinit_plugin.calling.data import check_finite
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.first_look import adversarial_seconds, check_loader, known, settings
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity
from coopinit_plugin.host.copies import checked, copies, deep_copy, trained
from coopinit_plugin.host.engine import engine
from coopinit_plugin.host.networks import averages, cpu_copy, device_of, give_back, state_of, tensors_of
from coopinit_plugin.host.randomness import borrowed_randomness, loader_generators, randomness
from coopinit_plugin.loop import Stage, State, diverged, iterate
from coopinit_plugin.method.distance import among
from coopinit_plugin.method.ensemble import Ensemble, energies_of
from coopinit_plugin.method.hand_over import hand_over
from coopinit_plugin.method.kept import buffers, kept
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.slower_generator import slowed_generator
from coopinit_plugin.result.provenance import witness
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.warm_start import CONFIG, WarmStart
from coopinit_plugin.result.words import tell

logger = logging.getLogger(__name__)

FAST_G = (
    "G keeps its speed, for none of its layers could be made larger without changing its samples, as those before a "
    "normalisation can: your loop may take back what the warm-up gave. Divide G's learning rate there by 16, or add an "
    "R1 penalty and tell it, WarmStartConfig(r1=...)."
)
PROBES = 8  # samples at least: the logits of fewer are alike, or changed alike, by chance


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
    config = settings(config, handover, adapter, output_dir, resume, callback)
    check_loader(loader)
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
            shown = progress and run.is_main and sys.stderr is not None  # None under pythonw and in Windows' services
            stage = Stage(config, run, checkpoints, callback if run.is_main else None, shown)
            result = _warm_up(generator, discriminator, loader, adapter or Adapter(), stage, begun)
            if output_dir is not None and run.is_main:
                with checkpoints.writing():
                    result.save_pretrained(output_dir)
                checkpoints.remove()
    own = ("generator", generator, result.generator_state), ("discriminator", discriminator, result.discriminator_state)
    give_back([*own, *((f"ema[{i}]", module, result.generator_state) for i, module in enumerate(averaged))])
    if run.is_main:
        tell(result.summary, progress)
    return result


def _warm_up(
    generator: nn.Module, discriminator: nn.Module, loader: Any, adapter: Adapter, stage: Stage, begun: bool
) -> WarmStart:
    """Everything that happens on copies; if it has `begun` before, it goes on from its checkpoint."""
    config, run = stage.config, stage.run
    if not begun:
        stage.checkpoints.remove()
    # Casts of weights kept for the whole context would outlive the optimizers' steps: keep none.
    with torch.autocast(run.device.type, enabled=False, cache_enabled=False):
        G, D = (net.to(run.device) for net in copies(generator, discriminator))
        run.from_main([*tensors_of(G).values(), *tensors_of(D).values()])
        energies = energies_of(G, D, deep_copy, config.seed)  # before a pass leaves in D what cannot be copied
        batches = Batches(run.part_of(loader), run.device, loader_generators(loader))
        adapter, pair = known((generator, discriminator), (G, D), batches, adapter, config.handover, run)
        run.check_first(batches.peek(), config)
        came_out = witness(pair, batches.peek(), config.seed, run.device)
        step_seconds = adversarial_seconds(pair, batches.peek(), run.device, config.seed)
        members = [bound(G, energy, adapter, run.accelerator.autocast) for energy in energies]
        state = State(Ensemble(members), batches, stage, stage.checkpoints.read() if begun else None)
        stopped_by = iterate(state, step_seconds)
        distance = state.plateau.last if stopped_by == "callback" else state.return_to_best()
        share = among(*state.plateau.newest()) if distance is not None and distance == state.plateau.last else None
        state.averaged.hand_over()
        told = _handed_over(bound(G, D, adapter), adapter, state, distance)
        seconds = time.perf_counter() - state.since
        readings = state.plateau.readings
        summary = {
            "iterations": len(state.history),
            "seconds": seconds,  # of the iterations and the hand-over, without imports and the look at the networks
            "cost_in_steps": seconds / step_seconds,
            "stopped_by": stopped_by,
            "distance_first": readings[0] if readings else None,
            "distance_last": state.plateau.last,
            "distance_kept": distance,
            "energies": len(members) if state.ensemble.called else 1,
            "among_data": share and share[0],
            "among_data_real": share and share[1],
            **told,
        }
        summary, history = run.gather_objects((summary, state.history) if run.is_main else None)[0]
        weights = [cpu_copy(state_of(ours), state_of(users)) for ours, users in ((G, generator), (D, discriminator))]
        return WarmStart(weights[0], weights[1], config, history, summary, *came_out())


def _handed_over(pair: Pair, adapter: Adapter, state: State, distance: float | None) -> dict[str, Any]:
    """Make D fit for the adversarial loss that follows; what was done, for the summary."""
    config, run, batches = state.stage.config, state.stage.run, state.batches

    def draw() -> tuple[Any, Any, Any]:
        drawn = pair.draw(next(batches), run.device)
        check_finite(drawn[0], "Hand-over")
        return drawn

    still = _still(pair)
    size = len(tree_leaves(pair.real(batches.peek()))[0])
    more = [draw() for _ in range((PROBES - 1) // size)]
    probes = [*more, pair.draw(batches.peek(), run.device)]  # the last stays unused
    _, z, batch = probes[-1]
    slowed, penalised = None, bool(config.r1) or config.handover == "wasserstein"
    apart = {*pair.G.parameters()}.isdisjoint(pair.D.parameters())  # else the one would change with the other
    if config.handover != "none" and apart and config.most_iterations:
        with kept(randomness([])):
            z_again = pair.latent(size, run.device, batch)
        slowed = slowed_generator(still, z, z_again, state.sizes, distance, penalised)
    kind, loss = following_loss(config.handover, adapter)
    told, worries = hand_over(pair, still, probes, draw, kind, loss, config.r1, state.settings.team)
    if slowed == 0 and not penalised:
        worries.append(FAST_G)
    for worry in worries if run.is_main else ():
        logger.warning(worry)
    run.from_main([*tensors_of(pair.G).values(), *tensors_of(pair.D).values()])  # each has judged by its own samples
    if not all(parameter.isfinite().all() for parameter in (*trained(pair.G), *trained(pair.D))):
        raise diverged("The warm-up left weights that are not finite: its last gradient was not.", config)
    return {"layers_slowed": slowed or 0, **told}


def _still(pair: Pair) -> Pair:
    """The pair, as functions that give the same for the same: random state and buffers are the same at every call."""
    held = [value for net in (pair.G, pair.D) for module in net.modules() for value in vars(module).values()]
    own = [value for value in held if isinstance(value, torch.Generator)]
    rewind = randomness(own)  # to this moment

    def still(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with kept(randomness(own), buffers(pair.G, pair.D)):
                rewind()
                return f(*given)

        return call

    return replace(pair, generate=still(pair.generate), logits=still(pair.logits))
