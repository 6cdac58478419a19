"""Samples by whose logits it is judged what a change of D's layers does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin.host.batches import Batches
from coopinit_plugin.method.pair import Pair

Samples = list[tuple[Any, Any, Any]]  # (x, z, batch) of each batch

LEAST = 8  # the logits of fewer are alike, or changed alike, by chance; a single one has no standard deviation at all


def judges(pair: Pair, batches: Batches, device: torch.device) -> Samples:
    """The next batch, which stays the next, and as many before it as have eight samples together.

    Args:
        pair: G and D.
        batches: Real samples; those before the last are used up.
        device: Where the latents go.
    """
    more = (LEAST - 1) // len(tree_leaves(pair.real(batches.peek()))[0])
    return [*(pair.draw(next(batches), device) for _ in range(more)), pair.draw(batches.peek(), device)]


def scores(pair: Pair, samples: Samples) -> Tensor:
    """D's logits of all of them, ``(N,)``."""
    return torch.cat([pair.score(*part) for part in samples])
