"""An endless stream of full batches out of whatever loader the user has, which is used up no further than needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.randomness import random_state, set_random_state
from coopinit_plugin.method.pair import detached
from coopinit_plugin.nests import batch_size, describe, first_line, move, parts

logger = logging.getLogger(__name__)

_END = object()
MOST_LEFT_OUT = 1000  # batches in a row without data, or too small
AHEAD = 512  # samples that :meth:`Batches.ahead` looks at
ROOM = 2**26  # numbers that it may keep


class Batches:
    """Full batches, on the device, for ever; an error if the loader is empty or is an iterator that ends too soon.

    The first batch's size is the rule; smaller ones (the short last batch of an epoch) are left out, for D's that see
    the batch as a whole, and so are batches without data (None, empty). A loader that can be iterated again is; an
    iterator, marked as `once`, is used up as far as it is needed. The random `generators` that the loader draws from
    are needed to go on after an interruption.
    """

    def __init__(self, loader: Any, device: torch.device, generators: list[torch.Generator] | None = None) -> None:
        self._loader, self._device, self.generators = loader, device, generators or []
        self._iterator: Iterator[Any] = iter(())
        self._begin()
        self.once = self._iterator is loader
        self._size: int | None = None
        self._kept: list[tuple[int, Any]] = []  # looked at, not used, each with its number in this epoch
        self._number = 0  # of the batch that was used last
        self._checked: Callable[[Any], Any] = lambda batch: batch  # called with every batch that is read

    def peek(self) -> Any:
        """The next batch. It is looked at, not used up."""
        return (self._kept or self._keep())[0][1]

    def ahead(self) -> list[Any]:
        """The next batches, up to 512 samples or the end of the epoch. They are looked at, not used up."""
        samples = numbers = 0
        last = self.peek()
        while True:
            samples += batch_size(last) or AHEAD
            numbers += sum(part.tensor.numel() for part in parts(last))
            if samples >= AHEAD or numbers >= ROOM or not self._keep(of_this_epoch=True):
                return [batch for _, batch in self._kept]
            last = self._kept[-1][1]

    def __next__(self) -> Any:
        self._number, batch = (self._kept or self._keep()).pop(0)
        return batch

    def _keep(self, of_this_epoch: bool = False) -> list[tuple[int, Any]]:
        """Look at one batch more; all that are kept, or none if this epoch has no more."""
        batch = self._read(of_this_epoch)
        if batch is _END:
            return []
        self._kept.append((self._taken, detached(move(batch, self._device))))  # it may carry the graph of an encoder
        self._checked(self._kept[-1][1])
        return self._kept

    def _read(self, of_this_epoch: bool) -> Any:
        """The loader's next full batch; its end, if only one of this epoch will do."""
        read = left_out = 0
        begun = False
        while left_out < MOST_LEFT_OUT:
            if (batch := next(self._iterator, _END)) is not _END:
                self._taken += 1
                if self._is_full(batch):
                    return batch
                left_out += 1
            elif of_this_epoch:
                self._ended = True
                return _END
            elif self.once or begun:
                break
            else:
                read, begun = self._taken, True
                self._begin()
        read += self._taken
        ended = f"ended after {read} batches" if read else "gave no batch at all"
        if left_out:
            ended += f"; the last {left_out} were left out, without data or smaller than the first one"
        raise CoopInitError(
            f"loader (a {type(self._loader).__name__}) {ended}. Give the DataLoader itself or a list of batches, "
            "which can be iterated again, or an endless iterator; with drop_last=True the data must fill one batch."
        )

    def _is_full(self, batch: Any) -> bool:
        size = batch_size(batch)
        if size == 0 or batch is None or (size is None and not tree_leaves(batch)):
            return False
        self._size = self._size or size
        return size is None or size >= (self._size or 0)

    def _begin(self) -> None:
        """Begin an epoch."""
        self._taken, self._randomness = 0, random_state(self.generators)  # batches of this epoch
        self._ended = False  # whether it was looked at to its end, where samplers draw numbers, too
        try:
            self._iterator = iter(self._loader)
        except TypeError as error:
            raise CoopInitError(
                f"loader is a {type(self._loader).__name__}, which cannot be iterated. Give a DataLoader, a list of "
                "batches or an endless iterator, e.g. DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)."
            ) from error

    def steady(self, hook: Any, what: str) -> Callable[..., Any]:
        """The hook, which must give tensors of one shape and dtype for every batch, the number of samples aside.

        It is called with the batch as its last argument.
        """
        first: tuple[list[Any], str] | None = None

        def checked(*given: Any) -> Any:
            nonlocal first
            found, failure = None, None
            try:
                found = hook(*given)
            except (LookupError, TypeError, AttributeError) as error:
                if first is None:
                    raise
                failure = error
            n = batch_size(found)
            tensors = [part for part in parts(found, what) if part.tensor.shape[:1] == (n,)]
            form = [(part.name, part.tensor.shape[1:], part.tensor.dtype) for part in tensors]
            told = f"no {what}: {first_line(failure)}" if failure is not None else f"{what} = {describe(found)}"
            first = first or (form, told)
            if failure is not None or form != first[0]:
                number = next((number for number, batch in self._kept if batch is given[-1]), self._number)
                ask = " Is the loader itself one batch? Then give [batch]." if isinstance(self._loader, tuple) else ""
                raise CoopInitError(
                    f"Batch {number} of the loader gives {told}, the first gave {first[1]}. Your networks are "
                    "untouched. All batches must be alike but for the number of samples: resize, crop or pad, and "
                    f"cast, in the dataset or in the DataLoader's collate_fn.{ask}"
                ) from failure
            return found

        return checked

    def keep_alike(self) -> None:
        """Refuse batches that differ from the next one in any of their tensors."""
        self._checked = self.steady(self._checked, "batch")
        for _, batch in self._kept:
            self._checked(batch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is; batches that were looked at are to be taken again."""
        taken = self._kept[0][0] - 1 if self._kept else self._taken
        place = {"taken": taken, "kept": len(self._kept), "size": self._size}
        return {**place, "randomness": self._randomness, "ended": self._ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the same epoch (an iterator is taken to be a new one), and leave out the batches already taken."""
        if self.once and state["taken"] < self._taken:  # interrupted before the first batch was used, as here
            return
        self._kept.clear()
        if not self.once:
            set_random_state(state["randomness"], self.generators)
            self._begin()
        logger.info("Leaving out %d batches that were taken before the interruption.", state["taken"] - self._taken)
        for _ in range(state["taken"] - self._taken):
            next(self._iterator, None)
        self._taken, self._size, self._randomness = state["taken"], state["size"], state["randomness"]
        while len(self._kept) < state["kept"]:
            self._keep()
        if state["ended"]:
            self._read(of_this_epoch=True)

    def close(self) -> None:
        """Let go of the iterator and its workers."""
        del self._iterator
