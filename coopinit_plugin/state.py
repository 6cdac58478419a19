"""Everything that moves in a warm-up, once: what a checkpoint holds, and puts back bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import put_back, tensors_of
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.host.randomness import random_state, set_random_state
from coopinit_plugin.method.averaging import AveragedGenerator
from coopinit_plugin.method.balance import BalancedStep
from coopinit_plugin.method.iteration import Settings
from coopinit_plugin.method.memory import Chains, Memory
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import Plateau
from coopinit_plugin.nests import move
from coopinit_plugin.result.step_report import StepReport


@dataclass
class State:
    """The moving parts of a warm-up.

    Attributes:
        pair: G and D.
        memory: The chains that go on.
        adam_g: G's optimizer.
        adam_d: D's optimizer.
        step: The chain's step size and number of steps.
        settings: What stays the same in all iterations.
        averaged: The running mean of G's weights.
        plateau: The readings of the distance, by which the warm-up stops.
        sizes: Largest singular values of G's and of D's layers before the first iteration.
        batches: The data.
        generators: Random generators that the loader owns.
        identity: What has to be the same for a checkpoint to be gone on from.
        history: One row an iteration.
        best: Values of `tensors` at the smallest distance so far; empty before there is one.
    """

    pair: Pair
    memory: Memory
    adam_g: torch.optim.Optimizer
    adam_d: torch.optim.Optimizer
    step: BalancedStep
    settings: Settings
    averaged: AveragedGenerator
    plateau: Plateau
    sizes: dict[str, list[float]]
    batches: Batches
    generators: list[torch.Generator]
    identity: dict[str, Any]
    history: list[StepReport] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """The live tensors that are handed over: all of D's, and of G the running means if there are some."""
        averaged = {id(tensor) for tensor in self.averaged.live}
        live = [tensor for net in (self.pair.G, self.pair.D) for tensor in tensors_of(net).values()]
        return [tensor for tensor in live if id(tensor) not in averaged] + self.averaged.tensors

    def remember(self) -> None:
        """Take this moment for the best."""
        self.best[:] = [tensor.detach().clone() for tensor in self.tensors]

    @torch.no_grad()
    def go_back(self) -> None:
        """Return to the best moment."""
        for tensor, value in zip(self.tensors, self.best, strict=True):
            tensor.copy_(value)

    def state_dict(self, run: Engine) -> dict[str, Any]:
        """Everything, of all processes; every process has to ask for it."""
        own = {
            "randomness": random_state(self.generators),
            "batches": self.batches.state_dict(),
            "plateau": self.plateau.state_dict(),
            "memory": self.memory.state_dict(),
            "buffers": [dict(net.named_buffers()) for net in (self.pair.G, self.pair.D)],
        }
        return {
            "identity": self.identity,
            "processes": run.gather_objects(own),
            "G": dict(self.pair.G.named_parameters()),
            "D": dict(self.pair.D.named_parameters()),
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "step": self.step.state,
            "averaged": self.averaged.tensors,
            "scale": self.settings.scale,
            "sizes": self.sizes,
            "history": [list(vars(row).values()) for row in self.history],
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any], like: Chains, run: Engine) -> None:
        """Go on from there. The random generators come last, for data are drawn on the way.

        Args:
            state: What :meth:`state_dict` gave.
            like: Chains of the form that those in the memory have.
            run: The engine.
        """
        own = state["processes"][run.index]
        for net, parameters, buffers in zip(
            (self.pair.G, self.pair.D), (state["G"], state["D"]), own["buffers"], strict=True
        ):
            put_back(net, {**parameters, **buffers})
        self.adam_g.load_state_dict(state["adam_g"])
        self.adam_d.load_state_dict(state["adam_d"])
        self.step.state = state["step"]
        self.sizes = state["sizes"]
        for tensor, value in zip(self.averaged.tensors, state["averaged"], strict=True):
            tensor.copy_(value)
        self.history[:] = [StepReport(*row) for row in state["history"]]
        self.best[:] = move(state["best"], run.device)
        self.plateau.load_state_dict(move(own["plateau"], run.device))
        self.memory.load_state_dict(own["memory"], like)
        self.batches.load_state_dict(own["batches"])
        set_random_state(own["randomness"], self.generators)
