"""The one place that knows Accelerate: device, precision, processes, and what they tell each other."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.process_group import leave_group, make_group, process_group
from coopinit_plugin.host.randomness import loader_generators, samplers
from coopinit_plugin.host.signals import held
from coopinit_plugin.nests import first_line


class _Failed(Exception):
    """Another process has failed and says so."""


STEP_PER_NAME = ("tensorboard", "mlflow", "aim", "clearml")
ADVANCE_WITH_EVERY_CALL = ("dvclive", "trackio", "swanlab")


@dataclass
class Engine:
    """Where and how the warm-up runs.

    Processes talk only through `sum`, `gather`, `gather_objects`, `from_main` and `any`. Each begins with one number
    by which a process says that it has failed; so a failure anywhere ends all of them at the next word, and no process
    waits for one that will not come.

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

    @property
    def index(self) -> int:
        """Which of them this is, from 0."""
        return int(self.accelerator.process_index)

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast, as the Accelerator says."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    @contextmanager
    def loader(self, loader: Any) -> Iterator[tuple[Any, bool]]:
        """This process's part of the loader, and whether it is one; the user's loader as it was at the end.

        The plain DataLoader inside Accelerate's is used: that one exchanges random states at each epoch's start, which
        processes with different numbers of batches reach at different times.
        """
        ours = isinstance(loader, torch.utils.data.DataLoader)
        drawn_from = [(owner, dict(vars(owner))) for owner in samplers(loader) if hasattr(owner, "__dict__") and ours]
        try:
            part, is_part = loader, self.processes == 1
            if ours and not is_part:
                part, is_part = self._shard(loader)
            yield getattr(part, "base_dataloader", part), is_part
        finally:
            for owner, attributes in drawn_from:
                vars(owner).clear()
                vars(owner).update(attributes)

    def _shard(self, loader: Any) -> tuple[Any, bool]:
        from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, prepare_data_loader

        if isinstance(loader, (DataLoaderShard, DataLoaderDispatcher)):
            part, is_part = loader, isinstance(loader, DataLoaderShard)
        elif getattr(loader.sampler, "num_replicas", 1) == self.processes:  # a DistributedSampler
            part, is_part = loader, True
        else:
            part, is_part = (
                prepare_data_loader(
                    loader,
                    num_processes=self.processes,
                    process_index=self.index,
                    split_batches=self.accelerator.split_batches,
                    even_batches=self.accelerator.even_batches,
                    dispatch_batches=False,
                ),
                True,
            )
        for generator in loader_generators(loader):  # a shuffle is shared out only if it is the same everywhere
            state = generator.get_state()
            self.from_main([state])
            generator.set_state(state)
        return part, is_part

    def sum(self, tensors: list[Tensor]) -> None:
        """Add up each tensor over all processes, in place: one message for each dtype among them."""
        if self.processes == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            with self._talking():
                torch.distributed.all_reduce(flat)  # Accelerate's own copies the gradients once more
            _put(flat, alike)

    def average(self, tensors: list[Tensor]) -> None:
        """The mean of each tensor over all processes, in place."""
        self.sum(tensors)
        if self.processes > 1 and tensors:
            torch._foreach_div_([tensor.detach() for tensor in tensors], self.processes)

    def gather(self, values: Tensor) -> Tensor:
        """One row per process, in their order."""
        if self.processes == 1:
            return values[None]
        with self._talking():
            gathered: Tensor = self.accelerator.gather(values[None].contiguous())
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

    def gather_objects(self, value: Any) -> list[Any]:
        """Any object of each process, in their order."""
        if self.processes == 1:
            return [value]
        with self._talking():
            return self._all_objects(value)

    def from_main(self, tensors: list[Tensor]) -> None:
        """The main process's values for all, in place, bit for bit."""
        if self.processes == 1:
            return
        from accelerate.utils import broadcast

        as_bytes = [tensor.detach().contiguous().reshape(-1).view(torch.uint8).to(self.device) for tensor in tensors]
        with self._talking():
            told = broadcast(torch.cat(as_bytes))
        for tensor, part in zip(tensors, told.split([len(part) for part in as_bytes]), strict=True):
            tensor.detach().copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has raised it."""
        if self.processes == 1:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return [value > 0 for value in self.gather(told).amax(0).tolist()]

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let a failure of one process inside end all of them, each with the message of the one that failed."""
        if self.processes == 1:
            yield
            return
        try:
            yield
            self.any(False)  # nobody leaves before all have come here whole
        except _Failed:
            raise CoopInitError(self._who_failed(None)) from None
        except _Gone as gone:
            raise CoopInitError(
                f"Another process has ended without a word ({first_line(gone.__cause__ or gone)}): was it killed, for "
                "memory perhaps? The networks are untouched. Its own output tells more."
            ) from gone
        except BaseException as error:
            try:
                with self._talking(failed=True):
                    pass
            except _Failed:
                self._who_failed(f"{type(error).__name__}: {error}")
            except _Gone:
                pass
            raise

    def _who_failed(self, mine: str | None) -> str:
        try:
            told = [(index, text) for index, text in enumerate(self._all_objects(mine)) if text is not None]
        except RuntimeError:
            told = []
        which = "\n".join(f"Process {index} of {self.processes}: {text}" for index, text in told)
        return f"The warm-up has failed in another process, so it ends in all; the networks are untouched.\n{which}"

    @contextmanager
    def _talking(self, *, failed: bool = False) -> Iterator[None]:
        """Around a message: first the number that says whether all are well; signals wait until the message is out."""
        with held(signal.SIGINT, signal.SIGTERM):
            try:
                if float(self.accelerator.reduce(torch.tensor(float(failed), device=self.device), "sum")) > 0:
                    raise _Failed
                yield
            except RuntimeError as error:
                raise _Gone from error

    def _all_objects(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        told: list[Any] = gather_object([value])
        return told


class _Gone(Exception):
    """Another process does not answer any more."""


@contextmanager
def engine(accelerator: Any, given: torch.device | None) -> Iterator[Engine]:
    """Run through the user's Accelerator, or through one made here; every global state as before at the end.

    Args:
        accelerator: The user's own, or ``None``.
        given: The device of the user's networks; kept where it is no CPU and there is one process.

    Raises:
        CoopInitError: for engines that shard the weights themselves, and for fp16.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    if accelerator is not None and not isinstance(accelerator, Accelerator):
        raise CoopInitError(
            f"accelerator is a {type(accelerator).__name__}; expected your accelerate.Accelerator, or None."
        )
    with _kept_state():
        ours = accelerator or _accelerator(Accelerator)
        if ours.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM):
            raise CoopInitError(
                f"The Accelerator runs {ours.distributed_type.value}, which shards one model's weights and takes no "
                "second one. Call warm_start before it is made, in a plain process, save the result with "
                'result.save_pretrained("init/") and load_into your networks before sharding them.'
            )
        if ours.mixed_precision not in ("no", "bf16"):
            raise CoopInitError(
                f"The Accelerator runs in {ours.mixed_precision}, in which the chain's gradients underflow. Use "
                'Accelerator(mixed_precision="bf16") or "no" for the warm-up.'
            )
        kept = given is not None and given.type != "cpu" and accelerator is None and ours.num_processes == 1
        yield Engine(ours, given if kept and given is not None else ours.device)


def _accelerator(make: Any) -> Any:
    """An Accelerator that runs all the processes that the environment, or a process group, speaks of."""
    grouped = process_group()
    if grouped:
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        spawned_by_hand = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        for name, value in spawned_by_hand.items():  # Accelerate reads nothing else
            os.environ.setdefault(name, str(value))
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    on_cpu = several and not torch.accelerator.is_available()  # Accelerate alone would run each process for itself
    from accelerate.state import PartialState

    if several and not grouped and not PartialState._shared_state and torch.distributed.is_available():
        make_group(on_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"))
    return make(cpu=True) if on_cpu else make()


@contextmanager
def _kept_state() -> Iterator[None]:
    """Accelerate's singletons, the environment, the thread count and the process group, as before at the end."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    singletons = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    saved = [copy.copy(dict(state)) for state in singletons]
    environment = dict(os.environ)
    threads = torch.get_num_threads()
    grouped = process_group()
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
        if process_group() and not grouped:
            leave_group()


def _put(flat: Tensor, tensors: list[Tensor]) -> None:
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view(tensor.shape))
