"""An endless stream of full batches out of whatever loader the user has, which is used up no further than needed."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.randomness import random_state, set_random_state
from coopinit_plugin.method.pair import detached
from coopinit_plugin.nests import batch_size, describe, move, parts

MOST_LEFT_OUT = 1000  # batches in a row without data, or too small, after which the loader is taken to have ended
AHEAD = 512  # samples that :meth:`Batches.ahead` looks at
ROOM = 2**26  # numbers that it may keep


class Batches:
    """Full batches, on the device, for ever; an error if the loader is empty or is an iterator that ends too soon.

    The first batch is the rule: smaller ones (the short last batch of an epoch) are left out, for D's that see the
    batch as a whole, and so are those without data (None, empty); one of another kind is refused. A loader that can be
    iterated again is; an iterator, marked as `once`, is used up as far as it is needed. The random `generators` that
    the loader draws from are needed to go on after an interruption.
    """

    def __init__(self, loader: Any, device: torch.device, generators: list[torch.Generator] | None = None) -> None:
        self._loader, self._device, self.generators = loader, device, generators or []
        self._first: Any = None
        self._kept: list[tuple[int, Any]] = []  # looked at, not used, each with its number in this epoch
        self._begin()
        self.once = self._iterator is loader

    def _begin(self) -> None:
        """Begin an epoch."""
        self._read, self._randomness = 0, random_state(self.generators)  # batches of this epoch; before its first
        self._ended = False  # whether it was read to its end, where samplers draw numbers, too
        try:
            self._iterator: Iterator[Any] = iter(self._loader)
        except TypeError as error:
            kind, good = type(self._loader).__name__, "DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)"
            raise CoopInitError(f"loader is a {kind}, which cannot be iterated. Give batches, e.g. {good}.") from error

    def _look(self) -> bool:
        """Read the next full batch of this epoch, and keep it; whether there was one."""
        for batch in islice(self._iterator, MOST_LEFT_OUT):
            self._read += 1
            size = batch_size(batch)
            if size == 0 or batch is None or (size is None and not tree_leaves(batch)):
                continue
            batch = detached(move(batch, self._device))  # it may carry the graph of an encoder
            self._first = self._first or (size, _form(batch), describe(batch))
            if size is not None and size < (self._first[0] or 0):
                continue
            if _form(batch) != self._first[1]:
                raise CoopInitError(
                    f"Batch {self._read} of the loader is {describe(batch)}, the first was {self._first[2]}. Your "
                    "networks are untouched. All batches must be alike but for the number of samples: resize, crop or "
                    "pad, cast, leave out what G and D do not need, in the dataset or in the DataLoader's collate_fn. "
                    "If the loader itself is one batch, give [batch]."
                )
            self._kept.append((self._read, batch))
            return True
        self._ended = True
        return False

    def peek(self) -> Any:
        """The next batch. It is looked at, not used up."""
        found = bool(self._kept) or self._look()
        ended = f"ended after {self._read} batches" if self._read else "gave no batch at all"
        if not found and not self.once:
            self._begin()
            found = self._look()
        if not found:
            raise CoopInitError(
                f"loader (a {type(self._loader).__name__}) {ended}; those without data or smaller than the first one "
                "are left out. Give the DataLoader itself or a list of batches, which can be iterated again, or an "
                "endless iterator; with drop_last=True the data must fill one batch."
            )
        return self._kept[0][1]

    def __next__(self) -> Any:
        self.peek()
        return self._kept.pop(0)[1]

    def ahead(self) -> list[Any]:
        """The next batches, up to 512 samples or the end of the epoch. They are looked at, not used up."""
        samples = numbers = 0
        batch = self.peek()
        while True:
            samples += batch_size(batch) or AHEAD
            numbers += sum(part.tensor.numel() for part in parts(batch))
            if samples >= AHEAD or numbers >= ROOM or not self._look():
                return [batch for _, batch in self._kept]
            batch = self._kept[-1][1]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is; batches that were looked at are to be taken again."""
        used = self._kept[0][0] - 1 if self._kept else self._read
        return {"used": used, "kept": len(self._kept), "ended": self._ended, "randomness": self._randomness}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the same epoch (an iterator is taken to be a new one), and leave out the batches already used."""
        if self.once and state["used"] < self._read:  # interrupted before the first batch was used, as here
            return
        self._kept.clear()
        if not self.once:
            set_random_state(state["randomness"], self.generators)
            self._begin()
        for _ in range(state["used"] - self._read):
            next(self._iterator, None)
        self._read, self._randomness = state["used"], state["randomness"]
        for _ in range(state["kept"] + state["ended"]):
            self._look()


def _form(batch: Any) -> dict[str, Any]:
    """By name: shape and dtype of each tensor that has one row a sample, the number of samples aside."""
    rows = [part for part in parts(batch) if part.tensor.shape[:1] == (batch_size(batch),)]
    return {part.name: (part.tensor.shape[1:], part.tensor.dtype) for part in rows}
