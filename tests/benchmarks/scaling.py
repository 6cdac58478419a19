"""Samples a second of two processes on two cores against one pinned to one, ``python -m tests.benchmarks.scaling``.

A DCGAN of 32×32 images, whose gradients are 23 MB, batch 64 or 32 in each process. The machine has to be idle; its
load is printed along, and the ratio of two processes that do not know of each other: what two cores can do at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

ITERATIONS = 20
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def work(batch: int) -> None:
    """One process of a measurement: print the samples a second of all of them."""
    from coopinit_plugin import Adapter, WarmStartConfig, warm_start
    from examples.dcgan.networks import Discriminator, Generator, weights_init

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {int(os.environ.get("RANK", os.environ.get("CORE", 0)))})
    torch.manual_seed(0)
    G, D = Generator(size=32).apply(weights_init), Discriminator(size=32, width=64).apply(weights_init)
    loader = torch.utils.data.DataLoader(torch.rand(batch * 64, 3, 32, 32) * 2 - 1, batch)
    config = WarmStartConfig(iterations=ITERATIONS, handover="none")
    clocks = []

    def after_d_step(_: torch.nn.Module) -> None:
        clocks.append(time.perf_counter())

    adapter = Adapter(after_d_step=after_d_step)
    warm_start(G, D, loader, config=config, adapter=adapter, progress=False)
    if os.environ.get("RANK", "0") == "0":
        samples = (ITERATIONS - 2) * batch * int(os.environ.get("WORLD_SIZE", 1))
        print(samples / (clocks[-1] - clocks[1]))


def measure(batch: int, *launcher: str, core: int = 0) -> float:
    """Samples a second."""
    command = [sys.executable, *launcher, "-m", "tests.benchmarks.scaling", "work", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CORE": str(core)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]))
        sys.exit()
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        for batch in (64, 32):
            one, two = measure(batch), measure(batch, *TORCHRUN)
            with ThreadPoolExecutor() as both:
                apart = sum(both.map(lambda core, batch=batch: measure(batch, core=core), (0, 1)))
            told = f"{one:.1f} and {two:.1f} samples a second, ratio {two / one:.2f}; strangers {apart / one:.2f}"
            print(f"batch {batch}: {told}; load {os.getloadavg()[0]:.1f}", flush=True)
