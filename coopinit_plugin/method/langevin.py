"""The chain: short-run Langevin dynamics, uphill on the score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from coopinit_plugin.errors import CoopInitError

Score = Callable[[Any], Tensor]  # f, from samples to one logit each; higher is more real
Draw = Callable[[Tensor, float], Tensor]  # (mean, std) -> sample


def langevin(
    score: Score,
    x: Any,
    *,
    steps: int,  # K
    drift: float,  # a, in units in which the data have standard deviation 1
    noise: float,  # ε, in σ
    scale: list[float],  # σ of each tensor in x
    cap: float | None = None,  # the longest drift of a sample in one step, as its RMS over the sample's elements, in σ
    mask: Any = None,  # of the shape of x (or broadcast to it), 1 where a sample may move
    draw: Draw = torch.normal,
) -> tuple[Any, Tensor | None]:
    """Refine samples by K Langevin steps, x ← x + a·σ²·∇f(x) + ε·σ·N(0, I).

    The textbook form has a = δ²/2 and ε = δ; short-run practice needs two independent knobs (Nijkamp et al. 2019).

    Samples are a tensor ``(N, ...)`` or a nest of such. They are not changed, and no gradient flows back through the
    chain; the parameters of the score f should be frozen. Gives the refined samples x̃_K, detached, in the container of
    `x`; and, if there is a cap, how long the last drift would have been without it: the mean over samples of its RMS,
    in σ, a scalar on the device.
    """
    start, nest = tree_flatten(x)
    inputs = [leaf.detach().requires_grad_() for leaf in start]
    masks = tree_flatten(mask)[0] if mask is not None else None
    ones = norms = None
    for _ in range(steps):
        gradients, ones = input_gradient(score, inputs, nest, ones)
        with torch.no_grad():
            moved = [
                draw(leaf, noise * sigma) if noise else leaf.detach().clone()
                for leaf, sigma in zip(inputs, scale, strict=True)
            ]
            norms = _drift(moved, gradients, drift, scale, cap)
            if masks is not None:
                moved = [
                    torch.where(free.bool(), new, old) for free, new, old in zip(masks, moved, inputs, strict=True)
                ]
        inputs = [leaf.requires_grad_() for leaf in moved]
    wanted = None if norms is None else norms.mean() * (drift * scale[0] / _elements(inputs) ** 0.5)
    return tree_unflatten([leaf.detach() for leaf in inputs], nest), wanted


def gradient_rms(score: Score, x: Any, scale: list[float]) -> Tensor:
    """RMS of σ·∇f(x) over all elements: what a drift of a = 1 would move a sample by, in σ."""
    start, nest = tree_flatten(x)
    gradients, _ = input_gradient(score, [leaf.detach().requires_grad_() for leaf in start], nest)
    norms = torch.stack([g.float().norm() * sigma for g, sigma in zip(gradients, scale, strict=True)])
    return norms.norm() / sum(g.numel() for g in gradients) ** 0.5


def input_gradient(
    score: Score, inputs: list[Tensor], nest: Any, ones: Tensor | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """∇f at `inputs`, each sample's own, and the vector of ones that summed f (to be used again)."""
    f = score(tree_unflatten(inputs, nest))
    if not f.requires_grad:
        raise CoopInitError(
            "D's score has no gradient path to its input: the output of D does not depend on x through differentiable "
            "operations (a .detach(), .data, numpy call or torch.no_grad() inside D's forward?). The chain needs the "
            "gradient of D with respect to x. Take it out, or give the differentiable part of D yourself: "
            "adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D.features(x).mean(1))"
        )
    if ones is None or ones.shape != f.shape:
        ones = torch.ones_like(f)
    found = torch.autograd.grad(f, inputs, ones, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)), ones


def _drift(
    x: list[Tensor], gradients: tuple[Tensor, ...], drift: float, scale: list[float], cap: float | None
) -> Tensor | None:
    """Add a·σ²·∇f to x in place, each sample's move held to an RMS of `cap` σ: one clamp of a norm, one division.

    Gives the norms, if there is a cap.
    """
    if cap is None:
        for leaf, g, sigma in zip(x, gradients, scale, strict=True):
            leaf.add_(g, alpha=drift * sigma**2)
        return None
    limit = cap * _elements(gradients) ** 0.5
    norms = _length(gradients, scale)
    length = norms.clamp_min(limit / (drift * scale[0]))
    for leaf, g, sigma in zip(x, gradients, scale, strict=True):
        per_sample = length if g.ndim == length.ndim else length.view(-1, *[1] * (g.ndim - 1))
        leaf.addcdiv_(g, per_sample, value=limit * sigma**2 / scale[0])
    return norms


def _elements(samples: Sequence[Tensor]) -> int:
    """Numbers in one sample."""
    return sum(leaf.numel() // len(leaf) for leaf in samples)


def _length(gradients: tuple[Tensor, ...], scale: list[float]) -> Tensor:
    """‖σ·∇f‖ of each sample over all tensors of the nest, in units of the first tensor's σ; keeps that one's shape."""
    first = gradients[0]
    if len(gradients) == 1:
        return torch.linalg.vector_norm(first, dim=tuple(range(1, first.ndim)), keepdim=True)
    parts = [g.flatten(1).norm(dim=1) * (sigma / scale[0]) for g, sigma in zip(gradients, scale, strict=True)]
    return torch.stack(parts).norm(dim=0)
