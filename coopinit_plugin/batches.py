"""An endless stream of full batches out of whatever loader the user has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from coopinit_plugin.batch_parts import batch_size, move
from coopinit_plugin.errors import CoopInitError


class Batches:
    """Full batches, on the device, for ever.

    The first batch's size is the rule; smaller ones (the short last batch of an epoch) are left out, for D's that see
    the batch as a whole. A loader that can be iterated again is; an iterator is used up only as far as it is needed.

    Args:
        loader: Any iterable.
        device: Where the batches go.

    Raises:
        CoopInitError: where the loader is empty, is no iterable, or is an iterator that ends too soon.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        self.loader = loader
        self.device = device
        self.size: int | None = None
        self.taken = 0
        try:
            self._iterator: Iterator[Any] = iter(loader)
        except TypeError as error:
            raise CoopInitError(
                f"loader is a {type(loader).__name__}, which cannot be iterated. Give a DataLoader, a list of batches, "
                "or an endless iterator, e.g. DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)."
            ) from error
        self.once = self._iterator is loader
        self._kept: list[Any] = []

    def peek(self) -> Any:
        """The next batch, which stays the next."""
        if not self._kept:
            self._kept.append(next(self))
        return self._kept[0]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._kept:
            return self._kept.pop()
        restarted = False
        while True:
            try:
                batch = next(self._iterator)
            except StopIteration:
                if self.taken == 0:
                    raise CoopInitError(
                        f"loader (a {type(self.loader).__name__}) gave no batch at all. Check the dataset's length, "
                        "and that batch_size with drop_last=True is not larger than it."
                    ) from None
                if self.once or restarted:
                    raise CoopInitError(
                        f"loader is an iterator that ended after {self.taken} batches, before the warm-up did. Give "
                        "the DataLoader itself (or a list of batches), which can be iterated again, or an endless "
                        "iterator."
                    ) from None
                self._iterator = iter(self.loader)
                restarted = True
                continue
            self.taken += 1
            size = batch_size(batch)
            self.size = self.size or size
            if size is None or self.size is None or size >= self.size:
                return move(batch, self.device)

    def close(self) -> None:
        """Let go of the iterator and its workers."""
        del self._iterator
