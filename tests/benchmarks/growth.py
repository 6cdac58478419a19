"""How an iteration's seconds grow with batch, resolution and K: ``python -m tests.benchmarks.growth``.

One is varied, the others stay, on a DCGAN of width 16: batch 16 to 256, resolution 32 to 256 (of which each doubling
adds a layer to both networks), K 1 to 60. What a unit costs should not rise; against the floor nothing should.

The last table is a projection on paper: what share of a StyleGAN2 run at 256×256 the warm-up would be, from the ratio
of a cooperative iteration to an adversarial step, measured here on a small pair of its kind. The real adversarial step
has R1 and path length regularisation on top, which make the share smaller, and on several GPUs sends its gradients in
two messages, the warm-up in one.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from tests.benchmarks.iterations import Adversarial, Contender, Floor, Library
from tests.benchmarks.networks import CASES, Case, dcgan
from tests.benchmarks.report import here
from tests.benchmarks.speed import seconds

IMAGES, BATCH = 25_000_000, 64  # of a StyleGAN2 run on 8 GPUs
ITERATIONS = 200, 400  # of a warm-up: as it often ends, and the most that "auto" takes


def case(size: int, batch: int) -> Case:
    return Case(lambda: dcgan(size, width=16, z=16), size, batch, (16, 1, 1))


def medians(rounds: int, *runs: Contender) -> tuple[float, float]:
    """(ms of the first, its ratio to the second), interleaved."""
    times = [[seconds(run, 1) for run in runs] for _ in range(rounds + 1)][1:]
    return 1e3 * statistics.median(a for a, _ in times), statistics.median(a / b for a, b in times)


def table(what: str, unit: str, cases: dict[int, tuple[float, Case, int]], rounds: int) -> None:
    """Cases are (units of work, the pair, K); what one unit adds is told from row to row."""
    print(f"\n| {what} | ms | ms {unit} | ms {unit} more than the row above | library / floor |\n|---|---|---|---|---|")
    before = None
    for value, (units, made, steps) in cases.items():
        ours, ratio = medians(rounds, Library(made, steps), Floor(made, steps))
        more = f"{(ours - before[0]) / (units - before[1]):.3g}" if before else ""
        print(f"| {value} | {ours:.1f} | {ours / units:.3g} | {more} | {ratio:.2f} |", flush=True)
        before = ours, units


def main() -> None:
    parser = argparse.ArgumentParser(description="Growth of a cooperative iteration's cost.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    batches, sizes, steps = (16, 32, 64, 128, 256), (32, 64, 128, 256), (1, 2, 5, 10, 20, 30, 60)
    table("batch, at 32² and K = 5", "a sample", {n: (n, case(32, n), 5) for n in batches}, rounds)
    table("resolution, at batch 16 and K = 5", "for 32²", {s: ((s / 32) ** 2, case(s, 16), 5) for s in sizes}, rounds)
    table("K, at batch 32 and 32²", "a step", {k: (k, case(32, 32), k) for k in steps}, rounds)

    print("\n| K | an iteration, in adversarial steps | " + " | ".join(f"{n} iterations" for n in ITERATIONS) + " |")
    print("|---|---|---|---|")
    for k in (2, 5, 10, 30):
        pair = CASES["StyleGAN2-like 64²"]
        _, ratio = medians(rounds, Library(pair, k), Adversarial(pair, k))
        shares = [f"{n * ratio / (IMAGES / BATCH):.2%}" for n in ITERATIONS]
        print(f"| {k} | {ratio:.2f} | " + " | ".join(shares) + " |", flush=True)
    print(f"\nShares are of {IMAGES / BATCH:,.0f} steps. Medians of {rounds} rounds. {here()}")


if __name__ == "__main__":
    main()
