"""Few and small samples, kept for pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

SHARE = 40  # samples take at most this part of the weights' bytes
LEAST, MOST = 64 * 1024, 4 * 1024**2  # but may take so many bytes, and never more
WIDEST = 128  # pixels of a kept image
EXACT = 64  # numbers of a sample that is kept as it is; longer ones are kept in 256 levels
COUNT = {True: 512, False: 64}  # the most samples, of short ones and of long ones

Samples = dict[str, Tensor]


def preview(samples: Any) -> Tensor:
    """The largest tensor of the samples in one of the forms that pictures are made of.

    Returns:
        Images ``(N, 1 or 3, H, W)``, of volumes and videos the middle slice; series ``(N, length, channels)``; vectors
        ``(N, C)``. On the CPU, in float32.
    """
    x: Tensor = max(tree_leaves(samples), key=lambda leaf: leaf[0].numel()).detach().float().cpu()
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2]
    if x.ndim == 4:
        if x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
            x = x.permute(0, 3, 1, 2)
        x = x[:, :3] if x.shape[1] >= 3 else x[:, :1]
        size = [min(WIDEST, side) for side in x.shape[2:]]
        return x if list(x.shape[2:]) == size else interpolate(x, size, mode="area")
    if x.ndim == 3:
        return x.transpose(1, 2) if x.shape[1] < x.shape[2] else x
    return x.flatten(1)


def pack(weights: int, **sets: Tensor) -> Samples:
    """As many samples of each set as fit; none where not even one does.

    Args:
        weights: Bytes of the networks' weights.
        **sets: Samples, all of one shape.
    """
    x = next(iter(sets.values()))
    numbers = x[0].numel()
    short = numbers <= EXACT
    room = min(max(weights // SHARE, LEAST), MOST)
    count = min(len(x), COUNT[short], room // (len(sets) * numbers * (4 if short else 1)))
    if count == 0:
        return {}
    packed: Samples = {}
    for name, samples in sets.items():
        chosen = torch.nan_to_num(samples[:count])
        if short:
            packed[name] = chosen.contiguous()
            continue
        low, high = chosen.aminmax()
        levels = (chosen - low) / (high - low).clamp(min=torch.finfo().tiny) * 255
        packed[name] = levels.round().to(torch.uint8).contiguous()
        packed[f"{name}.range"] = torch.stack([low, high])
    return packed


def unpack(samples: Samples, name: str) -> Tensor | None:
    """The samples of one set in float32, or ``None``."""
    if name not in samples:
        return None
    if f"{name}.range" not in samples:
        return samples[name].float()
    low, high = samples[f"{name}.range"].tolist()
    return low + samples[name].float() * ((high - low) / 255)


def fit_for_pictures(samples: Samples) -> bool:
    """Whether tensors read from a file of any origin are what :func:`pack` makes."""
    sets = {name: samples[name] for name in samples if not name.endswith(".range")}
    shapes = {value.shape[1:] for value in sets.values()}
    return (
        set(sets) <= {"real", "before", "after"}
        and len(shapes) == 1
        and all(2 <= value.ndim <= 4 and value.numel() > 0 for value in sets.values())
        and all(value.ndim < 4 or value.shape[1] in (1, 3) for value in sets.values())
        and all(value.dtype in (torch.float32, torch.uint8) for value in sets.values())
        and all((value.dtype == torch.uint8) == (f"{name}.range" in samples) for name, value in sets.items())
        and all(samples[name].shape == (2,) for name in samples if name.endswith(".range"))
        and all(bool(torch.isfinite(value).all()) for value in samples.values())
    )


def without_real(samples: Samples) -> Samples:
    """The generated ones alone."""
    return {name: value for name, value in samples.items() if not name.startswith("real")}
