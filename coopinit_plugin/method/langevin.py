"""The chain: short-run Langevin dynamics, uphill on the score."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

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

    Samples are a tensor ``(N, ...)`` or a nest of such. Gives x̃_K, detached, and, if there is a cap, how long the last
    drift would have been without it: the mean over samples of its RMS, in σ, a scalar on the device.
    """
    start, nest = tree_flatten(x)
    inputs = [leaf.detach().requires_grad_() for leaf in start]
    root = sum(leaf.numel() // len(leaf) for leaf in start) ** 0.5  # of a sample's elements: its norm over its RMS
    norms = None
    for _ in range(steps):
        gradients = input_gradient(score, inputs, nest)
        with torch.no_grad():
            moved = [
                draw(leaf, noise * sigma) if noise else leaf.detach().clone()
                for leaf, sigma in zip(inputs, scale, strict=True)
            ]
            norms = _drift(moved, gradients, drift, scale, None if cap is None else cap * root)
            if mask is not None:
                masked = zip(tree_leaves(mask), moved, inputs, strict=True)
                moved = [torch.where(free.bool(), new, old) for free, new, old in masked]
        inputs = [leaf.requires_grad_() for leaf in moved]
    wanted = None if norms is None else norms.mean() * (drift * scale[0] / root)
    return tree_unflatten([leaf.detach() for leaf in inputs], nest), wanted


def gradient_rms(score: Score, x: Any, scale: list[float]) -> Tensor:
    """RMS of σ·∇f(x) over all elements: what a drift of a = 1 would move a sample by, in σ."""
    start, nest = tree_flatten(x)
    gradients = input_gradient(score, [leaf.detach().requires_grad_() for leaf in start], nest)
    norms = torch.stack([g.float().norm() * sigma for g, sigma in zip(gradients, scale, strict=True)])
    return norms.norm() / sum(g.numel() for g in gradients) ** 0.5


def input_gradient(score: Score, inputs: list[Tensor], nest: Any) -> list[Tensor]:
    """∇f at `inputs`, each sample's own; 0 for a tensor that f does not look at."""
    f = score(tree_unflatten(inputs, nest))
    if not f.requires_grad:
        raise CoopInitError(
            "D's score has no gradient path to its input, which the chain follows (a .detach(), .data, numpy call or "
            "torch.no_grad() inside D's forward?). Take it out, or give the differentiable part of D yourself: "
            "adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D.features(x).mean(1))"
        )
    found = torch.autograd.grad(f, inputs, torch.ones_like(f), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _drift(
    x: list[Tensor], gradients: list[Tensor], drift: float, scale: list[float], limit: float | None
) -> Tensor | None:
    """Add a·σ²·∇f to x, at most `limit` σ a sample; gives ‖σ·∇f‖, in the first tensor's σ, if there is a limit."""
    if limit is None:
        for leaf, g, sigma in zip(x, gradients, scale, strict=True):
            leaf.add_(g, alpha=drift * sigma**2)
        return None
    lengths = [torch.linalg.vector_norm(g, dim=tuple(range(1, g.ndim))) for g in gradients]
    norms = lengths[0]
    if len(lengths) > 1:
        norms = torch.stack([n * (sigma / scale[0]) for n, sigma in zip(lengths, scale, strict=True)]).norm(dim=0)
    length = norms.clamp_min(limit / (drift * scale[0]))
    for leaf, g, sigma in zip(x, gradients, scale, strict=True):
        leaf.addcdiv_(g, length.view(-1, *[1] * (g.ndim - 1)), value=limit * sigma**2 / scale[0])
    return norms
