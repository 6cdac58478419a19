"""The adversarial losses as their papers have them, on logits, and the penalties on D's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, softplus

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """What D and G minimise.

    Attributes:
        word: What the library is told: the `handover` of its WarmStartConfig.
        d: D's loss, ``(f_real, f_fake) -> loss``.
        g: G's.
        r1: γ of γ/2·E‖∇f(x)‖² on real samples (Mescheder et al. 2018).
        r2: γ of the same on generated ones.
        gradient_penalty: λ of λ·E(‖∇f‖ − 1)² between both (Gulrajani et al. 2017).
        pairs: Whether G's loss looks at real samples, too.
        sigmoid: Whether D ends in one.
    """

    word: str
    d: Loss
    g: Loss
    r1: float = 0.0
    r2: float = 0.0
    gradient_penalty: float = 0.0
    pairs: bool = False
    sigmoid: bool = False

    def d_loss(self, D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        real = real.detach().requires_grad_(self.r1 > 0)
        fake = fake.detach().requires_grad_(self.r2 > 0)
        f_real, f_fake = D(real), D(fake)
        loss = self.d(f_real, f_fake)
        if self.r1:
            loss = loss + self.r1 / 2 * squared_gradient(f_real, real).mean()
        if self.r2:
            loss = loss + self.r2 / 2 * squared_gradient(f_fake, fake).mean()
        if self.gradient_penalty:
            share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
            between = (share * real + (1 - share) * fake).detach().requires_grad_()
            norm = (squared_gradient(D(between), between) + 1e-12).sqrt()
            loss = loss + self.gradient_penalty * (norm - 1).square().mean()
        return loss

    def g_loss(self, D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        f_fake = D(fake)
        if not self.pairs:
            return self.g(f_fake, f_fake)
        with torch.no_grad():
            f_real = D(real)
        return self.g(f_real, f_fake)

    def step(
        self, D: nn.Module, real: Tensor, fake: Tensor, adam_g: torch.optim.Optimizer, adam_d: torch.optim.Optimizer
    ) -> tuple[Tensor, Tensor]:
        """One adversarial iteration as everybody writes it, D first; gives the losses of D and of G."""
        loss_d = self.d_loss(D, real, fake)
        descend(adam_d, loss_d)
        loss_g = self.g_loss(D, real, fake)
        descend(adam_g, loss_g)
        return loss_d, loss_g


def descend(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of an optimizer."""
    adam.zero_grad()
    loss.backward()
    adam.step()


def squared_gradient(f: Tensor, x: Tensor) -> Tensor:
    """‖∇f‖² of each sample, to be differentiated again."""
    (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def _bce_d(real: Tensor, fake: Tensor) -> Tensor:
    return binary_cross_entropy(real, torch.ones_like(real)) + binary_cross_entropy(fake, torch.zeros_like(fake))


_non_saturating = Objective(
    "logistic",
    d=lambda real, fake: softplus(-real).mean() + softplus(fake).mean(),
    g=lambda _, fake: softplus(-fake).mean(),
)
_relativistic = Objective(
    "relativistic",
    d=lambda real, fake: softplus(fake - real).mean(),
    g=lambda real, fake: softplus(real - fake).mean(),
    pairs=True,
)

OBJECTIVES = {
    "non_saturating": _non_saturating,
    "non_saturating_r1": replace(_non_saturating, r1=1.0),
    "non_saturating_r1_10": replace(_non_saturating, r1=10.0),
    "hinge": Objective(
        "hinge",
        d=lambda real, fake: torch.relu(1 - real).mean() + torch.relu(1 + fake).mean(),
        g=lambda _, fake: -fake.mean(),
    ),
    "least_squares": Objective(
        "least_squares",
        d=lambda real, fake: (real - 1).square().mean() + fake.square().mean(),
        g=lambda _, fake: (fake - 1).square().mean(),
    ),
    "wgan_gp": Objective(
        "wasserstein",
        d=lambda real, fake: fake.mean() - real.mean(),
        g=lambda _, fake: -fake.mean(),
        gradient_penalty=10.0,
    ),
    "relativistic": _relativistic,
    "r3gan": replace(_relativistic, r1=1.0, r2=1.0),
    "sigmoid_bce": Objective(
        "auto", d=_bce_d, g=lambda _, fake: binary_cross_entropy(fake, torch.ones_like(fake)), sigmoid=True
    ),
}
