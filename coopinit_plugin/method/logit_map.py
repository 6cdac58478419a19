"""The map of D's logits, one scale and one shift, that makes them fit for the adversarial loss that follows.

The likelihood fixes neither offset nor scale of f: after the warm-up D tells real from generated, but with logits so
small that the first adversarial steps rewrite it. So the user's own D loss is minimised over the two numbers of an
affine map f → s·(f + b), on up to a thousand real and generated samples; no other weight of D moves.

Where the loss asks for ever larger logits, as it does of a D that tells all real samples from all generated ones, their
means stop 8 apart: at ±4 D is sure by 98 %. The larger they are, the farther one step of the adversarial Adam moves
them, and the farther the first hundred steps throw G back: to 361 to 697 modes of about 970 with means up to 40 apart,
to 679 to 811 with 8 (examples/study/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

Loss = Callable[[Tensor, Tensor], Tensor]  # D's, (f_real, f_fake) -> loss

WIDEST_STD = 12.0  # with Sigmoid and BCELoss in fp32 the gradient on a generated sample is 0 from logit 17 on
FURTHEST_MEAN = 4.0  # of the real samples' logits from the middle, and of the generated ones': sigmoid(4) = 0.98
SMALLEST_STD = 0.05

LOSSES: dict[str, Loss] = {
    "logistic": lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
    "hinge": lambda real, fake: torch.relu(1 - real).mean() + torch.relu(1 + fake).mean(),
    "least_squares": lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
    "relativistic": lambda real, fake: softplus(fake - real).mean(),
}


@dataclass(frozen=True)
class Affine:
    """The map f → scale·(f + shift)."""

    scale: float
    shift: float


def unit_scale(real: Tensor, fake: Tensor) -> Affine:
    """Standard deviation 1 and means symmetric about 0: the scale that hurt no loss, for when none is known."""
    return Affine(1 / max(_spread(real, fake), 1e-12), -_middle(real, fake))


def line_search(
    loss: Loss, real: Tensor, fake: Tensor, *, penalty: float = 0.0, scalable: bool = True, shiftable: bool = True
) -> Affine:
    """The affine map of D's output under which D's loss is smallest: the best of a grid, refined five times.

    `real` is f on real samples, ``(M,)``, `fake` on as many generated ones; `penalty` is what a penalty on the squared
    gradient of f adds to the loss as it is, such as R1's γ/2·E‖∇f(x)‖² (Mescheder et al. 2018), which grows with the
    square of the scale. If the loss falls without end as the logits grow (a Wasserstein critic), no scale is the best
    one and :func:`unit_scale` is returned.
    """
    spread, middle = max(_spread(real, fake), 1e-12), _middle(real, fake) if shiftable else 0.0
    apart = max(abs(float(real.mean() - fake.mean())) / 2, 1e-12)
    high = min(WIDEST_STD / spread, FURTHEST_MEAN / apart) if scalable else 1.0
    low = min(SMALLEST_STD / spread, high) if scalable else 1.0
    scales = torch.linspace(math.log(low), math.log(high), 25 if scalable else 1, dtype=torch.float64).exp()
    # cubed: dense about the middle, yet wide enough for targets 0 and 1 on logits that are far apart
    offsets = 12 * torch.linspace(-1, 1, 25, dtype=torch.float64) ** 3 * spread if shiftable else torch.zeros(1)
    best, least = Affine(1.0, -middle), math.inf
    for _ in range(6):
        centre = best.shift
        for scale in scales.tolist():
            for offset in sorted(offsets.tolist(), key=abs):  # a shift that gains nothing stays the symmetric one
                shift = centre + offset
                value = float(loss(scale * (real + shift), scale * (fake + shift)).mean()) + penalty * scale**2
                if value < least - 1e-6 * min(abs(least), 1.0):
                    best, least = Affine(scale, shift), value
        if scalable:
            ratio = float(scales[1] / scales[0])
            scales = (best.scale * ratio ** torch.linspace(-1, 1, 9, dtype=torch.float64)).clamp(low, high)
        if shiftable:
            offsets = torch.linspace(-1, 1, 9, dtype=torch.float64) * float(offsets[1] - offsets[0])
    return unit_scale(real, fake) if not penalty and _unbounded(loss, best, real, fake) else best


def critic_scale(real: Tensor, fake: Tensor, gradient_norms: Tensor, penalty: float = 10.0) -> Affine:
    """The scale that minimises a Wasserstein critic's loss with its gradient penalty, in closed form.

    −s·gap + λ·mean((s·‖∇f‖ − 1)²) is smallest at s = (gap + 2λ·mean‖∇f‖) / (2λ·mean‖∇f‖²) (Gulrajani et al. 2017),
    λ being the `penalty` and ‖∇f‖ one number per sample, between real and generated ones.
    """
    gap = max(float(real.mean() - fake.mean()), 0.0)
    squared = max(float(gradient_norms.square().mean()), 1e-24)
    return Affine((gap + 2 * penalty * float(gradient_norms.mean())) / (2 * penalty * squared), -_middle(real, fake))


def _unbounded(loss: Loss, best: Affine, real: Tensor, fake: Tensor) -> bool:
    """Whether the loss goes on falling in proportion to the scale, below any level."""
    values = [
        float(loss(k * best.scale * (real + best.shift), k * best.scale * (fake + best.shift)).mean())
        for k in (1, 10, 100)
    ]
    return values[2] < values[1] < values[0] and values[2] < 0


def _spread(real: Tensor, fake: Tensor) -> float:
    return float((real.std(correction=0) + fake.std(correction=0)) / 2)


def _middle(real: Tensor, fake: Tensor) -> float:
    return float((real.mean() + fake.mean()) / 2)
