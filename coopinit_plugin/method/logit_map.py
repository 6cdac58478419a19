"""The map f → s·(f + b) of D's logits under which the adversarial loss that follows is smallest."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import softplus

Loss = Callable[[Tensor, Tensor], Tensor]  # D's, (f_real, f_fake) -> loss

WIDEST_STD = 12.0  # with Sigmoid and BCELoss in fp32 the gradient on a generated sample is 0 from logit 17 on
FURTHEST_MEAN = 4.0  # of the logits of either kind from the middle: with larger ones the first steps throw G back
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

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, f: Tensor) -> Tensor:
        """The logits f after it."""
        return self.scale * (f + self.shift)


def unit_scale(real: Tensor, fake: Tensor) -> Affine:
    """Standard deviation 1 and means symmetric about 0: the scale that hurt no loss, for when none is known."""
    return Affine(1 / _deviation(real, fake), -_middle(real, fake))


def critic_scale(real: Tensor, fake: Tensor, gradient_norms: Tensor, penalty: float = 10.0) -> Affine:
    """Where a Wasserstein critic's loss and penalty, −s·gap + λ·mean((s·‖∇f‖ − 1)²), are smallest, in closed form."""
    gap = max(float(real.mean() - fake.mean()), 0.0)
    squared = max(float(gradient_norms.square().mean()), 1e-24)
    return Affine((gap + 2 * penalty * float(gradient_norms.mean())) / (2 * penalty * squared), -_middle(real, fake))


def line_search(
    loss: Loss, real: Tensor, fake: Tensor, *, penalty: float = 0.0, scalable: bool = True, shiftable: bool = True
) -> Affine:
    """The map under which D's loss is smallest: the best of a grid, refined five times.

    `penalty` is what R1's γ/2·E‖∇f(x)‖² adds to the loss as it is. If the loss falls without end as the logits grow,
    :func:`unit_scale` is returned.
    """

    def value(affine: Affine) -> float:
        return float(loss(affine(real), affine(fake)).mean()) + penalty * affine.scale**2

    deviation, middle = _deviation(real, fake), _middle(real, fake) if shiftable else 0.0
    apart = max(abs(float(real.mean() - fake.mean())) / 2, 1e-12)
    high = min(WIDEST_STD / deviation, FURTHEST_MEAN / apart) if scalable else 1.0
    low = min(SMALLEST_STD / deviation, high) if scalable else 1.0
    scales = torch.linspace(math.log(low), math.log(high), 25 if scalable else 1, dtype=torch.float64).exp()
    # cubed: dense about the middle, yet wide enough for targets 0 and 1 on logits that are far apart
    offsets = 12 * torch.linspace(-1, 1, 25, dtype=torch.float64) ** 3 * deviation if shiftable else torch.zeros(1)
    best, least = Affine(1.0, -middle), math.inf
    for _ in range(6):
        centre = best.shift
        nearest_first = sorted(offsets.tolist(), key=abs)  # a shift that gains nothing stays the symmetric one
        for scale, offset in product(scales.tolist(), nearest_first):
            tried = Affine(scale, centre + offset)
            if (found := value(tried)) < least - 1e-6 * min(abs(least), 1.0):
                best, least = tried, found
        if scalable:
            ratio = float(scales[1] / scales[0])
            scales = (best.scale * ratio ** torch.linspace(-1, 1, 9, dtype=torch.float64)).clamp(low, high)
        if shiftable:
            offsets = torch.linspace(-1, 1, 9, dtype=torch.float64) * float(offsets[1] - offsets[0])
    once, tenfold, hundredfold = (value(Affine(k * best.scale, best.shift)) for k in (1, 10, 100))
    unbounded = not penalty and hundredfold < tenfold < once and hundredfold < 0
    return unit_scale(real, fake) if unbounded else best


def _deviation(real: Tensor, fake: Tensor) -> float:
    return max(float((real.std(correction=0) + fake.std(correction=0)) / 2), 1e-12)


def _middle(real: Tensor, fake: Tensor) -> float:
    return float((real.mean() + fake.mean()) / 2)
