"""The processes that share a warm-up, as far as the method has to know of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _own_row(values: Tensor) -> Tensor:
    return values[None]


def _own_mean(tensors: list[Tensor]) -> None:
    """The mean over one process is the value itself."""


@dataclass(frozen=True)
class Team:
    """How the processes talk. Without arguments: one process that works alone."""

    count: int = 1
    index: int = 0  # which of them this one is, from 0
    gather: Callable[[Tensor], Tensor] = _own_row  # collects a tensor of every process, one row each, in their order
    average: Callable[[list[Tensor]], None] = _own_mean  # replaces each tensor, in place, by its mean over all


ALONE = Team()
