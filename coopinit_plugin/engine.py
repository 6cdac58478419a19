"""The one place that knows Accelerate: device, precision, processes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from coopinit_plugin.errors import CoopInitError

STEP_PER_NAME = ("tensorboard", "mlflow", "aim", "clearml")
ADVANCE_WITH_EVERY_CALL = ("dvclive", "trackio", "swanlab")


@dataclass
class Engine:
    """Where and how the warm-up runs.

    Attributes:
        accelerator: The user's own, or one made for this call.
        device: Where both networks and the batches go.
    """

    accelerator: Any
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports."""
        return bool(self.accelerator.is_main_process)

    @property
    def processes(self) -> int:
        """How many processes run the warm-up together."""
        return int(self.accelerator.num_processes)

    def prepare(self, module: nn.Module) -> nn.Module:
        """A copy on its device, with autocast and DDP as the Accelerator says."""
        prepared: nn.Module = self.accelerator.prepare_model(module.to(self.device))
        return prepared

    def loader(self, loader: Any) -> Any:
        """The loader, sharded where there are several processes."""
        if self.processes > 1 and isinstance(loader, torch.utils.data.DataLoader):
            return self.accelerator.prepare_data_loader(loader)
        return loader

    def gather(self, values: Tensor) -> Tensor:
        """One row per process."""
        if self.processes == 1:
            return values[None]
        gathered: Tensor = self.accelerator.gather(values[None])
        return gathered

    def log(self, measures: dict[str, float], iteration: int) -> None:
        """Pass an iteration's measures to the user's trackers, as ``coopinit/name``, their step counters untouched.

        Trackers that count steps for each name get the iteration as the step. Weights & Biases counts rows and drops
        those that go back, so the measures join the row that is open: the last ones stay, in the user's first row.
        Trackers that advance with every call are left alone. Others, the user's own classes too, are given no step.
        """
        if not self.is_main:
            return
        named = {f"coopinit/{name}": value for name, value in measures.items()}
        for tracker in self.accelerator.trackers:
            if tracker.name in STEP_PER_NAME:
                tracker.log(named, step=iteration)
            elif tracker.name == "wandb":
                tracker.log(named, commit=False)
            elif tracker.name not in ADVANCE_WITH_EVERY_CALL:
                tracker.log(named)


@contextmanager
def engine(accelerator: Any, given: torch.device | None) -> Iterator[Engine]:
    """Run through the user's Accelerator, or through one made here; every global state as before at the end.

    Args:
        accelerator: The user's own, or ``None``.
        given: The device of the user's networks; kept where it is no CPU.

    Raises:
        CoopInitError: for engines that shard the weights themselves.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    if accelerator is not None and not isinstance(accelerator, Accelerator):
        raise CoopInitError(
            f"accelerator is a {type(accelerator).__name__}; expected your accelerate.Accelerator, or None."
        )
    with _kept_state():
        ours = accelerator or Accelerator()
        if ours.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
            raise CoopInitError(
                f"The Accelerator runs {ours.distributed_type.value}, which shards one model's weights and takes no "
                "second one. Call warm_start before it is made, in a plain process, save the result with "
                'result.save_pretrained("init/") and load_into your networks before sharding them.'
            )
        if ours.mixed_precision == "fp16":
            raise CoopInitError(
                "The Accelerator runs in fp16, in which the chain's gradients underflow. Use "
                'Accelerator(mixed_precision="bf16") or "no" for the warm-up.'
            )
        registered = {name: list(getattr(ours, name)) for name in ("_models", "_dataloaders") if hasattr(ours, name)}
        device = given if given is not None and given.type != "cpu" and accelerator is None else ours.device
        try:
            yield Engine(ours, device)
        finally:
            for name, members in registered.items():
                getattr(ours, name)[:] = members


@contextmanager
def _kept_state() -> Iterator[None]:
    """Accelerate's singletons, the environment, the thread count and the process group, as before at the end."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    singletons = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    saved = [copy.copy(dict(state)) for state in singletons]
    environment = dict(os.environ)
    threads = torch.get_num_threads()
    grouped = _process_group()
    try:
        yield
    finally:
        for state, before in zip(singletons, saved, strict=True):
            state.clear()
            state.update(before)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if _process_group() and not grouped:
            torch.distributed.destroy_process_group()


def _process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
