"""Peak memory of the warm-up against the user's own adversarial step: ``python -m tests.benchmarks.memory``.

Each number comes from a process of its own: the most memory that it held, less what it held once its networks were
built and torch was warm. On the CPU (Linux) that is the process's resident memory, where glibc gives back at once what
torch frees; on a GPU what torch had allocated.

What a warm-up holds between two iterations beside the user's G and D, in units of the weights of both:

| G's and D's copies | two Adams | G averaged | with "auto": best D and averaged G | in all |
|---|---|---|---|---|
| 1 | 2 | ½ | 1 | 3½ or 4½ |

The last column is counted, too: bytes of all tensors then alive, less the user's networks and data. Gradients (1) are
held from each backward pass to the step of the optimizers. When the loop is over, Adams and the best moment are gone
before the result's CPU copy (1) is made, and with it the values that the user's networks go back to if the writing of
the new ones is interrupted (1).
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.report import StepReport
from coopinit_plugin.stopping import Plateau
from tests.benchmarks.iterations import DEVICE, Adversarial, Contender, Library, PlainScript
from tests.benchmarks.networks import CASES
from tests.benchmarks.report import here


class WarmStart(Contender):
    """The whole call, on networks of the user's."""

    iterations: int | str = 3
    alive = 0.0

    def __call__(self) -> None:
        config = WarmStartConfig(iterations=self.iterations, langevin_steps=self.steps, max_iterations=3)
        warm_start(self.G, self.D, [self.x], config=config, callback=self.count, progress=False)

    def count(self, report: StepReport) -> None:
        """Bytes of all tensors alive, in units of the weights."""
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
        sizes = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.layout == torch.strided
        }
        self.alive = sum(sizes.values()) / 2**20


class WarmStartAuto(WarmStart):
    """As the default has it; each of its moments counts as the best, which it remembers."""

    iterations = "auto"

    def __call__(self) -> None:
        Plateau.at_best = property(lambda self: True, lambda self, value: None)
        super().__call__()


RUNS = {
    "adversarial": Adversarial,
    "iteration": Library,
    "plain script": PlainScript,
    "warm_start, iterations=3": WarmStart,
    "warm_start, auto": WarmStartAuto,
}


def resident() -> float:
    """Memory held now, MB."""
    if DEVICE == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def forget_the_peak() -> None:
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The most memory held since, MB. Not ``ru_maxrss``: a process inherits its parent's."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def once(case: str, run: str, steps: int) -> tuple[float, float, float]:
    """(Peak above networks and data in MB, weights of G and D in MB, what was held in units of the weights)."""
    torch.set_num_threads(1)
    warm = RUNS[run](CASES[case], 2)  # what is loaded at first use, code among it, is on no one's account
    warm()
    del warm
    made = RUNS[run](CASES[case], steps)
    gc.collect()
    forget_the_peak()
    before = resident()
    for _ in range(3 if "warm_start" not in run else 1):
        made()
    weights = sum(p.numel() * p.element_size() for net in (made.G, made.D) for p in net.parameters()) / 2**20
    own = weights + sum(t.numel() * t.element_size() for t in (made.x, made.z)) / 2**20
    return peak() - before, weights, max(getattr(made, "alive", 0.0) - own, 0.0) / weights


def apart(case: str, run: str, steps: int) -> list[float]:
    """What `once` says, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--steps", str(steps), "--once", case, run]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    return [float(word) for word in subprocess.check_output(command, text=True, env=environment).split()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of a cooperative iteration.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--once", nargs=2, metavar=("CASE", "RUN"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        print(*once(*asked.once, asked.steps))
        return
    print("| pair | weights, MB | adversarial step, MB | " + " | ".join(list(RUNS)[1:]) + " | copies held: 3, auto |")
    print("|---" * (len(RUNS) + 3) + "|")
    for case in [name for name in CASES if not name.startswith("tiny")]:
        told: dict[str, list[float]] = {}
        for run in RUNS:
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.memory",
                "--steps",
                str(asked.steps),
                "--once",
                case,
                run,
            ]
            each = [
                subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(asked.repeats)
            ]
            told[run] = [
                statistics.median(column) for column in zip(*(map(float, out.split()) for out in each), strict=True)
            ]
        base, weights = told["adversarial"][0], told["adversarial"][1]
        row = [f"{told[run][0] / base:.2f}" for run in list(RUNS)[1:]]
        held = ", ".join(f"{told[run][2]:.1f}" for run in RUNS if run.startswith("warm_start"))
        print(f"| {case} | {weights:.0f} | {base:.0f} | " + " | ".join(row) + f" | {held} |", flush=True)
    print(f"\nK = {asked.steps}; medians of {asked.repeats} processes each, in units of the adversarial step. {here()}")


if __name__ == "__main__":
    main()
