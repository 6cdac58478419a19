"""The one place that knows Accelerate: device, precision, processes, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import held
from coopinit_plugin.host.process_group import join, no_group_left
from coopinit_plugin.host.randomness import loader_generators, samplers
from coopinit_plugin.method.kept import Undo, kept
from coopinit_plugin.nests import first_line


class _Failed(Exception):
    """Another process has failed and says so."""


class _Gone(Exception):
    """Another process does not answer any more."""


@dataclass
class Engine:
    """Where and how the warm-up runs.

    Processes talk only through `average`, `gather`, `gather_objects`, `from_main` and `any`. Each begins with one
    number by which a process says that it has failed; so a failure anywhere ends all of them at the next message, and
    no process waits for one that will not come.

    Attributes:
        accelerator: The user's own, or one made for this call.
        device: Where both networks and the batches go.
        is_main: Whether this is the process that reports.
        processes: How many processes run the warm-up together.
        index: Which of them this is, from 0.
    """

    accelerator: Any
    device: torch.device

    def __post_init__(self) -> None:
        self.is_main = bool(self.accelerator.is_main_process)
        self.processes, self.index = int(self.accelerator.num_processes), int(self.accelerator.process_index)

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast, as the Accelerator says."""
        return self.accelerator.autocast()

    @contextmanager
    def loader(self, loader: Any) -> Iterator[tuple[Any, bool]]:
        """This process's part of the loader, and whether it is one; the user's loader is as it was at the end.

        The plain DataLoader inside Accelerate's is used: that one exchanges random states at each epoch's start, which
        processes with different numbers of batches reach at different times.
        """
        ours = isinstance(loader, torch.utils.data.DataLoader)
        drawn_from = [owner for owner in samplers(loader) if ours and hasattr(owner, "__dict__")]
        with kept(*(_entries(vars(owner)) for owner in drawn_from)):
            part, is_part = self._shard(loader) if ours and self.processes > 1 else (loader, self.processes == 1)
            yield getattr(part, "base_dataloader", part), is_part

    def _shard(self, loader: Any) -> tuple[Any, bool]:
        from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, prepare_data_loader

        part, is_part = loader, not isinstance(loader, DataLoaderDispatcher)
        prepared = isinstance(loader, (DataLoaderShard, DataLoaderDispatcher))
        if not prepared and getattr(loader.sampler, "num_replicas", 1) != self.processes:  # no DistributedSampler
            part = prepare_data_loader(
                loader,
                num_processes=self.processes,
                process_index=self.index,
                split_batches=self.accelerator.split_batches,
                even_batches=self.accelerator.even_batches,
                dispatch_batches=False,
            )
        for generator in loader_generators(loader):  # a shuffle is shared out only if it is the same everywhere
            state = generator.get_state()
            self.from_main([state])
            generator.set_state(state)
        return part, is_part

    def average(self, tensors: list[Tensor]) -> None:
        """The mean of each tensor over all processes, in place: one message for each dtype among them."""
        if self.processes == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with self._talking():
                torch.distributed.all_reduce(flat)  # Accelerate's own copies the gradients once more
            flat /= self.processes
            for tensor, part in zip(alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def gather(self, values: Tensor) -> Tensor:
        """One row per process, in their order."""
        if self.processes == 1:
            return values[None]
        with self._talking():
            return self.accelerator.gather(values[None].contiguous())

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
        from accelerate.utils import broadcast_object_list

        told = [[tensor.detach().cpu() for tensor in tensors] if self.is_main else None]
        with self._talking():
            broadcast_object_list(told)
        for tensor, value in zip(tensors, told[0] or (), strict=True):
            tensor.detach().copy_(value)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has raised it."""
        if self.processes == 1:
            return list(flags)
        told = torch.tensor(flags, dtype=torch.float32, device=self.device)
        return [value > 0 for value in self.gather(told).amax(0).tolist()]

    def log(self, measures: dict[str, float], iteration: int) -> None:
        """Pass an iteration's measures to the user's trackers, as ``coopinit/name``, their step counters untouched.

        Weights & Biases drops rows that go back, so the measures join the row that is open, and the last ones stay.
        Trackers of kinds that are not known here, the user's own classes too, are given no step.
        """
        named = {f"coopinit/{name}": value for name, value in measures.items()}
        for tracker in self.accelerator.trackers if self.is_main else ():
            if tracker.name in ("tensorboard", "mlflow", "aim", "clearml"):  # they count steps for each name
                tracker.log(named, step=iteration)
            elif tracker.name == "wandb":
                tracker.log(named, commit=False)
            elif tracker.name not in ("dvclive", "trackio", "swanlab"):  # these would advance with every call
                tracker.log(named)

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
            with suppress(_Gone):
                with suppress(_Failed), self._talking(failed=True):
                    pass
                self._who_failed(f"{type(error).__name__}: {error}")
            raise

    def _who_failed(self, mine: str | None) -> str:
        words = ["The warm-up has failed in another process, so it ends in all; the networks are untouched."]
        with suppress(RuntimeError):
            told = enumerate(self._all_objects(mine))
            words += [f"Process {index} of {self.processes}: {text}" for index, text in told if text is not None]
        return "\n".join(words)

    @contextmanager
    def _talking(self, *, failed: bool = False) -> Iterator[None]:
        """Around a message: first the number that says whether all are well; Ctrl-C waits until the message is out."""
        with held():
            try:
                if float(self.accelerator.reduce(torch.tensor(float(failed), device=self.device), "sum")) > 0:
                    raise _Failed
                yield
            except RuntimeError as error:
                raise _Gone from error

    def _all_objects(self, value: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([value])


@contextmanager
def engine(accelerator: Any, given: torch.device | None) -> Iterator[Engine]:
    """Run through the user's Accelerator, or through one made here; every global state is as before at the end.

    Args:
        accelerator: The user's own, or ``None``.
        given: The device of the user's networks; used if it is no CPU, there is one process and no Accelerator.

    Raises:
        CoopInitError: for engines that shard the weights themselves, and for fp16.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import DistributedType

    if accelerator is not None and not isinstance(accelerator, Accelerator):
        raise CoopInitError(
            f"accelerator is a {type(accelerator).__name__}; expected your accelerate.Accelerator, or None."
        )
    singletons = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    with kept(no_group_left(), _threads(), _entries(os.environ), *map(_entries, singletons)):
        ours = accelerator or (Accelerator(cpu=True) if join(bool(PartialState._shared_state)) else Accelerator())
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
        alone = accelerator is None and ours.num_processes == 1
        yield Engine(ours, given if alone and given is not None and given.type != "cpu" else ours.device)


def _entries(mapping: MutableMapping[str, Any]) -> Undo:
    """Save what a dictionary holds: the attributes of an object, the environment."""
    saved = dict(mapping)

    def undo() -> None:
        for key in mapping.keys() - saved.keys():
            del mapping[key]
        mapping.update(saved)

    return undo


def _threads() -> Undo:
    saved = torch.get_num_threads()
    return lambda: None if torch.get_num_threads() == saved else torch.set_num_threads(saved)
