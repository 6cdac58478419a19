"""Where the time of a cooperative iteration goes: ``python -m tests.benchmarks.parts [--picture FILE]``.

Every function that does a part of `cooperate` is given a clock, and the time in it, less that of the parts inside it,
is added up over some iterations. On the CPU it is the process's own CPU time, one thread; on a GPU the clock waits for
the device at each end, so that the parts are the device's, and their sum is more than an iteration takes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from coopinit_plugin.method import iteration, langevin
from coopinit_plugin.method.pair import Pair
from examples.study.cost import clock
from tests.benchmarks.iterations import Library
from tests.benchmarks.networks import CASES
from tests.benchmarks.picture import shares
from tests.benchmarks.report import here

CHAIN, MOVES, G_PASS, TEACHING = "chain: ∇f", "chain: drift, noise", "G forward", "G backward"
D_PASS, D_BACK, STATISTICS, ADAM, REST = "D forward", "D backward", "BatchNorm's statistics", "Adam", "everything else"
PARTS = (CHAIN, MOVES, G_PASS, TEACHING, D_PASS, D_BACK, STATISTICS, ADAM, REST)


class Clock:
    """Seconds by part; a part inside another one is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    def _turn(self) -> None:
        now = clock()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def timed(self, function: Callable, part: str | Callable[[], str]) -> Callable:
        """The same function, on the clock; inside a part the pass through D belongs to that part."""

        def run(*given, **named):
            name = part() if callable(part) else part
            self._turn()
            self._open.append(self._open[-1] if name == D_PASS and self._open[-1:] not in ([], [REST]) else name)
            try:
                return function(*given, **named)
            finally:
                self._turn()
                self._open.pop()

        return run


def measure(case: str, steps: int, iterations: int) -> dict[str, float]:
    """The share of each part in the time of an iteration."""
    run, clock = Library(CASES[case], steps), Clock()
    for _ in range(3):
        run()
    backwards: list[int] = []

    def which() -> str:
        backwards.append(1)
        return TEACHING if len(backwards) % 3 == 1 else D_BACK

    for adam in (run.adam_g, run.adam_d):
        adam.step = clock.timed(adam.step, ADAM)
    whole = clock.timed(run.__call__, REST)
    run.pair = dataclasses.replace(run.pair, generate=clock.timed(run.pair.generate, G_PASS))

    def put_on_the_clock(owner: Any, name: str, part: Any) -> AbstractContextManager:
        return patch.object(owner, name, clock.timed(getattr(owner, name), part))

    with (
        put_on_the_clock(iteration, "langevin", MOVES),
        put_on_the_clock(iteration, "_backward", which),
        put_on_the_clock(langevin, "input_gradient", CHAIN),
        put_on_the_clock(iteration, "refresh_statistics", STATISTICS),
        put_on_the_clock(Pair, "score", D_PASS),
    ):
        for _ in range(iterations):
            whole()
    total = sum(clock.seconds.values())
    return {part: clock.seconds[part] / total for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of a cooperative iteration goes.")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the shares, a PNG")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| pair | K | " + " | ".join(PARTS) + " |\n" + "|---" * (len(PARTS) + 2) + "|", flush=True)
    found = {}
    for case in asked.cases:
        for steps in asked.steps:
            found[case, steps] = measure(case, steps, asked.iterations * (50 if CASES[case].size <= 8 else 1))
            print(f"| {case} | {steps} | " + " | ".join(f"{share:.1%}" for share in found[case, steps].values()) + " |")
    if asked.picture:
        shares(found, asked.picture)
    print(f"\nShares of {asked.iterations} iterations. {here()}")


if __name__ == "__main__":
    main()
