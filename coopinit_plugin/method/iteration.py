"""One cooperative iteration: Algorithm 1 of CoopNets, on the user's generator and discriminator."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.balance import BalancedStep, Statistics
from coopinit_plugin.method.energy_mode import refresh_statistics, running_statistics
from coopinit_plugin.method.kept import frozen, kept, write
from coopinit_plugin.method.langevin import Draw, Score, gradient_rms, langevin
from coopinit_plugin.method.memory import Chains, Memory, drawn_back
from coopinit_plugin.method.pair import ALONE, Pair, Team, detached

BEHIND = 0.1  # σ²; G takes one teaching step for each of these that it lies behind its chains
MOST = 4  # teaching steps in an iteration


@dataclass(frozen=True)
class Settings:
    """What stays the same from one iteration to the next."""

    noise: float  # ε of a step, in σ
    energy_l2: float  # weight λ of mean f² in D's loss
    scale: list[float]  # σ of each tensor of a sample
    draw: Draw = torch.normal  # the chain's noise
    team: Team = ALONE
    keeps_batch: bool = True  # whether D's score needs something of the batch beside x, to go along with a chain


def cooperate(
    pair: Pair,
    memory: Memory,
    real: tuple[Any, Any, Any],  # x, as many fresh latents z, and the loader's batch, which may carry conditions
    step: BalancedStep,  # started here, in the first iteration with a gradient
    settings: Settings,
    adam_g: Optimizer,
    adam_d: Optimizer,
    behind: float = 0.0,  # T: how far G was from its chains at the end of the last iteration, in σ²
    distance: float = 0.0,  # W: the newest one of G's samples to the data, in σ; 0 before the first reading
) -> tuple[Any, Statistics]:
    """Run one iteration; G's and D's weights and the memory's chains change in place.

    Gives G(z), detached, and what the iteration is judged by, still on the device.
    """
    x, z, batch = real
    refresh_statistics(pair.D, lambda: pair.score(x, z, batch), team=settings.team)

    # 1. g = G(z) of pairs (z, x̃) of the memory; a chain that goes on is drawn back a little towards g
    fresh = Chains(z, batch if settings.keeps_batch else None, pair.mask(x))
    chains = memory.take(fresh, len(tree_leaves(x)[0]))
    g = pair.generate(chains.z)
    start = g if chains.x is None else drawn_back(chains.x, g, behind, distance)

    # 2. x̃_K: K Langevin steps uphill on f, D's parameters frozen; the chain goes back into the memory
    def f(samples: Any) -> Tensor:
        return pair.score(samples, chains.z, chains.batch)

    with kept(frozen(pair.D)), cached():  # frozen weights are worked out once, not in every step
        refined, drift = _refined(f, start, chains.mask, step, settings)
    memory.put(chains, refined)

    # 3. G by MCMC teaching: minimise ‖G(z) − x̃_K‖²/σ², with the graph of step 1
    teaching = teaching_loss(g, refined, settings.scale)
    _descend(teaching, adam_g, settings.team, pair.G)

    # 4. D by maximum likelihood: minimise mean f(x̃_K) − mean f(x) + λ·(mean f(x)² + mean f(x̃_K)²)
    f_refined, weight = f(refined), settings.energy_l2
    _backward(f_refined.mean() + weight * f_refined.square().mean(), adam_d)  # at once: one graph of D at a time
    f_real = pair.score(x, z, batch)
    _descend(weight * f_real.square().mean() - f_real.mean(), adam_d, settings.team)
    pair.after_d_step()

    # 5. A G that lies behind its chains is taught more, on random pairs (z, x̃): cheap, for D has no part in it
    for _ in range(min(MOST, ceil(behind / BEHIND)) - 1):
        others = memory.some()
        loss = teaching_loss(pair.generate(others.z), others.x, settings.scale)
        _descend(loss, adam_g, settings.team, pair.G)
    return detached(g), Statistics.of(f_real, f_refined, teaching, drift)


def teaching_loss(g: Any, refined: Any, scale: list[float]) -> Tensor:
    """Mean over all elements of ((g − x̃) / σ)², the refined samples held fixed."""
    parts = [
        torch.nn.functional.mse_loss(ours, target, reduction="sum") / sigma**2
        for ours, target, sigma in zip(tree_leaves(g), tree_leaves(refined), scale, strict=True)
    ]
    return torch.stack(parts).sum() / sum(leaf.numel() for leaf in tree_leaves(g))


def _refined(f: Score, start: Any, mask: Any, step: BalancedStep, settings: Settings) -> tuple[Any, Tensor | None]:
    scale, noise = settings.scale, settings.noise
    if step.size is None:
        square = gradient_rms(f, start, scale).square()
        settings.team.average([square])
        step.start(noise, float(square.sqrt()))
    size, cap = (step.size, step.cap) if step.size else (0.0, None)
    return langevin(
        f, start, steps=step.steps, drift=size, noise=noise, scale=scale, cap=cap, mask=mask, draw=settings.draw
    )


def _backward(loss: Tensor, optimizer: Optimizer) -> list[Tensor]:
    """Add to the gradients of the optimizer's parameters, and of these alone: G's graph may reach D. Gives them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.autograd.backward(loss, inputs=parameters)
    return parameters


def _descend(loss: Tensor, optimizer: Optimizer, team: Team, network: nn.Module | None = None) -> None:
    """Step on the mean gradient of all processes, which share the running statistics of a network, too."""
    parameters = _backward(loss, optimizer)
    if team.count > 1:
        for parameter in parameters:
            if parameter.grad is None:  # of a layer that this process's samples did not reach
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        team.average([*gradients, *(running_statistics(network) if network is not None else [])])
    optimizer.step()
    optimizer.zero_grad()


class AveragedGenerator:
    """The running mean of G's weights, of which each iteration keeps `decay`, and of its running statistics.

    Other buffers, and layers that G shares with D, are left alone. With a decay of 0 there is no mean.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, decay: float) -> None:
        shared = {*discriminator.parameters()}
        trained = [p for p in generator.parameters() if p.requires_grad and p not in shared]
        self._decay = decay
        self.live: list[Tensor] = [*trained, *running_statistics(generator)] if decay > 0 else []  # G's own
        self.tensors = [tensor.detach().clone() for tensor in self.live]  # their means

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take what an iteration, counted from 1, has made of G."""
        if self.tensors:
            torch._foreach_lerp_(self.tensors, self.live, max(1 - self._decay, 1 / iteration))  # evenly at first

    def hand_over(self) -> None:
        """Write the mean into G."""
        write(self.live, self.tensors)
