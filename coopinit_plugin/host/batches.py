"""An endless stream of full batches out of whatever loader the user has, which is used up no further than needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.engine import Engine
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
        self._loader, self._device, self._generators = loader, device, generators or []
        self._iterator: Iterator[Any] = iter(())
        self._begin()
        self.once = self._iterator is loader
        self._size: int | None = None
        self._kept: list[tuple[int, Any]] = []  # looked at, not used; batches taken of this epoch, with each
        self._left_out = 0  # batches of other processes before the next one of ours
        self._every = 1
        self._checked: Callable[[Any], Any] = lambda batch: batch

    def peek(self) -> Any:
        """The next batch. It is looked at, not used up."""
        if not self._kept:
            batch = next(self)
            self._kept.append((self._taken, batch))
        return self._kept[0][1]

    def ahead(self) -> list[Any]:
        """The next batches, up to 512 samples or the end of the epoch. They are looked at, not used up."""
        self.peek()
        samples, numbers = 0, 0
        while True:
            last = self._kept[-1][1]
            samples += batch_size(last) or AHEAD
            numbers += sum(part.tensor.numel() for part in parts(last))
            if samples >= AHEAD or numbers >= ROOM or (batch := self._next(_END)) is _END:
                return [batch for _, batch in self._kept]
            self._kept.append((self._taken, batch))

    def share(self, run: Engine, is_part: bool) -> None:
        """Take every n-th batch if n processes are given the same ones, unless the loader `is_part` of the data."""
        if run.processes == 1:
            return
        first = self.peek()
        content = str([part.tensor.double().sum().item() for part in parts(first)])
        sizes, contents = zip(*run.gather_objects((batch_size(first), content)), strict=True)
        if len(set(sizes)) > 1:
            raise CoopInitError(
                f"The first batches of the processes have {', '.join(map(str, sizes))} samples; expected the same "
                "number in each. Give every process the same batch_size, with drop_last=True."
            )
        if is_part or len(set(contents)) > 1:
            return
        if run.is_main:
            logger.warning(
                "All %d processes are given the same batches by the loader, a %s: each now loads all and takes every "
                "%d-th. To save that, give a DataLoader, which can be shared out, or each process its own part.",
                *(run.processes, type(self._loader).__name__, run.processes),
            )
        self._every, self._left_out = run.processes, (run.index or run.processes) - 1
        if run.index > 0:
            self._kept.clear()

    def __next__(self) -> Any:
        return self._kept.pop(0)[1] if self._kept else self._next()

    def _next(self, at_end: Any = None) -> Any:
        """The next batch that is this process's."""
        while (batch := self._full(at_end)) is not _END and self._left_out:
            self._left_out -= 1
        if batch is _END:
            return batch
        self._left_out = self._every - 1
        return self._checked(detached(move(batch, self._device)))  # e.g. made by an encoder, with its graph

    def _full(self, at_end: Any = None) -> Any:
        """The loader's next batch that is no smaller than its first; `at_end`, if given, where the epoch ends."""
        read = left_out = 0
        for may_begin_again in (not self.once, False):
            while left_out < MOST_LEFT_OUT and (batch := next(self._iterator, _END)) is not _END:
                self._taken += 1
                left_out += 1
                if any(isinstance(leaf, torch.Tensor) and leaf.is_nested for leaf in tree_leaves(batch)):
                    raise CoopInitError(
                        f"Batch {self._taken} of the loader holds a nested tensor, whose samples differ in shape. Pad "
                        "them to one, e.g. torch.nested.to_padded_tensor(batch, 0.0)."
                    )
                size = batch_size(batch)
                if size == 0 or batch is None or (size is None and not tree_leaves(batch)):
                    continue
                self._size = self._size or size
                if size is None or size >= (self._size or 0):
                    return batch
            if at_end is not None:
                self._iterator, self._ended = iter(()), True
                return at_end
            read += self._taken
            if not (may_begin_again and read) or left_out == MOST_LEFT_OUT:
                break
            self._begin()
        ended = f"ended after {read} batches" if read else "gave no batch at all"
        if left_out:
            least = f"at least {self._size} samples, as the first had" if self._size else "data"
            ended += f"; the last {left_out} were left out, for none of them had {least}"
        raise CoopInitError(
            f"loader (a {type(self._loader).__name__}) {ended}. Give the DataLoader itself or a list of batches, "
            "which can be iterated again, or an endless iterator; with drop_last=True the data must fill one batch."
        )

    def steady(self, hook: Any, what: str) -> Callable[..., Any]:
        """The hook, which must give tensors of one shape and dtype for every batch, the number of samples aside."""
        first: tuple[list[Any], str] | None = None

        def checked(*given: Any) -> Any:
            nonlocal first
            try:
                found = hook(*given)
            except (LookupError, TypeError, AttributeError) as error:
                if first is None:
                    raise
                raise self._differs(f"no {what}: {first_line(error)}", first[1]) from error
            n = batch_size(found)
            tensors = [part for part in parts(found, what) if part.tensor.shape[:1] == (n,)]
            now = [(part.name, part.tensor.shape[1:], part.tensor.dtype) for part in tensors]
            first = first or (now, f"{what} = {describe(found)}")
            if now != first[0]:
                raise self._differs(f"{what} = {describe(found)}", first[1])
            return found

        return checked

    def keep_alike(self) -> None:
        """Refuse batches that differ from the next one in any of their tensors."""
        self._checked = self.steady(self._checked, "batch")
        self.peek()
        for _, batch in self._kept:
            self._checked(batch)

    def _differs(self, given: str, first: str) -> CoopInitError:
        ask = " Is the loader itself one batch? Then give [batch]." * isinstance(self._loader, tuple)
        return CoopInitError(
            f"Batch {self._taken} of the loader gives {given}, the first gave {first}. Your networks are untouched. "
            "All batches must be alike but for the number of samples: resize, crop or pad, and cast, in the "
            f"dataset or in the DataLoader's collate_fn.{ask}"
        )

    def _begin(self) -> None:
        """Begin an epoch."""
        self._taken, self._randomness = 0, random_state(self._generators)  # batches of this epoch
        self._ended = False  # whether it was looked at to its end, where samplers draw numbers, too
        try:
            self._iterator = iter(self._loader)
        except TypeError as error:
            raise CoopInitError(
                f"loader is a {type(self._loader).__name__}, which cannot be iterated. Give a DataLoader, a list of "
                "batches or an endless iterator, e.g. DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is; batches that were looked at are to be taken again."""
        taken = self._kept[0][0] - 1 if self._kept else self._taken
        place = {"taken": taken, "kept": len(self._kept), "size": self._size, "left_out": self._left_out}
        return {**place, "randomness": self._randomness, "ended": self._ended}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the same epoch (an iterator is taken to be a new one), and leave out the batches already taken."""
        if self.once and state["taken"] < self._taken:  # interrupted before the first batch was used, as here
            return
        self._kept.clear()
        if not self.once:
            set_random_state(state["randomness"], self._generators)
            self._begin()
        logger.info("Leaving out %d batches that were taken before the interruption.", state["taken"] - self._taken)
        for _ in range(state["taken"] - self._taken):
            next(self._iterator, None)
        self._taken, self._size, self._randomness = state["taken"], state["size"], state["randomness"]
        for index in range(state["kept"]):
            self._left_out = self._every - 1 if index else 0
            batch = self._next()
            self._kept.append((self._taken, batch))
        if state["ended"]:
            self._full(_END)
        self._left_out = state["left_out"]

    def close(self) -> None:
        """Let go of the iterator and its workers."""
        del self._iterator
