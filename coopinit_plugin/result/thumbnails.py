"""A few small samples, kept for pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

WIDEST = 40  # pixels of a kept image
NUMBERS = 100_000  # that the samples of one set have together at most
VECTORS, OTHERS = 512, 64  # the most samples of a set: many points make a picture, a few images do

Samples = dict[str, Tensor]  # "real", "before", "after"


def preview(samples: Any) -> Tensor:
    """The largest tensor, as images ``(N, 1 or 3, H, W)``, series ``(N, length, channels)`` or vectors ``(N, C)``."""
    x: Tensor = max(tree_leaves(samples), key=lambda leaf: leaf[0].numel()).detach().float().cpu()
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2]  # the middle slice of a volume or a video
    if x.ndim == 4:
        colours = 3 if x.shape[1] >= 3 else 1
        return interpolate(x[:, :colours], [min(WIDEST, side) for side in x.shape[2:]], mode="area")
    if x.ndim == 3:
        return x.transpose(1, 2) if x.shape[1] < x.shape[2] else x
    return x.flatten(1)


def pack(**sets: Tensor) -> Samples:
    """As many samples of each set as fit, images in half precision; nothing if not even one fits."""
    x = next(iter(sets.values()))
    count = min(len(x), VECTORS if x.ndim == 2 else OTHERS, NUMBERS // x[0].numel())
    kept = torch.float16 if x.ndim == 4 else torch.float32
    most = torch.finfo(kept).max
    small = {name: torch.nan_to_num(x[:count]).clamp(-most, most).to(kept).contiguous() for name, x in sets.items()}
    return small if count else {}
