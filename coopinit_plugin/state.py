"""All that a warm-up on its way consists of, as one nest that can be stored, and put back bit for bit."""

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
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import Plateau
from coopinit_plugin.nests import move
from coopinit_plugin.result.step_report import StepReport


@dataclass
class Progress:
    """The moving parts of a warm-up.

    Attributes:
        pair: G and D.
        adam_g: G's optimizer.
        adam_d: D's.
        step: The chain's step size.
        settings: Of an iteration; among them σ of each tensor of a sample, as first measured.
        averaged: G's weights, averaged.
        plateau: The stop.
        sizes: Of D's layers at the start.
        batches: The data.
        generators: Random generators of the loader.
        identity: What a checkpoint has to agree with.
        best_on: Where the best moment's values are kept.
        history: One row an iteration.
        best: Values of the tensors at the best moment, or nothing.
    """

    pair: Pair
    adam_g: torch.optim.Optimizer
    adam_d: torch.optim.Optimizer
    step: BalancedStep
    settings: Settings
    averaged: AveragedGenerator
    plateau: Plateau
    sizes: list[float]
    batches: Batches
    generators: list[torch.Generator]
    identity: dict[str, Any]
    best_on: torch.device
    history: list[StepReport] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        """All that is handed over, the live tensors: D's, and of G the means in the place of what they are means of."""
        averaged = {id(tensor) for tensor in self.averaged.live}
        live = [tensor for net in (self.pair.G, self.pair.D) for tensor in tensors_of(net).values()]
        return [tensor for tensor in live if id(tensor) not in averaged] + self.averaged.tensors

    def remember(self) -> None:
        """Take this moment for the best."""
        self.best[:] = [tensor.detach().to(self.best_on, copy=True) for tensor in self.tensors]

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
            "buffers": [dict(net.named_buffers()) for net in (self.pair.G, self.pair.D)],
        }
        return {
            "identity": self.identity,
            "processes": run.gather_objects(own),
            "G": dict(self.pair.G.named_parameters()),
            "D": dict(self.pair.D.named_parameters()),
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "step": (self.step.size, self.step.number, self.step.pace),
            "averaged": self.averaged.tensors,
            "scale": self.settings.scale,
            "sizes": self.sizes,
            "history": [list(vars(row).values()) for row in self.history],
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any], run: Engine) -> None:
        """Go on from there; the random generators come last, for the data are drawn on the way."""
        own = state["processes"][run.index]
        for net, parameters, buffers in zip(
            (self.pair.G, self.pair.D), (state["G"], state["D"]), own["buffers"], strict=True
        ):
            put_back(net, {**parameters, **buffers})
        self.adam_g.load_state_dict(state["adam_g"])
        self.adam_d.load_state_dict(state["adam_d"])
        self.step.size, self.step.number, self.step.pace = state["step"]
        self.sizes[:] = state["sizes"]
        for tensor, value in zip(self.averaged.tensors, state["averaged"], strict=True):
            tensor.copy_(value)
        self.history[:] = [StepReport(*row) for row in state["history"]]
        self.best[:] = move(state["best"], self.best_on)
        self.plateau.load_state_dict(move(own["plateau"], run.device))
        self.batches.load_state_dict(own["batches"])
        set_random_state(own["randomness"], self.generators)
