"""The same DCGAN from a random and from a warm start, each for the same seconds: ``python -m examples.dcgan``."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.dcgan.data import digits_task, folder_task
from examples.dcgan.figure import save_grid, save_story
from examples.dcgan.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.dcgan",
        description="The same DCGAN from a random and from a warm start, each trained for the same seconds.",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="images to learn (default: stacked digits)")
    parser.add_argument("--batch-norm", action="store_true", help="BatchNorm in D: there a random start trains, too")
    parser.add_argument("--no-warm-start", action="store_true", help="the random start alone")
    parser.add_argument("--iterations", type=int, default=800, help="after the warm-up (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/dcgan"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--smoke", action="store_true", help="small networks, 20 iterations: only to see that it runs")
    args = parser.parse_args()
    if args.iterations < 1:
        parser.error("--iterations must be at least 1")

    try:
        task = digits_task(args.seed) if args.data is None else folder_task(args.data)
    except ValueError as error:
        parser.error(f"--data {error}")
    networks = {"width": 0.125 if args.smoke else 1.0, "batch_norm": args.batch_norm}
    iterations, every = (20, 1000) if args.smoke else (args.iterations, 50)

    runs = [Run(task, args.seed, warm=False, **networks)]
    if args.no_warm_start:
        runs[0].train(iterations=iterations, every=every)
    else:
        runs.append(Run(task, args.seed, warm=True, **networks).train(iterations=iterations, every=every))
        runs[0].train(seconds=runs[1].seconds, every=every)
    report(runs)
    draw(runs, args.out)


def report(runs: list[Run]) -> None:
    """Print what came out, a line for each start."""
    row = "{:<12}  {:>8}  {:>15}  {:>8}  {:>21}  {:>21}".format
    print()
    print(row("", "warm-up", "GAN iterations", "seconds", "before the first", "after the last"))
    for run in runs:
        (begun, first), (ended, last) = run.curve[0], run.curve[-1]
        warmed = f"{begun:.1f} s" if run.warm else "–"
        print(row(run.name, warmed, run.iterations, f"{ended:.1f}", run.task.tell(first), run.task.tell(last)))
    print("\nSeconds of one CPU core, the warm-up included; measuring is not counted.")


def draw(runs: list[Run], folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    save_story(runs, folder / "dcgan.png")
    for run in runs:
        if run.warm:
            save_grid(run.before, folder / "after_warmup.png")
        save_grid(run.after, folder / ("after_training.png" if run.warm else "random.png"))
    print(f"Pictures in {folder}: {', '.join(sorted(file.name for file in folder.glob('*.png')))}")


if __name__ == "__main__":
    main()
