"""A warm-up on its way, on disk: written whole or not at all, and gone on with only if it is whole and fits."""

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import brief, tensors_of

NAME = "checkpoint.pt"
SHARE = 0.02  # of the time may go into writing checkpoints
ARRAYS: list[Any] = [  # what arrays and numbers of NumPy's, as batches may hold, are read by
    *(numpy.ndarray, numpy.dtype, numpy.zeros(1).__reduce__()[0], numpy.float64(0).__reduce__()[0]),
    *{type(numpy.dtype(code)) for code in numpy.typecodes["All"]},
]


class Checkpoints:
    """The one checkpoint of a warm-up in `folder`, replaced by each newer one; `writes` in one process only."""

    def __init__(self, folder: str | Path | None, writes: bool = True) -> None:
        self.path = Path(folder or "") / NAME
        self._new = self.path.with_name(f".{NAME}.new")
        self._writes = folder is not None and writes
        self._next = 0.0  # when the next one is due

    @property
    def due(self) -> bool:
        """Whether the next one costs little against the time since the last."""
        return self._writes and time.monotonic() >= self._next

    def write(self, state: Any) -> None:
        """Replace the checkpoint by `state`, a nest of tensors."""
        if not self._writes:
            return
        began = time.monotonic()
        with self.writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # No graph, and no class of the user's own, which `weights_only` does not read.
            torch.save(tree_map_only(Tensor, lambda tensor: tensor.detach().as_subclass(Tensor), state), self._new)
            os.replace(self._new, self.path)
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE

    def read(self) -> dict[str, Any]:
        """The state that was written, on the CPU; only tensors and plain values are read, for a file may hold code."""
        with self.reading(), torch.serialization.safe_globals(ARRAYS):
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            state |= {"identity": {**state["identity"]}, "scale": state["scale"]}  # a file of something else has none
        return state

    def remove(self) -> None:
        """Forget the checkpoint."""
        with self.writing():
            for path in (self.path, self._new) if self._writes else ():
                path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say in words what stands against writing to the folder."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            what = f"output_dir={str(self.path.parent)!r} cannot be written ({error}); your networks are untouched"
            raise CoopInitError(f"{what}. Give a folder that you may write to, with room in it.") from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say in words that what is read is no whole checkpoint."""
        try:
            yield
        except Exception as error:  # torch.load has a dozen kinds
            what = f"{self.path} is no checkpoint of this library and version, or damaged ({type(error).__name__})"
            raise CoopInitError(f"{what}. Delete it, or call with resume=False, to begin anew.") from error


def identity(config: WarmStartConfig, processes: int, **networks: nn.Module) -> dict[str, Any]:
    """What has to be the same for a warm-up to go on: settings but the time budget, processes, networks' tensors."""
    same = {**dataclasses.asdict(config), "max_seconds": None, "the number of processes": processes}
    for name, module in networks.items():
        same |= {f"{name}.{key}": [list(t.shape), str(t.dtype)] for key, t in tensors_of(module).items()}
    return same


def check_same(was: dict[str, Any], now: dict[str, Any], where: object) -> None:
    """Refuse to go on with what was begun differently, saying what differs."""
    pairs = {key: (was.get(key, "not there"), now.get(key, "not there")) for key in {**was, **now}}
    if differences := [f"{key} was {then!r} and is {here!r}" for key, (then, here) in pairs.items() if then != here]:
        raise CoopInitError(
            f"{where} holds a warm-up of other networks, settings or version ({brief(differences)}); yours stay as is. "
            "Call with what it was begun with, or another output_dir, or resume=False to begin anew there."
        )
