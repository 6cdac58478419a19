"""What is said if something is not finite, with what to change."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.statistics import Statistics


def check_statistics(found: Statistics, iteration: int, x: Any, config: WarmStartConfig) -> None:
    """Refuse to go on after an iteration whose statistics are not finite.

    Raises:
        CoopInitError: saying what is not, at which iteration, and what to change.
    """
    named = {
        "D's logits of real samples": found.real,
        "D's logits of refined samples": found.refined,
        "the refined samples": found.displacement,
    }
    broken = [name for name, value in named.items() if not math.isfinite(value)]
    if not broken and math.isfinite(found.score_std):
        return
    check_data(x, f"Iteration {iteration}")
    step = "" if config.step_size == "balanced" else ' and step_size="balanced"'
    raise CoopInitError(
        f"Iteration {iteration}: not finite any more: {', '.join(broken) or 'the spread of the logits'}. The "
        "warm-up has diverged; your networks are untouched. Try WarmStartConfig(lr_discriminator="
        f"{config.lr_discriminator / 4:g}, energy_l2={max(config.energy_l2, 0.1) * 10:g}){step}, or fewer Langevin "
        "steps. A square root or a division without an epsilon in the networks makes such gradients, too."
    )


def check_data(x: Any, when: str) -> None:
    """Refuse samples that are not finite.

    Raises:
        CoopInitError: saying when, and how many numbers.
    """
    wrong = sum(int((~torch.isfinite(leaf)).sum()) for leaf in tree_leaves(x))
    if wrong:
        raise CoopInitError(
            f"{when}: the loader gave data that are not finite ({wrong} numbers of the batch are NaN or infinite). "
            "Your networks are untouched. Clean those samples in the dataset (torch.nan_to_num)."
        )


def check_weights(module: nn.Module, letter: str, config: WarmStartConfig) -> None:
    """Refuse weights that are not finite.

    Raises:
        CoopInitError: naming the parameter, and what to change.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CoopInitError(
                f"The warm-up left {letter}'s {name} not finite: its last gradient was not. Your networks are "
                f"untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
                f"lr_generator={config.lr_generator / 4:g}); a square root or division without an epsilon in the "
                "networks (minibatch standard deviation, norms) gives such gradients."
            )
