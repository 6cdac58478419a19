"""Real data for a trial: a part of the user's, in memory, of which some are held back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import batch_size, parts

MOST = 50_000  # samples that are read
BYTES = 2**30  # that they may take together
HELD = 1024  # samples held back at most; a quarter, if that is fewer
FEWEST = 128  # samples without which nothing can be told


class Subset:
    """Data in memory as batches of one size, shuffled anew in each pass by torch's global generator.

    Args:
        batches: What the loader gave. If every leaf is a tensor with a row a sample, samples are shuffled over the
            batches; else whole batches are.
        size: Samples of a batch.
    """

    def __init__(self, batches: list[Any], size: int) -> None:
        self._batches, self._size = batches, size
        self._whole = tree_map(lambda *leaves: torch.cat(leaves), *batches) if all(map(_joins, batches)) else None
        self._count = sum(batch_size(batch) or 0 for batch in batches)

    def __len__(self) -> int:
        return len(self._batches) if self._whole is None else self._count // self._size

    def __iter__(self) -> Iterator[Any]:
        if self._whole is None:
            for index in torch.randperm(len(self._batches)).tolist():
                yield tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self._batches[index])
        else:
            yield from (
                self._rows(chosen) for chosen in torch.split(torch.randperm(self._count), self._size)[: len(self)]
            )

    def parted(self, held: int) -> tuple[Subset, list[Any]]:
        """The data without `held` samples, or a few more, and those, in batches."""
        if self._whole is None:
            many = min(-(-held // self._size), len(self._batches) - 1)
            return Subset(self._batches[many:], self._size), self._batches[:many]
        size, order = min(self._size, held), torch.randperm(self._count)
        back = [self._rows(chosen) for chosen in torch.split(order[:held], size)]
        return Subset([self._rows(order[held:])], min(self._size, self._count - held)), back[: held // size]

    def _rows(self, chosen: Tensor) -> Any:
        return tree_map(lambda leaf: leaf[chosen.to(leaf.device)], self._whole)


def taken(loader: Iterable[Any], enough: int, seconds: float = 60.0) -> list[Any]:
    """The loader's first batches, until there are `enough` samples, a GiB of them, or the time is over.

    Raises:
        CoopInitError: if there is none.
    """
    batches: list[Any] = []
    count = weight = 0
    began = time.perf_counter()
    for batch in loader if hasattr(type(loader), "__iter__") else ():
        batches.append(batch)
        count += batch_size(batch) or 0
        weight += sum(part.tensor.nbytes for part in parts(batch))
        if count >= enough or weight > BYTES or (time.perf_counter() - began > seconds and count >= HELD):
            break
    if not count:
        raise CoopInitError(
            f"loader (a {type(loader).__name__}) gave no batch of tensors. Give a DataLoader or a list of batches."
        )
    return batches


def parted(loader: Iterable[Any], seconds: float) -> tuple[Subset, list[Any]]:
    """Data of the loader's to train on, and batches that are held back.

    Raises:
        CoopInitError: if there are too few.
    """
    batches = taken(loader, MOST, seconds)
    sizes = [batch_size(batch) or 0 for batch in batches]
    if not all(map(_joins, batches)):  # smaller ones cannot be filled up
        batches = [batch for batch, size in zip(batches, sizes, strict=True) if size == sizes[0]]
    if sum(sizes) < FEWEST or (len(batches) < 2 and not _joins(batches[0])):
        raise CoopInitError(
            f"The loader has {sum(sizes)} samples in {len(sizes)} batches; expected at least {FEWEST} in two or "
            "more: a quarter is held back to measure against. Give more data."
        )
    return Subset(batches, sizes[0]).parted(min(HELD, sum(sizes) // 4))


def _joins(batch: Any) -> bool:
    """Whether the batch's rows can be shuffled one by one."""
    leaves = tree_leaves(batch)
    return all(isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == batch_size(batch) for leaf in leaves)
