"""``inspect``: one batch through both networks, with everything of the user's as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from coopinit_plugin.arguments import check_loader
from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.calling.data import spread
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.copies import copies, seen
from coopinit_plugin.host.networks import device_of, unwrap
from coopinit_plugin.host.randomness import borrowed_randomness


def inspect(generator: nn.Module, discriminator: nn.Module, loader: Any, *, adapter: Adapter | None = None) -> Adapter:
    """Run one small batch through both networks and report how they are called. Nothing is changed.

    Args:
        generator: G.
        discriminator: D.
        loader: Any iterable of batches; one batch is taken.
        adapter: Hooks already known; the others are inferred.

    Returns:
        A complete adapter; ``print`` it for the table of what was found, how, and the warnings.

    Raises:
        CoopInitError: if something cannot be known; the message shows the line to write.
    """
    check_loader(loader)
    with torch.inference_mode(False), torch.enable_grad(), borrowed_randomness(0, loader):
        G, D = copies(generator, discriminator)
        device = device_of(D) or torch.device("cpu")
        batches = Batches(loader, device)
        found = seen((generator, discriminator), G.to(device), D, batches.peek(), adapter or Adapter())
        assert found.real is not None
        spread(found.real, [batches.peek()] if batches.once else batches.ahead())
    rows = list(found.findings)
    if batches.once:
        rows.append(("loader", f"{type(loader).__name__}, an iterator", "this batch was taken out of it"))
    for letter, module in (("G", generator), ("D", discriminator)):
        if (plain := unwrap(module)) is not module:
            rows.append((f"wrapper of {letter}", type(module).__name__, f"seen through, to {type(plain).__name__}"))
        if not any(parameter.requires_grad for parameter in module.parameters()):
            rows.append((f"{letter}'s flags", "all frozen", "trained in the warm-up all the same; the flags stay"))
    return dataclasses.replace(found, findings=tuple(rows))
