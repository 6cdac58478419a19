"""What an adversarial iteration of these networks costs: the unit in which the user is told the warm-up's price."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import Pair, detached, release_graphs

REPETITIONS = 5


def adversarial_seconds(pair: Pair, batch: Any, device: torch.device, seed: int) -> float:
    """Median seconds of a plain adversarial iteration: a step of D and one of G, each by Adam, without a penalty.

    Adam turns stand-ins: weights, buffers, modes and random generators are as before.
    """
    trained = [parameter for net in (pair.G, pair.D) for parameter in net.parameters() if parameter.requires_grad]
    stand_ins = [parameter.detach().clone() for parameter in trained]
    adam = torch.optim.Adam(stand_ins)
    seconds = []
    with borrowed_randomness(seed), kept(buffers(pair.G, pair.D), training(pair.G, pair.D)):
        pair.G.train()
        pair.D.train()
        x, z, batch = pair.draw(batch, device)
        for _ in range(1 + REPETITIONS):  # the first one also compiles and tunes: it does not count
            began = _now(device)
            g = pair.generate(z)
            for samples in (x, detached(g), g):
                release_graphs(pair.D)
                gradients = torch.autograd.grad(pair.score(samples, z, batch).mean(), trained, allow_unused=True)
            for stand_in, gradient in zip(stand_ins, gradients, strict=True):
                stand_in.grad = gradient
            adam.step()
            seconds.append(_now(device) - began)
    return median(seconds[1:])


def _now(device: torch.device) -> float:
    """The clock, read when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
