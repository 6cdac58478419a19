"""The one place that knows Accelerate: device, precision, processes, and what they tell each other."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import held
from coopinit_plugin.host.randomness import loader_generators
from coopinit_plugin.method.kept import entries, kept
from coopinit_plugin.nests import batch_size, first_line, parts

logger = logging.getLogger(__name__)

SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "memoryerror")  # in any allocator's errors

_groups_made = itertools.count()


class _Elsewhere(BaseException):
    """Another process has failed. No ``except Exception`` on the way takes it for a failure of this one."""


class Engine:
    """Where and how the warm-up runs: in which of how many processes, on which device, by whose Accelerator.

    Every message between processes begins with one number by which a process says that it has failed; so a failure
    anywhere ends all of them at the next message, and no process waits for one that will not come.
    """

    def __init__(self, accelerator: Any, device: torch.device) -> None:
        self.accelerator, self.device = accelerator, device
        self.is_main = bool(accelerator.is_main_process)
        self.processes, self.index = int(accelerator.num_processes), int(accelerator.process_index)

    def part_of(self, loader: Any) -> Any:
        """This process's part of a DataLoader; any other loader is taken to be one."""
        from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, prepare_data_loader

        if self.processes > 1 and isinstance(loader, torch.utils.data.DataLoader):
            for generator in loader_generators(loader):  # a shuffle is shared out only if it is the same everywhere
                state = generator.get_state()
                self.from_main([state])
                generator.set_state(state)
            if isinstance(loader, DataLoaderDispatcher):  # there the main process reads for all
                loader = loader.base_dataloader
            of_samplers = getattr(loader.sampler, "num_replicas", 1) == self.processes  # a DistributedSampler
            if not (of_samplers or isinstance(loader, DataLoaderShard)):
                how = {name: getattr(self.accelerator, name) for name in ("split_batches", "even_batches")}
                how["dispatch_batches"] = False
                loader = prepare_data_loader(loader, None, self.processes, self.index, **how)
        # Accelerate's DataLoader lets all processes talk when one begins an epoch; the plain one inside does not.
        return getattr(loader, "base_dataloader", loader)

    def check_first(self, batch: Any) -> None:
        """Refuse first batches whose number of samples differs between the processes; warn if they are all the same."""
        if self.processes == 1:
            return
        content = str([float(part.tensor.double().sum()) for part in parts(batch)])
        sizes, contents = zip(*self.gather_objects((batch_size(batch), content)), strict=True)
        if len({*sizes}) > 1:
            raise CoopInitError(
                f"The first batches of the processes have {', '.join(map(str, sizes))} samples; expected the same "
                "number in each. Give every process the same batch_size, with drop_last=True."
            )
        if self.is_main and len({*contents}) == 1:
            logger.warning(
                "All %d processes are given the same first batch by the loader: they do the same work over again. Give "
                "a DataLoader, which is shared out, or each process its own part of the data.",
                self.processes,
            )

    def average(self, tensors: list[Tensor]) -> None:
        """The mean of each tensor over all processes, in place, by one message."""
        if self.processes == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._talking():
            torch.distributed.all_reduce(flat)  # Accelerate's own copies the gradients once more
        means = torch.split(flat.div_(self.processes), [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.detach().copy_(mean.view(tensor.shape))

    def from_main(self, tensors: list[Tensor]) -> None:
        """The main process's values for all, in place, bit for bit."""
        if self.processes == 1:
            return
        told = [[tensor.detach().cpu() for tensor in tensors] if self.is_main else []]
        with self._talking():
            torch.distributed.broadcast_object_list(told)
        for tensor, value in zip(tensors, told[0], strict=True):
            tensor.detach().copy_(value)

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
            return self._objects(value)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has raised it."""
        if self.processes == 1:
            return list(flags)
        return self.gather(torch.tensor(flags, dtype=torch.float32, device=self.device)).amax(0).bool().tolist()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let a failure of one process inside end all of them, each with the message of the one that failed."""
        try:
            yield
            self.any(False)  # nobody leaves before all have come here whole
        except _Elsewhere as failure:
            raise CoopInitError(str(failure)) from failure.__cause__
        except BaseException as error:
            plain = _out_of_memory(error)
            if self.processes > 1:
                with suppress(_Elsewhere), self._talking(f"{type(plain or error).__name__}: {plain or error}"):
                    pass
            if plain is not None:
                raise plain from None
            raise

    @contextmanager
    def _talking(self, failure: str | None = None) -> Iterator[None]:
        """Around a message: first the number that says whether all are well; Ctrl-C waits until the message is out."""
        with held():
            try:
                if float(self.accelerator.reduce(torch.tensor(float(failure is not None), device=self.device), "sum")):
                    told = self._objects(failure and f"\nProcess {self.index} of {self.processes}: {failure}")
                    words = "The warm-up has failed in another process, so it ends in all; the networks are untouched."
                    raise _Elsewhere("".join([words, *filter(None, told)]))
                yield
            except RuntimeError as error:
                raise _Elsewhere(
                    f"Another process has ended without a word ({first_line(error)}): was it killed, for memory "
                    "perhaps? The networks are untouched; its own output tells more."
                ) from error

    def _objects(self, value: Any) -> list[Any]:
        told: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(told, value)
        return told


def _out_of_memory(error: BaseException) -> CoopInitError | None:
    """One clear error in place of one that comes of running out of memory; nothing holds the memory after this."""
    chain = [error]
    while (cause := chain[0].__cause__ or chain[0].__context__) is not None and cause not in chain:
        chain.insert(0, cause)
    found = next((cause for cause in chain if any(sign in repr(cause).lower() for sign in SIGNS)), None)
    if found is None:
        return None
    for cause in chain:  # the frames of a traceback keep the tensors in them alive
        traceback.clear_frames(cause.__traceback__)
    gc.collect()
    torch.cuda.empty_cache()
    return CoopInitError(
        f"The warm-up ran out of memory ({first_line(found)}); your networks are untouched, and what it had taken is "
        "free again. Give it a loader with a smaller batch (half the batch takes about half the memory) or "
        'accelerator=Accelerator(mixed_precision="bf16"); langevin_steps costs time only.'
    )


@contextmanager
def engine(accelerator: Any, given: torch.device | None) -> Iterator[Engine]:
    """Run through the user's Accelerator, or through one made here; every global state is as before at the end.

    If the Accelerator is made here, in a single process, it runs on the `given` device unless that is a CPU.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    if not isinstance(accelerator, (Accelerator, type(None))):
        kind = type(accelerator).__name__
        raise CoopInitError(f"accelerator is a {kind}; expected an accelerate.Accelerator or None.")
    singletons = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    threads = partial(torch.set_num_threads, torch.get_num_threads())
    made = () if _grouped() else (leave_group,)  # no process group stays that was not there
    with kept(*made, threads, entries(os.environ), *map(entries, singletons)):
        ours = accelerator or Accelerator(cpu=_join(bool(PartialState._shared_state)))
        if (kind := ours.distributed_type.value) in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
            raise CoopInitError(
                f"The Accelerator runs {kind}, which shards one model's weights and takes no second one. Call "
                "warm_start before, in a plain process, save the result and load_into your networks before sharding."
            )
        if (kind := ours.mixed_precision) not in ("no", "bf16"):
            raise CoopInitError(
                f"The Accelerator runs in {kind}, in which the chain's gradients underflow. Use "
                'Accelerator(mixed_precision="bf16") or "no" for the warm-up.'
            )
        alone = accelerator is None and ours.num_processes == 1
        yield Engine(ours, given if alone and given is not None and given.type != "cpu" else ours.device)


def _join(accelerate_knows: bool) -> bool:
    """Let Accelerate find all processes of the environment or of a group; whether it has to be told to use the CPU."""
    if _grouped():  # maybe spawned by hand, while Accelerate reads the environment only
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        told = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({name: str(value) for name, value in told.items() if name not in os.environ})
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    on_cpu = several and not torch.accelerator.is_available()  # Accelerate alone would run each process for itself
    if several and not accelerate_knows and torch.distributed.is_available() and not _grouped():
        _make_group(on_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"))
    return on_cpu


def _make_group(on_cpu: bool) -> None:
    """Make a group under a name of its own, so that the user's group, made later, does not find its addresses."""
    count = next(_groups_made)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and "MASTER_PORT" in os.environ:
        # No launcher keeps the store: process 0 does, on a port of its own, for the first one may still be closing.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1 + count)
    store, rank, world = next(rendezvous("env://"))
    own = PrefixStore(f"coopinit_plugin/{count}", store)
    torch.distributed.init_process_group("gloo" if on_cpu else None, store=own, rank=rank, world_size=world)


def _grouped() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def leave_group() -> None:
    """Destroy the process group, if there is one, after gloo's threads have let go of the last message's tensors."""
    if _grouped():
        time.sleep(0.1)  # they need Python's lock for it; torch 2.6 waits for them with the lock held, for ever
        torch.distributed.destroy_process_group()
