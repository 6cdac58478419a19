"""Vibration of a rotating machine, three channels, simulated: healthy, or with one of three defects.

Every recording has its own speed, load, phases and noise. A defect is faint: its strength varies from nearly nothing
to plain, so that no detector finds all of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE = 1024  # samples a second
LONG, WINDOW = 128, 64  # steps of a recording, and of what the networks see
KINDS = ("bearing", "misalignment", "rub")


def recordings(n: int, kind: str | None, generator: torch.Generator) -> Tensor:
    """`n` recordings (n, 3, 128), of a healthy machine or with a defect of this kind."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    t = torch.arange(LONG) / RATE
    speed = uniform(45, 55, 1)  # turns a second
    turn = 2 * math.pi * (speed * t + uniform(0, 1, 1))  # (n, 128), the shaft's angle
    load = uniform(0.7, 1.3, 1, 1)
    x = torch.zeros(n, 3, LONG)
    for harmonic, size in ((1, 1.0), (2, 0.35), (3, 0.15)):
        lag = torch.tensor([0.0, 1.6, 0.8])[:, None] + uniform(-0.4, 0.4, 3, 1)
        x += size * uniform(0.6, 1.4, 3, 1) * (harmonic * turn[:, None] + lag).sin()
    x *= load * torch.tensor([1.0, 0.8, 0.5])[:, None]

    strength = uniform(0.15, 1.0, 1, 1)
    if kind == "bearing":  # a ball runs over a pit 3.6 times a turn, and each blow rings at 180 to 220 Hz
        since = ((3.6 * turn / (2 * math.pi) + uniform(0, 1, 1)) % 1) / (3.6 * speed)  # seconds
        ring = (-since * 120).exp() * (2 * math.pi * uniform(180, 220, 1) * since).sin()
        x += 1.6 * strength * ring[:, None] * torch.tensor([1.0, 0.5, 0.9])[:, None]
    elif kind == "misalignment":  # the second harmonic grows, in phase on the first two channels, against it axially
        x += 0.9 * strength * (2 * turn + uniform(0, 6.28, 1)).sin()[:, None] * torch.tensor([0.6, 0.6, -1.0])[:, None]
    elif kind == "rub":  # the rotor touches its housing: tops are cut off, with a burst while it touches
        top = x[:, :2].amax(2, keepdim=True) * (1 - 0.6 * strength)
        burst = 0.4 * strength * torch.randn(n, 3, LONG, generator=generator)
        touching = (x[:, :1] > top[:, :1]).float()
        x[:, :2] = torch.minimum(x[:, :2], top)
        x += touching * burst

    noise = torch.randn(n, 3, LONG + 1, generator=generator)
    return x + 0.2 * (noise[..., 1:] + 0.6 * noise[..., :-1])  # no channel's noise is white


def defects(n: int, generator: torch.Generator) -> Tensor:
    """`n` recordings with a defect, as many of each kind, mixed."""
    share = [n // len(KINDS) + (index < n % len(KINDS)) for index in range(len(KINDS))]
    made = torch.cat([recordings(count, kind, generator) for count, kind in zip(share, KINDS, strict=True)])
    return made[torch.randperm(n, generator=generator)]


def windows(long: Tensor) -> Tensor:
    """Windows of recordings, all of them or about 65 of each: (n · 65, 3, 64)."""
    step = max(1, (long.shape[2] - WINDOW) // (LONG - WINDOW))
    return long.unfold(2, WINDOW, step).transpose(1, 2).reshape(-1, long.shape[1], WINDOW)


def cut(long: Tensor, generator: torch.Generator) -> Tensor:
    """One window of each recording, anywhere."""
    at = torch.randint(long.shape[2] - WINDOW + 1, (len(long),), generator=generator)
    return long.unfold(2, WINDOW, 1)[torch.arange(len(long)), :, at]
