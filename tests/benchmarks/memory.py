"""Peak memory of the warm-up against the user's own adversarial step: ``python -m tests.benchmarks.memory``.

On the CPU it is counted by torch's profiler, allocation by allocation, so that it is the same every time (the resident
memory of a process depends on what the C library gives back, and on which code has been loaded); on a GPU it is what
torch had allocated. Three iterations from networks that have just been built, which themselves do not count.

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
import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.method.stopping import Plateau
from coopinit_plugin.result.step_report import StepReport
from tests.benchmarks.iterations import DEVICE, Adversarial, Contender, Library, PlainScript
from tests.benchmarks.networks import CASES
from tests.benchmarks.report import here


class WarmStart(Contender):
    """The whole call, on networks of the user's."""

    iterations: int | str = 3
    alive = 0.0

    def __call__(self) -> None:
        config = WarmStartConfig(
            iterations=self.iterations, langevin_steps=self.steps, max_iterations=3, handover="none"
        )
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


def peak(run: Callable[[], None]) -> float:
    """The most memory that `run` holds at a time beside what was held before, MB."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))) / 2**20


def once(case: str, run: str, steps: int) -> tuple[float, float, float]:
    """(Peak above networks and data in MB, weights of G and D in MB, what was held in units of the weights)."""
    made = RUNS[run](CASES[case], steps)
    times = 1 if isinstance(made, WarmStart) else 3

    def several() -> None:
        for _ in range(times):
            made()

    most = peak(several)
    weights = sum(p.numel() * p.element_size() for net in (made.G, made.D) for p in net.parameters()) / 2**20
    own = weights + sum(t.numel() * t.element_size() for t in (made.x, made.z)) / 2**20
    return most, weights, max(getattr(made, "alive", 0.0) - own, 0.0) / weights


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of a cooperative iteration.")
    parser.add_argument("--steps", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| pair | weights, MB | adversarial step, MB | " + " | ".join(list(RUNS)[1:]) + " | copies held: 3, auto |")
    print("|---" * (len(RUNS) + 3) + "|")
    for case in [name for name in CASES if not name.startswith("tiny")]:
        told = {run: once(case, run, asked.steps) for run in RUNS}
        base, weights = told["adversarial"][0], told["adversarial"][1]
        row = [f"{told[run][0] / base:.2f}" for run in list(RUNS)[1:]]
        held = ", ".join(f"{told[run][2]:.1f}" for run in RUNS if run.startswith("warm_start"))
        print(f"| {case} | {weights:.0f} | {base:.0f} | " + " | ".join(row) + f" | {held} |", flush=True)
    print(f"\nK = {asked.steps}; in units of the adversarial step. {here()}")


if __name__ == "__main__":
    main()
