"""What bf16 does to the warm-up: modes of the stacked digits after it.

``python -m tests.benchmarks.precision SEED ...``.

Autocast on the CPU, 200 iterations, three ways: single precision, everything in bf16, and bf16 but for the chain.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.method import iteration
from examples.dcgan.networks import Discriminator, Generator, weights_init
from examples.helpers.digits import StackedDigits, coverage


def once(way: str, seed: int) -> tuple[int, float]:
    """(Modes among 10,000 samples, seconds)."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.manual_seed(seed)
    G, D = Generator().apply(weights_init), Discriminator().apply(weights_init)
    loader = torch.utils.data.DataLoader(StackedDigits(seed=seed), 64, shuffle=True, drop_last=True)
    langevin, autocast, in_chain = iteration.langevin, Accelerator.autocast, False

    def chain(*given, **named):
        nonlocal in_chain
        in_chain = way == "chain in single"
        try:
            return langevin(*given, **named)
        finally:
            in_chain = False

    def precision(accelerator: Accelerator) -> AbstractContextManager:
        return nullcontext() if in_chain else autocast(accelerator)

    with patch.object(iteration, "langevin", chain), patch.object(Accelerator, "autocast", precision):
        accelerator = Accelerator(mixed_precision="no" if way == "single" else "bf16", cpu=True)
        began = time.perf_counter()
        config = WarmStartConfig(iterations=200, seed=seed)
        warm_start(G, D, loader, config=config, accelerator=accelerator, progress=False)
        seconds = time.perf_counter() - began
    with torch.no_grad():
        return coverage(torch.cat([G(torch.randn(1000, 64, 1, 1)) for _ in range(10)]))[0], seconds


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in map(int, sys.argv[1:] or ("0", "1", "2")):
        for way in ("single", "bf16", "chain in single"):
            modes, seconds = once(way, seed)
            print(f"seed {seed}, {way:16} {modes:4} modes after {seconds:5.1f} s", flush=True)
