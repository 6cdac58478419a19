"""Two processes with a process group of the user's, and nothing about it in the environment."""

from __future__ import annotations

import os
import sys

import torch.distributed
import torch.multiprocessing

from coopinit_plugin.host.engine import leave_group
from launched import cases


def run(rank: int, folder: str, *names: str) -> None:
    """Join, run the cases, leave."""
    os.environ.pop("ACCELERATE_USE_CPU", None)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    cases.run(folder, *names)
    assert torch.distributed.is_initialized()
    assert "WORLD_SIZE" not in os.environ
    leave_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(run, tuple(sys.argv[1:]), nprocs=2, start_method="fork")
