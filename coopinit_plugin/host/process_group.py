"""A process group of torch.distributed, made beside the one that the user has or will make, and left again."""

from __future__ import annotations

import itertools
import os
import time

import torch
import torch.distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from coopinit_plugin.method.kept import Undo

_made = itertools.count()

SETTLED = 0.1  # seconds in which gloo's threads let go of the last message


def process_group() -> bool:
    """Whether there is one."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def join(accelerate_knows: bool) -> bool:
    """Make sure that Accelerate finds all the processes that the environment, or a process group, speaks of.

    Args:
        accelerate_knows: Whether it has found them before.

    Returns:
        Whether it has to be told to run on the CPU.
    """
    grouped = process_group()
    if grouped:
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        spawned_by_hand = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
        for name, value in spawned_by_hand.items():  # Accelerate reads nothing else
            os.environ.setdefault(name, str(value))
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    on_cpu = several and not torch.accelerator.is_available()  # Accelerate alone would run each process for itself
    if several and not grouped and not accelerate_knows and torch.distributed.is_available():
        _make_group(on_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"))
    return on_cpu


def _make_group(on_cpu: bool) -> None:
    """Make a group under a name of its own, so that the user's group, made later, does not find its addresses."""
    count = next(_made)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and "MASTER_PORT" in os.environ:
        # No launcher keeps the store: process 0 does, on a port of its own, for the first one may still be closing.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1 + count)
    if "LOCAL_RANK" in os.environ and torch.cuda.is_available() and not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, world = next(rendezvous("env://"))
    own = PrefixStore(f"coopinit_plugin/{count}", store)
    torch.distributed.init_process_group("gloo" if on_cpu else None, store=own, rank=rank, world_size=world)


def no_group_left() -> Undo:
    """If there is no process group yet, leave the one that is made."""
    grouped = process_group()
    return lambda: leave_group() if process_group() and not grouped else None


def leave_group() -> None:
    """Destroy the group.

    Gloo's threads free the tensors of a message after it has come, for which they need Python's lock; torch 2.6 waits
    for these threads with the lock held, for ever if it comes too soon.
    """
    time.sleep(SETTLED)
    torch.distributed.destroy_process_group()
