"""A warm-up on its way, on disk: written whole or not at all, tensors and plain values only."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError

logger = logging.getLogger(__name__)

NAME = "checkpoint.safetensors"
SHARE = 0.02  # of the time may go into writing checkpoints
BUDGETS = ("max_seconds",)  # settings that may differ when the warm-up goes on


class Checkpoints:
    """The one checkpoint of a warm-up in a folder, replaced by each newer one, gone when the result is there.

    Args:
        folder: ``output_dir``, or ``None``: nothing is written.
        writes: Whether this is the process that writes.
    """

    def __init__(self, folder: str | Path | None, writes: bool = True) -> None:
        self.path = None if folder is None else Path(folder) / NAME
        self._writes = writes
        self._next = 0.0  # when the next one is due

    @property
    def exists(self) -> bool:
        """Whether there is one to go on from; half a one is never called so."""
        return self.path is not None and self.path.exists()

    @property
    def due(self) -> bool:
        """Whether the next one costs little against the time since the last."""
        return self.path is not None and self._writes and time.monotonic() >= self._next

    def write(self, state: Any) -> None:
        """Replace the checkpoint by `state`, a nest of tensors and plain values.

        Raises:
            CoopInitError: where the folder cannot be written, at the first one; later ones are only warned of.
        """
        if self.path is None or not self._writes:
            return
        began, first = time.monotonic(), self._next == 0
        new = self.path.with_name(f".{NAME}.new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            tensors: dict[str, Tensor] = {}
            told = json.dumps(_plain(state, tensors, {}))
            safetensors.torch.save_file(tensors, new, metadata={"format": "pt", "state": told})
            with open(new, "rb") as file:
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except (OSError, safetensors.SafetensorError) as error:
            why = getattr(error, "strerror", None) or error
            if first:
                raise CoopInitError(
                    f"output_dir={str(self.path.parent)!r} cannot be written ({why}); a checkpoint was to go there. "
                    "Your networks are untouched. Give a folder that you may write to."
                ) from error
            logger.warning("The checkpoint in %s could not be written (%s); going on without.", self.path.parent, why)
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE

    def read(self) -> Any:
        """The state that was written.

        Raises:
            CoopInitError: where the file is damaged, or not ours.
        """
        assert self.path is not None
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                told = json.loads((file.metadata() or {})["state"])
                return _nest(told, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise CoopInitError(
                f"{self.path} is no checkpoint of this library, or was damaged ({type(error).__name__}: {error}). "
                "Delete it, or call warm_start with resume=False, to begin anew."
            ) from error

    def remove(self) -> None:
        """Forget the checkpoint."""
        if self.path is not None and self._writes:
            for path in (self.path, self.path.with_name(f".{NAME}.new")):
                if path.exists():
                    path.unlink()


def identity(config: WarmStartConfig, processes: int, **networks: nn.Module) -> dict[str, Any]:
    """What has to be the same for a warm-up to go on: settings, processes, the networks' tensors."""
    shapes = {
        f"{name}.{key}": [list(tensor.shape), str(tensor.dtype)]
        for name, module in networks.items()
        for key, tensor in tensors_of(module).items()
    }
    return {"config": settings(config), "processes": processes, "tensors": shapes}


def settings(config: WarmStartConfig) -> dict[str, Any]:
    """The settings that decide about the weights."""
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in BUDGETS}


def check_same(saved: dict[str, Any], asked: dict[str, Any], where: object) -> None:
    """Refuse to go on with what was begun differently.

    Raises:
        CoopInitError: saying what differs.
    """
    differences = [
        f"{key} was {was.get(key, 'not there')!r} and is {now.get(key, 'not there')!r}"
        for was, now in (
            (saved["config"], asked["config"]),
            ({"the number of processes": saved["processes"]}, {"the number of processes": asked["processes"]}),
            (saved["tensors"], asked["tensors"]),
        )
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key)
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise CoopInitError(
            f"{where} holds a warm-up of other networks or settings: {'; '.join(differences[:3])}{more}. Your networks "
            "are untouched. Call with what it was begun with, or with another output_dir, or with resume=False to "
            "begin anew there."
        )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, those that are not saved with the module included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def put_back(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Write saved values into a module's parameters and buffers."""
    for key, tensor in tensors_of(module).items():
        tensor.copy_(saved[key])


def put_back_adam(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimizer its state again, in the memory format of its parameters."""
    optimizer.load_state_dict(saved)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _plain(nest: Any, tensors: dict[str, Tensor], names: dict[int, str]) -> Any:
    """The nest as JSON has it, its tensors put aside; one that comes twice is stored once."""
    if isinstance(nest, Tensor):
        if id(nest) not in names:
            names[id(nest)] = str(len(names))
            tensors[names[id(nest)]] = nest.detach().to("cpu", copy=True).contiguous()
        return {"tensor": names[id(nest)]}
    if isinstance(nest, dict):
        return {"dict": [[_plain(k, tensors, names), _plain(v, tensors, names)] for k, v in nest.items()]}
    if isinstance(nest, tuple):
        return {"tuple": [_plain(value, tensors, names) for value in nest]}
    return [_plain(value, tensors, names) for value in nest] if isinstance(nest, list) else nest


def _nest(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_nest(value, tensors) for value in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, inside),) = plain.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "tuple":
        return tuple(_nest(value, tensors) for value in inside)
    return {_nest(key, tensors): _nest(value, tensors) for key, value in inside}
