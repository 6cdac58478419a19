"""Where a run starts from: random weights, the warm-up in its variants, or what a user would do instead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from coopinit_plugin import WarmStart, WarmStartConfig, warm_start
from examples.study.cost import DEVICE
from examples.study.networks import initialise


@dataclass(frozen=True)
class Arm:
    """A way to start, and to go on.

    Attributes:
        start: ``"random"``, ``"warm"``, or a pretraining of G at the warm-up's cost: ``"vae"``, ``"sliced"``.
        changes: Of the library's default settings.
        keep: Whose warm weights are kept: ``"GD"``, ``"G"`` or ``"D"``.
        objective: The adversarial loss in place of the setting's own.
        without: Names in the library and what stands in their place, for the parts that no setting takes away.
    """

    start: str = "random"
    changes: dict[str, Any] = field(default_factory=dict)
    keep: str = "GD"
    objective: str | None = None
    without: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_ours(self) -> bool:
        """Whether it costs as much as the warm-up of the run "ours" did."""
        return self.start in ("vae", "sliced")


ARMS = {
    "random": Arm(),
    "ours": Arm("warm"),
    "fixed": Arm(
        "warm", {"step_size": 0.1, "langevin_steps": 10, "averaging": 0.0, "handover": "none", "iterations": 400}
    ),
    "vae": Arm("vae"),
    "sliced": Arm("sliced"),
    "handover-only": Arm("warm", {"iterations": 0}),
    "r1-1": Arm(objective="non_saturating_r1"),
    "r1-10": Arm(objective="non_saturating_r1_10"),
    "r3gan": Arm(objective="r3gan"),
}

ABLATIONS = {
    "only-g": Arm("warm", keep="G"),
    "only-d": Arm("warm", keep="D"),
    "no-handover": Arm("warm", {"handover": "none"}),
    "no-limit": Arm("warm", without={"coopinit_plugin.method.logit_map.FURTHEST_MEAN": 20.0}),
    "no-pace": Arm("warm", without={"coopinit_plugin.method.balance.QUICK": 1.0}),
    "no-averaging": Arm("warm", {"averaging": 0.0}),
    "no-balance-0.1": Arm("warm", {"step_size": 0.1}),
    "no-balance-1": Arm("warm", {"step_size": 1.0, "noise": 0.06}),
    "no-l2": Arm("warm", {"energy_l2": 0.0}),
    "l2=0.01": Arm("warm", {"energy_l2": 0.01}),
    **{f"K={steps}": Arm("warm", {"langevin_steps": steps}) for steps in (1, 2, 5, 10)},
    **{f"noise={noise}": Arm("warm", {"noise": noise}) for noise in (0.0, 0.03, 0.12)},
    **{f"lr-g={lr:g}": Arm("warm", {"lr_generator": lr}) for lr in (2.5e-4, 1e-3)},
    **{f"lr-d={lr:g}": Arm("warm", {"lr_discriminator": lr}) for lr in (5e-4, 2e-3)},
}

SENSITIVITY = {
    f"its={iterations} K={steps}": Arm("warm", {"iterations": iterations, "langevin_steps": steps})
    for iterations in (25, 50, 100, 200, 400, 800)
    for steps in (1, 2, 5, 10)
}

FIXED_NUMBERS = {f"its={n}": Arm("warm", {"iterations": n}) for n in (50, 100, 150, 200, 300, 400)}

ARMS |= ABLATIONS | SENSITIVITY | FIXED_NUMBERS


def warm(arm: Arm, G: nn.Module, D: nn.Module, loader: Iterable[Tensor], config: WarmStartConfig) -> WarmStart:
    """The warm-up; where only one network's weights are to be kept the other gets its own back."""
    before = copy.deepcopy((G.state_dict(), D.state_dict()))
    with ExitStack() as changed:
        for name, substitute in arm.without.items():
            changed.enter_context(patch(name, substitute))
        result = warm_start(G, D, loader, config=config, progress=False)
    if "G" not in arm.keep:
        G.load_state_dict(before[0])
    if "D" not in arm.keep:
        D.load_state_dict(before[1])
    return result


def pretrain_as_vae(
    G: nn.Module, encoder: nn.Module, latent: tuple[int, ...], batches: Iterable[Tensor], go_on: Callable[[], bool]
) -> None:
    """G as the decoder of a VAE (Gaussian of unit variance, Adam 1e-3); the encoder is made from a D with BatchNorm."""
    encoder.main = nn.Sequential(*[m for m in encoder.main if not isinstance(m, (nn.Sigmoid, nn.Flatten))])
    last = encoder.main[-1]
    if isinstance(last, nn.Linear):
        encoder.main[-1] = nn.Linear(last.in_features, 2 * latent[0])
    else:
        encoder.main[-1] = type(last)(last.in_channels, 2 * latent[0], last.kernel_size)
    encoder.apply(initialise).to(DEVICE)
    adam = torch.optim.Adam([*G.parameters(), *encoder.parameters()], lr=1e-3)
    for x in batches:
        if not go_on():
            return
        mean, log_variance = encoder(x).reshape(len(x), 2, *latent).unbind(1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        loss = (mse_loss(G(z), x, reduction="sum") / 2 + kl) / len(x)
        adam.zero_grad()
        loss.backward()
        adam.step()


def pretrain_by_sliced_distance(
    G: nn.Module, latent: tuple[int, ...], batches: Iterable[Tensor], go_on: Callable[[], bool]
) -> None:
    """G by the sliced Wasserstein distance (Deshpande et al. 2018): 256 samples, 512 fresh directions, Adam 1e-3."""
    adam = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
    held: list[Tensor] = []
    for x in batches:
        held.append(x)
        if len(held) < 4:
            continue
        if not go_on():
            return
        real = torch.cat(held).flatten(1)
        held.clear()
        directions = torch.randn(real.shape[1], 512, device=DEVICE)
        directions /= directions.norm(dim=0)
        fake = G(torch.randn(len(real), *latent, device=DEVICE)).flatten(1) @ directions
        loss = (fake.sort(0).values - (real @ directions).sort(0).values).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
