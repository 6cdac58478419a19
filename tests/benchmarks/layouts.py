"""What laying D out channels last does to its steps: ``python -m tests.benchmarks.layouts``.

Times of a step of the chain (gradient to the samples, D's parameters frozen) and of a training step of D, channels
last over as it comes, in the same process and interleaved.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from coopinit_plugin.method.energy_mode import likelihood_mode
from tests.benchmarks.iterations import DEVICE, Contender
from tests.benchmarks.networks import CASES
from tests.benchmarks.report import here
from tests.benchmarks.speed import seconds

LAYOUTS = {"as it comes": torch.contiguous_format, "channels last": torch.channels_last}


class Steps(Contender):
    """The two steps, with D laid out one way."""

    def __init__(self, case: str, layout: torch.memory_format) -> None:
        super().__init__(CASES[case], steps=1)
        self.D.to(memory_format=layout)
        likelihood_mode(self.D)

    def chain(self) -> None:
        self.D.requires_grad_(False)
        x = self.x.clone().requires_grad_()
        torch.autograd.grad(self.D(x).sum(), x)

    def training(self) -> None:
        self.D.requires_grad_(True)
        self.D(self.x).mean().backward()
        self.adam_d.step()
        self.adam_d.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description="Channels last against the usual layout of D.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| pair | step of the chain, ms | channels last / as it comes | D's training step, ms | the same |")
    print("|---|---|---|---|---|")
    for case in asked.cases:
        made = {name: Steps(case, layout) for name, layout in LAYOUTS.items()}
        times = 20 if DEVICE == "cuda" or CASES[case].size <= 8 else 1
        found: dict[tuple[str, str], list[float]] = {}
        for turn in range(asked.rounds + 1):
            for name, steps in made.items():
                for what in (steps.chain, steps.training):
                    spent = seconds(what, times)
                    if turn:  # the first is not on the clock
                        found.setdefault((what.__name__, name), []).append(spent)
        row = []
        for what in ("chain", "training"):
            usual, last = (found[what, name] for name in LAYOUTS)
            row += [f"{1e3 * statistics.median(usual):.3g}"]
            row += [f"{statistics.median(a / b for a, b in zip(last, usual, strict=True)):.2f}"]
        print(f"| {case} | " + " | ".join(row) + " |", flush=True)
    print(f"\nMedians of {asked.rounds} rounds. {here()}")


if __name__ == "__main__":
    main()
