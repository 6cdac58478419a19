"""One cooperative iteration: Algorithm 1 of CoopNets, on the user's generator and discriminator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.balance import BalancedStep
from coopinit_plugin.method.energy_mode import refresh_statistics, running_statistics
from coopinit_plugin.method.kept import frozen, kept
from coopinit_plugin.method.langevin import Draw, gradient_rms, langevin
from coopinit_plugin.method.pair import Pair, detached

Average = Callable[[list[Tensor]], None]


@dataclass(frozen=True)
class Settings:
    """What stays the same from one iteration to the next.

    Attributes:
        noise: Noise ε of a step, in σ.
        energy_l2: Weight λ of mean f² in D's loss.
        scale: σ of each tensor of a sample.
        draw: Source of the chain's noise, ``(mean, std) -> sample``.
        backward: Runs a loss backwards.
        average: Where several processes share the work: the mean of tensors over all of them, in place.
    """

    noise: float
    energy_l2: float
    scale: list[float]
    draw: Draw = torch.normal
    backward: Callable[[Tensor], None] = Tensor.backward
    average: Average | None = None


@dataclass(frozen=True)
class Outcome:
    """What one iteration leaves behind, still on the device.

    Attributes:
        fake: G(z), detached.
        statistics: Mean f(x), variance of f(x), mean f(x̃), variance of f(x̃), mean squared displacement in σ², the
            length of drift that `step` asked for in σ (0 where it has no cap).
    """

    fake: Any
    statistics: Tensor


def cooperate(
    pair: Pair, x: Any, z: Any, batch: Any, step: BalancedStep, settings: Settings, adam_g: Optimizer, adam_d: Optimizer
) -> Outcome:
    """Run one iteration; G's and D's weights change in place.

    Args:
        pair: G and D with their adapter.
        x: Real samples.
        z: Latents, as many as there are samples in `x`.
        batch: The loader's batch that `x` was taken from (it may carry conditions).
        step: The chain's step size and number of steps; started here where it has not been.
        settings: What stays the same.
        adam_g: G's optimizer.
        adam_d: D's optimizer.
    """
    refresh_statistics(pair.D, lambda: pair.score(x, z, batch), average=settings.average)

    # 1. g = G(z); the chain begins at x̃₀ = g
    g = pair.generate(z)

    # 2. x̃_K: K Langevin steps uphill on f, D's parameters frozen
    def f(samples: Any) -> Tensor:
        return pair.score(samples, z, batch)

    with kept(frozen(pair.D)), cached():  # frozen weights are worked out once, not in every step
        if step.size is None:
            square = gradient_rms(f, g, settings.scale).square()
            if settings.average is not None:
                settings.average([square])
            step.start(settings.noise, float(square.sqrt()))
        refined, wanted = langevin(
            f,
            g,
            steps=step.steps,
            drift=step.size or 0.0,
            noise=settings.noise,
            scale=settings.scale,
            cap=step.longest if step.size else None,
            mask=pair.mask(x),
            draw=settings.draw,
        )

    # 3. G by MCMC teaching: minimise ‖G(z) − x̃_K‖²/σ², with the graph of step 1
    teaching = teaching_loss(g, refined, settings.scale)
    settings.backward(teaching)
    for_g = _taken_gradients(adam_g)
    _taken_gradients(adam_d)  # of a G that calls D: no part of D's own

    # 4. D by maximum likelihood: minimise mean f(x̃_K) − mean f(x) + λ·(mean f(x)² + mean f(x̃_K)²)
    f_refined = pair.score(refined, z, batch)
    settings.backward(f_refined.mean() + settings.energy_l2 * f_refined.square().mean())
    f_real = pair.score(x, z, batch)
    settings.backward(settings.energy_l2 * f_real.square().mean() - f_real.mean())
    for_d = _taken_gradients(adam_d)

    # 5. Both step, on the mean gradient of all processes: one message for both
    if settings.average is not None:
        for parameters in (for_g, for_d):  # a layer that one process's samples did not reach
            parameters.update({p: torch.zeros_like(p) for p, gradient in parameters.items() if gradient is None})
        gradients = [gradient for gradient in (*for_g.values(), *for_d.values()) if gradient is not None]
        settings.average([*gradients, *running_statistics(pair.G)])
    _step(adam_g, for_g)
    _step(adam_d, for_d)
    pair.after_d_step()

    real_variance, real_mean = torch.var_mean(f_real.detach(), correction=0)
    refined_variance, refined_mean = torch.var_mean(f_refined.detach(), correction=0)
    found = [real_mean, real_variance, refined_mean, refined_variance, teaching.detach()]
    found.append(wanted if wanted is not None else torch.zeros_like(real_mean))
    return Outcome(detached(g), torch.stack([value.float() for value in found]))


def _taken_gradients(optimizer: Optimizer) -> dict[Tensor, Tensor | None]:
    """Each parameter's gradient, taken off it: G and D may share layers."""
    found = {parameter: parameter.grad for group in optimizer.param_groups for parameter in group["params"]}
    _put(dict.fromkeys(found))
    return found


def _step(optimizer: Optimizer, gradients: dict[Tensor, Tensor | None]) -> None:
    _put(gradients)
    optimizer.step()
    _put(dict.fromkeys(gradients))  # so that the next chain has their memory


def _put(gradients: dict[Tensor, Tensor | None]) -> None:
    for parameter, gradient in gradients.items():
        parameter.grad = gradient


def teaching_loss(g: Any, refined: Any, scale: list[float]) -> Tensor:
    """Mean over all elements of ((g − x̃) / σ)², the refined samples held fixed."""
    parts = [
        torch.nn.functional.mse_loss(ours, target, reduction="sum") / sigma**2
        for ours, target, sigma in zip(tree_leaves(g), tree_leaves(refined), scale, strict=True)
    ]
    return torch.stack(parts).sum() / sum(leaf.numel() for leaf in tree_leaves(g))
