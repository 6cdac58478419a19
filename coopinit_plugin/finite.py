"""What is said if something is not finite, with what to change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from coopinit_plugin.calling.data import check_finite
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.statistics import Statistics


def check_statistics(found: Statistics, iteration: int, x: Any, config: WarmStartConfig) -> None:
    """Refuse to go on after an iteration whose statistics are not finite."""
    named = {
        "D's logits of real samples": found.real,
        "D's logits of refined samples": found.refined,
        "the refined samples": found.displacement,
    }
    broken = [name for name, value in named.items() if not math.isfinite(value)]
    if not broken and math.isfinite(found.score_std):
        return
    check_finite(x, f"Iteration {iteration}")
    step = "" if config.step_size == "balanced" else ' and step_size="balanced"'
    raise CoopInitError(
        f"Iteration {iteration}: not finite any more: {', '.join(broken) or 'the spread of the logits'}. The "
        "warm-up has diverged; your networks are untouched. Try WarmStartConfig(lr_discriminator="
        f"{config.lr_discriminator / 4:g}, energy_l2={max(config.energy_l2, 0.1) * 10:g}){step}, or fewer Langevin "
        "steps. A square root or a division without an epsilon in the networks makes such gradients, too."
    )


def check_weights(module: nn.Module, letter: str, config: WarmStartConfig) -> None:
    """Refuse weights that are not finite."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CoopInitError(
                f"The warm-up left {letter}'s {name} not finite: its last gradient was not. Your networks are "
                f"untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
                f"lr_generator={config.lr_generator / 4:g}); a square root or division without an epsilon in the "
                "networks (minibatch standard deviation, norms) gives such gradients."
            )
