"""One cooperative iteration: Algorithm 1 of CoopNets, on the user's generator and discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.balance import BalancedStep
from coopinit_plugin.method.energy_mode import refresh_statistics, running_statistics
from coopinit_plugin.method.kept import frozen, kept
from coopinit_plugin.method.langevin import Draw, Score, gradient_rms, langevin
from coopinit_plugin.method.memory import LEVEL, Chains, Lag, Memory, drawn_back
from coopinit_plugin.method.pair import Pair, detached
from coopinit_plugin.method.statistics import Statistics
from coopinit_plugin.method.team import ALONE, Team

BEHIND = 0.1  # σ²; G takes one teaching step for each of these that it lies behind its chains
MOST = 4  # teaching steps in an iteration

Gradients = dict[Tensor, Tensor | None]


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
    lag: Lag = LEVEL,
) -> tuple[Any, Statistics]:
    """Run one iteration; G's and D's weights and the memory's chains change in place.

    Gives G(z), detached, and what the iteration is judged by, still on the device.
    """
    x, z, batch = real
    refresh_statistics(pair.D, lambda: pair.score(x, z, batch), team=settings.team)

    # 1. g = G(z) of pairs (z, x̃) of the memory; a chain that goes on is drawn back a little towards g
    chains = memory.take(Chains(z, (batch if settings.keeps_batch else None, pair.mask(x))), tree_leaves(x)[0].shape[0])
    g = pair.generate(chains.z)

    # 2. x̃_K: K Langevin steps uphill on f, D's parameters frozen; the chain goes back into the memory
    f = partial(_score_beside, pair, chains)
    with kept(frozen(pair.D)), cached():  # frozen weights are worked out once, not in every step
        refined, drift = _refined(
            f, g if chains.x is None else drawn_back(chains.x, g, lag), chains.beside[1], step, settings
        )
    memory.put(chains, refined)

    # 3. G by MCMC teaching: minimise ‖G(z) − x̃_K‖²/σ², with the graph of step 1
    teaching = teaching_loss(g, refined, settings.scale)
    for_g = _gradients(teaching, adam_g)

    # 4. D by maximum likelihood: minimise mean f(x̃_K) − mean f(x) + λ·(mean f(x)² + mean f(x̃_K)²)
    f_refined, weight = f(refined), settings.energy_l2
    for_d = _gradients(f_refined.mean() + weight * f_refined.square().mean(), adam_d)
    f_real = pair.score(x, z, batch)
    for_d = _sum(for_d, _gradients(weight * f_real.square().mean() - f_real.mean(), adam_d))

    # 5. Both step, on the mean gradient of all processes: one message for both
    _average(settings.team, for_g, for_d, pair)
    _step(adam_g, for_g)
    _step(adam_d, for_d)
    pair.after_d_step()

    # 6. A G that lies behind its chains is taught more, on random pairs (z, x̃): cheap, for D has no part in it
    _catch_up(pair, memory, settings, adam_g, lag.chains)
    return detached(g), Statistics.of(f_real, f_refined, teaching, drift)


def _catch_up(pair: Pair, memory: Memory, settings: Settings, adam_g: Optimizer, behind: float) -> None:
    for _ in range(min(MOST, ceil(behind / BEHIND)) - 1):
        chains = memory.some()
        for_g = _gradients(teaching_loss(pair.generate(chains.z), chains.x, settings.scale), adam_g)
        _average(settings.team, for_g, {}, pair)
        _step(adam_g, for_g)


def _refined(f: Score, start: Any, mask: Any, step: BalancedStep, settings: Settings) -> tuple[Any, Tensor | None]:
    if step.size is None:
        square = gradient_rms(f, start, settings.scale).square()
        settings.team.average([square])
        step.start(settings.noise, float(square.sqrt()))
    return langevin(
        f,
        start,
        steps=step.steps,
        drift=step.size or 0.0,
        noise=settings.noise,
        scale=settings.scale,
        cap=step.cap if step.size else None,
        mask=mask,
        draw=settings.draw,
    )


def _score_beside(pair: Pair, chains: Chains, samples: Any) -> Tensor:
    return pair.score(samples, chains.z, chains.beside[0])


def _average(team: Team, for_g: Gradients, for_d: Gradients, pair: Pair) -> None:
    """The mean of all processes, of the gradients and of G's running statistics, which are not looked for in one."""
    if team.count == 1:
        return
    for parameters in (for_g, for_d):  # a layer that one process's samples did not reach has none
        parameters.update({p: torch.zeros_like(p) for p, gradient in parameters.items() if gradient is None})
    gradients = [gradient for gradient in (*for_g.values(), *for_d.values()) if gradient is not None]
    team.average([*gradients, *running_statistics(pair.G)])


def _gradients(loss: Tensor, optimizer: Optimizer) -> Gradients:
    """The loss's gradient with respect to each parameter of the optimizer; G and D may share some."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return dict(zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def _sum(first: Gradients, second: Gradients) -> Gradients:
    """Of two backward passes, one after the other, so that the graph of one pass at a time is held."""
    both = {parameter: (first[parameter], second[parameter]) for parameter in first}
    return {parameter: b if a is None else a if b is None else a + b for parameter, (a, b) in both.items()}


def _step(optimizer: Optimizer, gradients: Gradients) -> None:
    for parameter, gradient in gradients.items():
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def teaching_loss(g: Any, refined: Any, scale: list[float]) -> Tensor:
    """Mean over all elements of ((g − x̃) / σ)², the refined samples held fixed."""
    parts = [
        torch.nn.functional.mse_loss(ours, target, reduction="sum") / sigma**2
        for ours, target, sigma in zip(tree_leaves(g), tree_leaves(refined), scale, strict=True)
    ]
    return torch.stack(parts).sum() / sum(leaf.numel() for leaf in tree_leaves(g))
