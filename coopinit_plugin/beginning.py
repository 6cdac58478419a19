"""Before the first iteration: how the networks are called, and all that moves, made ready."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, bound
from coopinit_plugin.calling.data import spread
from coopinit_plugin.calling.scores import needs_batch
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import check_same, identity
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.host.randomness import seed_all
from coopinit_plugin.host.untouched import prove, seen, untouched
from coopinit_plugin.loop import Stage
from coopinit_plugin.method.averaging import AveragedGenerator
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.method.energy_mode import likelihood_mode, settle
from coopinit_plugin.method.iteration import Settings
from coopinit_plugin.method.layer_sizes import layer_sizes
from coopinit_plugin.method.memory import PAIRS, PLACES, Chains, Memory
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import Plateau
from coopinit_plugin.method.team import Team
from coopinit_plugin.state import State

logger = logging.getLogger(__name__)


def known(
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


def begin(pair: Pair, batches: Batches, generators: list[torch.Generator], stage: Stage) -> State:
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
    scale = saved["scale"] if saved is not None else spread(pair.real, batches.ahead(), team)
    if keeps_batch := needs_batch(lambda batch: pair.score(x, z, batch)):
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


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
