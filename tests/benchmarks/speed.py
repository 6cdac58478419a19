"""What a cooperative iteration costs, in units of the least that any could: ``python -m tests.benchmarks.speed``.

The floor is K times (D forward, backward to the input alone, parameters frozen), one training step of D on two batches
and one of G; nothing else. D runs in evaluation mode in all of them. Beside the library's iteration stand a plain
script, and the samplers of other projects inside the same two training steps: torchebm where it is installed, those of
JEM, ebm-anatomy and pytorch-CoopNets where ``--peers`` names a folder that holds checkouts of them. ``--picture FILE``
draws the table, too.

All run in one process, in turn, in interleaved rounds; a ratio is taken within a round. On the CPU the clock is the
process's own CPU time, one thread; on a GPU it is the wall's, all its work done.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from examples.study.cost import clock
from tests.benchmarks.iterations import DEVICE, Adversarial, Floor, Library, PlainScript
from tests.benchmarks.networks import CASES
from tests.benchmarks.peers import peers
from tests.benchmarks.picture import draw
from tests.benchmarks.report import here


def seconds(iteration: Callable[[], None], times: int) -> float:
    began = clock()
    for _ in range(times):
        iteration()
    return (clock() - began) / times


def told(ratios: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def measure(name: str, steps: int, rounds: int, folder: Path | None) -> dict[str, list[float] | None]:
    """Seconds of each contender, one number a round; nothing for a peer that is not there."""
    made = {"floor": Floor, "library": Library, "plain script": PlainScript, "adversarial step": Adversarial}
    made |= peers(folder)
    runs = {who: make(CASES[name], steps) for who, make in made.items() if make is not None}
    times = 20 if CASES[name].size <= 8 else 10 if DEVICE == "cuda" else 1
    found: dict[str, list[float] | None] = {who: [] if who in runs else None for who in made}
    order = list(runs)
    for turn in range(rounds + 1):
        for who in order:
            spent = seconds(runs[who], times)
            if turn:  # the first is not on the clock
                found[who].append(spent)
        order.append(order.pop(0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a cooperative iteration.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--peers", type=Path, help="folder with checkouts named JEM, ebm-anatomy, pytorch-CoopNets")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the ratios to the floor, a PNG")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    every = {}
    head = ["floor, ms", "library / floor", "plain script / floor", "library / plain script"]
    head += ["library / adversarial step"]
    head += [f"library / {who}" for who in peers(None)]
    print("| pair | K | " + " | ".join(head) + " |\n" + "|---" * (len(head) + 2) + "|", flush=True)
    for name in asked.cases:
        for steps in asked.steps:
            found = every[name, steps] = measure(name, steps, asked.rounds, asked.peers)

            def ratio(a: str, b: str, found: dict = found) -> str:
                if found[b] is None:
                    return "not installed"
                return told([x / y for x, y in zip(found[a], found[b], strict=True)])

            row = [f"{1e3 * statistics.median(found['floor']):.3g}", ratio("library", "floor")]
            row += [ratio("plain script", "floor"), ratio("library", "plain script")]
            row += [ratio("library", "adversarial step")]
            row += [ratio("library", who) for who in peers(None)]
            print(f"| {name} | {steps} | " + " | ".join(row) + " |", flush=True)
    if asked.picture:
        draw(every, asked.picture)
    print(f"\nMedians (quartiles) of {asked.rounds} rounds. {here()}")


if __name__ == "__main__":
    main()
