"""The one place that knows Accelerate: device, precision, processes, and what they tell each other."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.randomness import loader_generators
from coopinit_plugin.method.kept import entries, kept
from coopinit_plugin.nests import batch_size

_groups_made = itertools.count()


class Engine:
    """Where and how the warm-up runs: in which of how many processes, on which device, by whose Accelerator."""

    def __init__(self, accelerator: Any, device: torch.device) -> None:
        self.accelerator, self.device = accelerator, device
        self.is_main = bool(accelerator.is_main_process)
        self.processes, self.index = int(accelerator.num_processes), int(accelerator.process_index)

    def part_of(self, loader: Any) -> Any:
        """This process's part of a DataLoader; any other loader is taken to be one."""
        from accelerate.data_loader import DataLoaderShard, prepare_data_loader

        if self.processes > 1 and isinstance(loader, torch.utils.data.DataLoader):
            for generator in loader_generators(loader):  # a shuffle is shared out only if it is the same everywhere
                state = generator.get_state()
                self.from_main([state])
                generator.set_state(state)
            of_samplers = getattr(loader.sampler, "num_replicas", 1) == self.processes  # a DistributedSampler
            if not (of_samplers or isinstance(loader, DataLoaderShard)):
                plain = getattr(loader, "base_dataloader", loader)  # of one that lets the main process read for all
                loader = prepare_data_loader(plain, None, self.processes, self.index, dispatch_batches=False)
        # Accelerate's DataLoader lets all processes talk when one begins an epoch; the plain one inside does not.
        return getattr(loader, "base_dataloader", loader)

    def check_first(self, batch: Any, config: Any) -> None:
        """Refuse settings, and first batches whose number of samples, that differ between the processes."""
        if len({*self.gather_objects(config)}) > 1:
            raise CoopInitError(f"The processes' settings differ, here {config}. Give all the same, the seed included.")
        sizes = self.gather_objects(batch_size(batch))
        if len({*sizes}) > 1:
            told = f"The processes' first batches have {', '.join(map(str, sizes))} samples; expected the same number"
            raise CoopInitError(f"{told}. Give every process the same batch_size, with drop_last=True.")

    def average(self, tensors: list[Tensor]) -> None:
        """The mean of each tensor over all processes, in place, by one message."""
        if self.processes > 1 and tensors:
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
            torch.distributed.all_reduce(flat)  # Accelerate's own copies the gradients once more
            means = torch.split(flat.div_(self.processes), [tensor.numel() for tensor in tensors])
            for tensor, mean in zip(tensors, means, strict=True):
                tensor.detach().copy_(mean.view(tensor.shape))

    def from_main(self, tensors: list[Tensor]) -> None:
        """The main process's values for all, in place, bit for bit."""
        if self.processes > 1:
            told = [[tensor.detach().cpu() for tensor in tensors]]
            torch.distributed.broadcast_object_list(told)
            for tensor, value in zip(tensors, told[0], strict=True):
                tensor.detach().copy_(value)

    def gather(self, values: Tensor) -> Tensor:
        """One row per process, in their order."""
        return self.accelerator.gather(values[None].contiguous()) if self.processes > 1 else values[None]

    def gather_objects(self, value: Any) -> list[Any]:
        """Any object of each process, in their order."""
        told = [value] * self.processes
        if self.processes > 1:
            torch.distributed.all_gather_object(told, value)
        return told

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has raised it."""
        return [any(raised) for raised in zip(*self.gather_objects(flags), strict=True)]


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
        kind, precision = ours.distributed_type.value, ours.mixed_precision
        if kind in ("DEEPSPEED", "FSDP", "MEGATRON_LM") or precision not in ("no", "bf16"):
            raise CoopInitError(
                f"The Accelerator runs {kind}, precision {precision!r}. DeepSpeed and FSDP shard one model and take no "
                "second one; in fp16 the chain's gradients underflow. Call warm_start before, in a plain process or "
                'with Accelerator(mixed_precision="bf16"), save the result and load_into your networks before sharding.'
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
