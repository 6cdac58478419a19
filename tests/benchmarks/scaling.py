"""Samples a second of two processes on two cores against one pinned to one, ``python -m tests.benchmarks.scaling``.

A DCGAN of 32×32 images, batch 32 in each process. The machine has to be idle; its load is printed along, and the same
by the processes' CPU time, which other jobs disturb less but which leaves out the waiting for each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import torch

ITERATIONS, BATCH = 12, 32


def work() -> None:
    """One process of a measurement: print the samples a second of all of them."""
    from coopinit_plugin import Adapter, WarmStartConfig, warm_start
    from examples.dcgan.networks import Discriminator, Generator, weights_init

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {int(os.environ.get("RANK", 0))})
    torch.manual_seed(0)
    G, D = Generator(size=32).apply(weights_init), Discriminator(size=32, width=64).apply(weights_init)
    loader = torch.utils.data.DataLoader(torch.rand(BATCH * 64, 3, 32, 32) * 2 - 1, BATCH)
    config = WarmStartConfig(iterations=ITERATIONS, handover="none")
    clocks = []

    def after_d_step(_: torch.nn.Module) -> None:
        clocks.append((time.perf_counter(), time.process_time()))

    adapter = Adapter(after_d_step=after_d_step)
    warm_start(G, D, loader, config=config, adapter=adapter, progress=False)
    if os.environ.get("RANK", "0") == "0":
        samples = (ITERATIONS - 2) * BATCH * int(os.environ.get("WORLD_SIZE", 1))
        print(*[samples / (last - first) for first, last in zip(clocks[1], clocks[-1], strict=True)])


def measure(processes: int) -> list[float]:
    """Samples a second, by the clock and by the main process's CPU time."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if processes == 2 else []
    command = [sys.executable, *launcher, "-m", "tests.benchmarks.scaling", "work"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return [float(value) for value in done.stdout.split()[-2:]]


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
            (one, one_cpu), (two, two_cpu) = measure(1), measure(2)
            told = (
                f"{one:.1f} and {two:.1f} samples a second, ratio {two / one:.2f}; by CPU time {two_cpu / one_cpu:.2f}"
            )
            print(f"{told}; load {os.getloadavg()[0]:.1f}", flush=True)
