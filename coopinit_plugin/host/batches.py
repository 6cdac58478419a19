"""An endless stream of full batches out of whatever loader the user has, which is used up no further than needed."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from typing import Any

import torch

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.host.randomness import random_state, set_random_state
from coopinit_plugin.nests import batch_size, move, parts

logger = logging.getLogger(__name__)


class Batches:
    """Full batches, on the device, for ever.

    The first batch's size is the rule; smaller ones (the short last batch of an epoch) are left out, for D's that see
    the batch as a whole. A loader that can be iterated again is; an iterator is used up only as far as it is needed.

    Args:
        loader: Any iterable.
        device: Where the batches go.
        generators: The random generators that the loader draws from, for going on after an interruption.

    Attributes:
        once: Whether the loader is an iterator, which cannot be iterated again.

    Raises:
        CoopInitError: if the loader is empty, is no iterable, or is an iterator that ends too soon.
    """

    def __init__(self, loader: Any, device: torch.device, generators: list[torch.Generator] | None = None) -> None:
        self._loader, self._device, self._generators = loader, device, generators or []
        self._size: int | None = None
        self._taken = 0
        self._begin()
        self.once = self._iterator is loader
        self._kept: list[Any] = []  # a batch that was looked at, not used
        self._left_out = 0  # batches of other processes before the next one of ours
        self._every = 1

    def peek(self) -> Any:
        """The next batch. It is looked at, not used up."""
        if not self._kept:
            self._kept.append(next(self))
        return self._kept[0]

    def share(self, run: Engine, is_part: bool) -> None:
        """Take every n-th batch if n processes are given the same ones, unless the loader `is_part` of the data.

        Raises:
            CoopInitError: if the processes have batches of different sizes.
        """
        if run.processes == 1:
            return
        sizes, contents = zip(*run.gather_objects((batch_size(self.peek()), _checksum(self.peek()))), strict=True)
        if len(set(sizes)) > 1:
            raise CoopInitError(
                f"The first batches of the processes have {', '.join(map(str, sizes))} samples; expected the same "
                "number in each. Give every process the same batch_size, with drop_last=True."
            )
        if is_part or len(set(contents)) > 1:
            return
        if run.is_main:
            logger.warning(
                "All %d processes are given the same batches: loader is a %s, which cannot be shared out as a "
                "DataLoader can. Each process now takes every %d-th batch of it and leaves out the others, after "
                "loading them. To save that, give the DataLoader itself, or each process its own part.",
                *(run.processes, type(self._loader).__name__, run.processes),
            )
        self._every, self._left_out = run.processes, run.processes - 1
        if run.index > 0:
            self._kept.clear()
            self._left_out = run.index - 1

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._kept:
            return self._kept.pop()
        for _ in range(self._left_out):
            self._full()
        self._left_out = self._every - 1
        return move(self._full(), self._device)

    def _full(self) -> Any:
        """The loader's next batch that is no smaller than its first."""
        began_again = False
        while True:
            try:
                batch = next(self._iterator)
            except StopIteration:
                self._refuse_an_end(began_again)
                self._begin()
                began_again = True
                continue
            self._taken += 1
            self._in_epoch += 1
            size = batch_size(batch)
            self._size = self._size or size
            if size is None or self._size is None or size >= self._size:
                return batch

    def _refuse_an_end(self, began_again: bool) -> None:
        if self._taken == 0:
            raise CoopInitError(
                f"loader (a {type(self._loader).__name__}) gave no batch at all. Check the dataset's length, "
                "and that batch_size with drop_last=True is not larger than it."
            ) from None
        if self.once or began_again:
            raise CoopInitError(
                f"loader is an iterator that ended after {self._taken} batches, before the warm-up did. Give "
                "the DataLoader itself (or a list of batches), which can be iterated again, or an endless iterator."
            ) from None

    def _begin(self) -> None:
        """Begin an epoch."""
        self._in_epoch, self._randomness = 0, random_state(self._generators)
        try:
            self._iterator: Iterator[Any] = iter(self._loader)
        except TypeError as error:
            raise CoopInitError(
                f"loader is a {type(self._loader).__name__}, which cannot be iterated. Give a DataLoader, a list of "
                "batches, or an endless iterator, e.g. DataLoader(dataset, batch_size=64, shuffle=True, "
                "drop_last=True)."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: what a later :meth:`load_state_dict` goes on from."""
        kept = len(self._kept)  # to be taken again
        place = {"taken": self._taken - kept, "in_epoch": self._in_epoch - kept, "kept": kept, "size": self._size}
        return {**place, "left_out": self._left_out, "randomness": self._randomness}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: begin the same epoch again, and leave out the batches already taken.

        An iterator is taken to be a new one that gives the same batches.
        """
        if self.once and state["taken"] < self._taken:  # interrupted before the first batch was used, as here
            return
        self._kept.clear()
        left = state["taken"] - self._taken
        if not self.once:
            set_random_state(state["randomness"], self._generators)
            self._begin()
            left = state["in_epoch"]
        logger.info("Leaving out %d batches that were taken before the interruption.", left)
        for _ in range(left):
            next(self._iterator, None)
        self._taken, self._in_epoch, self._size = state["taken"], state["in_epoch"], state["size"]
        self._left_out, self._randomness = state["left_out"], state["randomness"]
        if state["kept"]:
            self._kept.append(move(self._full(), self._device))

    def close(self) -> None:
        """Let go of the iterator and its workers."""
        del self._iterator


def _checksum(batch: Any) -> int:
    found = 0
    for part in parts(batch):
        numbers = part.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(numbers.numpy().tobytes(), found)
    return found
