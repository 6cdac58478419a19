"""Everything that moves in a warm-up, once: made ready, and what a checkpoint holds, and puts back bit for bit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, bound, following_loss
from coopinit_plugin.calling.data import spread
from coopinit_plugin.calling.scores import needs_batch
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity, put_back
from coopinit_plugin.host.copies import prove, seen, trained
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.host.networks import few, tensors_of
from coopinit_plugin.host.randomness import random_state, seed_all, set_random_state
from coopinit_plugin.method.averaging import AveragedGenerator
from coopinit_plugin.method.balance import BalancedStep, step_size
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.method.energy_mode import likelihood_mode, settle
from coopinit_plugin.method.iteration import Settings
from coopinit_plugin.method.memory import PAIRS, PLACES, Chains, Memory
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.slower_generator import layer_sizes
from coopinit_plugin.method.stopping import Plateau
from coopinit_plugin.method.team import Team
from coopinit_plugin.nests import move
from coopinit_plugin.result.step_report import StepReport

logger = logging.getLogger(__name__)

UNKNOWN = (
    "Which adversarial loss follows is not known, so D's logits will get standard deviation 1, which suits none best. "
    'Say it by one word, warm_start(G, D, loader, handover="logistic") (or "hinge", "least_squares", "wasserstein", '
    '"relativistic"), or give yours, adapter=Adapter(d_loss=lambda f_real, f_fake: ...).'
)


@dataclass(frozen=True)
class Stage:
    """What the call asks for, and where it runs."""

    config: WarmStartConfig
    run: Engine
    checkpoints: Checkpoints
    saved: dict[str, Any] | None  # the checkpoint to go on from
    callback: Callable[[StepReport], bool | None] | None
    progress: bool  # whether a bar is shown
    began: float = field(default_factory=time.perf_counter)


@dataclass
class State:
    """The moving parts of a warm-up."""

    pair: Pair
    memory: Memory
    adam_g: torch.optim.Optimizer
    adam_d: torch.optim.Optimizer
    step: BalancedStep
    settings: Settings
    averaged: AveragedGenerator
    plateau: Plateau
    sizes: list[float]  # largest singular values of G's layers before the first iteration
    batches: Batches
    identity: dict[str, Any]  # what has to be the same for a checkpoint to be gone on from
    history: list[StepReport] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)  # values of `tensors` at the smallest distance so far

    @property
    def tensors(self) -> list[Tensor]:
        """The live tensors that are handed over: all of D's, and of G the running means if there are some."""
        averaged = {id(tensor) for tensor in self.averaged.live}
        live = [tensor for net in (self.pair.G, self.pair.D) for tensor in tensors_of(net).values()]
        return [tensor for tensor in live if id(tensor) not in averaged] + self.averaged.tensors

    def remember(self) -> None:
        """Take this moment for the best."""
        self.best[:] = [tensor.detach().clone() for tensor in self.tensors]

    def go_back(self) -> None:
        """Return to the best moment."""
        put_back(self.tensors, self.best)

    def state_dict(self, run: Engine) -> dict[str, Any]:
        """Everything, of all processes; every process has to ask for it."""
        own = {name: getattr(self, name).state_dict() for name in ("batches", "plateau", "memory")}
        own["randomness"] = random_state(self.batches.generators)
        own["buffers"] = [dict(net.named_buffers()) for net in (self.pair.G, self.pair.D)]
        return {
            "identity": self.identity,
            "processes": run.gather_objects(own),
            "G": dict(self.pair.G.named_parameters()),
            "D": dict(self.pair.D.named_parameters()),
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "step": (self.step.size, self.step.pace),
            "averaged": self.averaged.tensors,
            "scale": self.settings.scale,
            "sizes": self.sizes,
            "history": [list(vars(row).values()) for row in self.history],
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any], like: Chains, run: Engine) -> None:
        """Go on from there, `like` being chains of the same form; the generators come last, for data are drawn."""
        own = state["processes"][run.index]
        for net, name, buffers in zip((self.pair.G, self.pair.D), "GD", own["buffers"], strict=True):
            saved = {**state[name], **buffers}
            put_back(tensors_of(net).values(), [saved[key] for key in tensors_of(net)])
        self.adam_g.load_state_dict(state["adam_g"])
        self.adam_d.load_state_dict(state["adam_d"])
        self.step.size, self.step.pace = state["step"]
        self.sizes = state["sizes"]
        put_back(self.averaged.tensors, state["averaged"])
        self.history[:] = [StepReport(*row) for row in state["history"]]
        self.best[:] = move(state["best"], run.device)
        self.plateau.load_state_dict(move(own["plateau"], run.device))
        self.memory.load_state_dict(own["memory"], like)
        self.batches.load_state_dict(own["batches"])
        set_random_state(own["randomness"], self.batches.generators)


def known(
    users: tuple[nn.Module, nn.Module], G: nn.Module, D: nn.Module, batches: Batches, given: Adapter, stage: Stage
) -> tuple[Adapter, Pair]:
    """How G and D, copies of the user's, are called; and proof that they can be warmed up so."""
    run, told = stage.run, stage.config.handover
    adapter = seen(users, G, D, batches.peek(), given, told not in ("auto", "none"))
    pair = bound(G, D, adapter, run.accelerator.autocast)
    unreached = prove(users, pair, batches.peek(), run.device)
    logger.info("How G and D are called:\n%s", adapter)
    warnings = [*adapter.warnings, UNKNOWN] if following_loss(told, adapter)[0] == "unit" else [*adapter.warnings]
    if unreached:
        warnings.append(f"No gradient reaches D's {few(unreached)}: left as they are. Is that so in your loop, too?")
    for warning in warnings if run.is_main else ():
        logger.warning(warning)
    return adapter, pair


def begin(pair: Pair, batches: Batches, stage: Stage) -> State:
    """All that moves, made ready: at the start, or where the checkpoint left it."""
    config, run, saved = stage.config, stage.run, stage.saved
    pair.G.train()
    likelihood_mode(pair.D)
    adam_g = torch.optim.Adam(trained(pair.G), lr=config.lr_generator, betas=config.betas)
    adam_d = torch.optim.Adam(trained(pair.D), lr=config.lr_discriminator, betas=config.betas)
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
    keeps_batch = needs_batch(lambda batch: pair.score(x, z, batch))
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
        sizes=layer_sizes(pair.G),
        batches=batches,
        identity=same,
    )
    if saved is not None:
        state.load_state_dict(saved, Chains(z, (batch if keeps_batch else None, pair.mask(x)), x), run)
    elif run.any(stage.checkpoints.due)[0]:
        stage.checkpoints.write(state.state_dict(run))
    return state
