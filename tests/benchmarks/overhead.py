"""What `warm_start` costs beside its iterations: ``python -m tests.benchmarks.overhead``.

A DCGAN of 64×64 images, 200 iterations: the seconds of the call, of its loop and of what the loop does beside
`cooperate`, the share of the automatic stop, and the seconds that ``import coopinit_plugin`` takes after ``import
torch``. In the process's own CPU time, one thread; on a GPU by the wall's clock.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.method import iteration
from coopinit_plugin.method.stopping import Plateau
from examples.study.cost import clock
from tests.benchmarks.iterations import DEVICE
from tests.benchmarks.networks import CASES
from tests.benchmarks.report import here

T = TypeVar("T")

IMPORT = """
import time, torch
began = time.process_time()
import coopinit_plugin
print(time.process_time() - began)
"""


def timed(what: Callable[..., T], times: list[tuple[float, float]]) -> Callable[..., T]:
    """The same, its beginnings and ends written down."""

    def call(*given: Any) -> T:
        began = clock()
        outcome = what(*given)
        times.append((began, clock()))
        return outcome

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a warm-up beside its iterations.")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--case", default="DCGAN 64²", choices=list(CASES))
    parser.add_argument("--steps", type=int, default=5, metavar="K")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    inside, stop = [], []
    iteration.cooperate = timed(iteration.cooperate, inside)
    Plateau.observe = timed(Plateau.observe, stop)
    case = CASES[asked.case]
    G, D = case.pair(DEVICE)
    loader = [case.data(DEVICE)[0] for _ in range(16)]
    for net in (G, D):
        torch.optim.Adam(net.parameters())  # the user's own; the first one of all imports half of torch
    config = WarmStartConfig(iterations=asked.iterations, langevin_steps=asked.steps)
    began, on_the_wall = clock(), time.perf_counter()
    warm_start(G, D, loader, config=config, accelerator=Accelerator(cpu=DEVICE == "cpu"), progress=False)
    total, wall = clock() - began, time.perf_counter() - on_the_wall
    once = statistics.median(end - start for start, end in inside)
    iterations = sum(end - start for start, end in inside)
    before, after = inside[0][0] - began, began + total - inside[-1][1]
    between = total - iterations - before - after
    imports = [
        float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    print("| part of the call | seconds | iterations' time |\n|---|---|---|")
    parts = {"iterations": iterations, "before the first": before, "between them": between, "after the last": after}
    for name, spent in parts.items():
        print(f"| {name} | {spent:.2f} | {spent / once:.2f} |")
    rest = total - iterations
    print(f"\nBeside the {asked.iterations} iterations: {rest / once:.2f} iterations' time, {rest / iterations:.1%}.")
    first = inside[0][1] - inside[0][0]
    print(f"The automatic stop: {sum(end - start for start, end in stop) / iterations:.2%} of the iterations' time.")
    print(f"One iteration: {1e3 * once:.3g} ms (median), the first {first:.2f} s; the call {wall:.1f} s of wall time.")
    print(f"`import coopinit_plugin` after `import torch`: {statistics.median(imports):.2f} s of CPU time.")
    print(f"{asked.case}, K = {asked.steps}. {here()}")


if __name__ == "__main__":
    main()
