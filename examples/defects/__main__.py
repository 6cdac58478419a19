"""A GAN makes up pictures of a rare defect for a detector to learn from: ``python -m examples.defects``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from examples.dcgan.networks import Discriminator, Generator
from examples.dcgan.run import sample
from examples.dcgan.train import train
from examples.defects.data import STEPS, Surface, of_file, simulated
from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import draw_detectors, finish, told_detectors


def main() -> None:
    known = parser("defects", __doc__.split(":")[0], iterations=1000)
    known.add_argument("--data", type=Path, metavar="NPZ", help="x, template, y, names, classes (default: scratches)")
    known.add_argument("--kind", default="spur", help="the class of defects in --data (default: %(default)s)")
    known.add_argument("--few", type=int, default=100, metavar="N", help="defects that are known (default: 100)")
    known.add_argument("--size", type=int, choices=(32, 64), default=32, help="pixels (default: 32)")
    options = known.parse_args()
    make = partial(simulated, many=200 if options.smoke else 2000)
    if options.data:
        make = partial(of_file, options.data, options.kind)
    with refusing_data(known):
        surfaces = {seed: make(options.size, options.few, seed) for seed in options.seeds}

    def start(seed: int, warm: bool) -> Run:
        torch.manual_seed(seed)
        task, width = surfaces[seed], 2 if options.smoke else 16
        G, D = (net(options.size, width=width, colours=1) for net in (Generator, Discriminator))
        loader = DataLoader(TensorDataset(task.few, torch.zeros(len(task.few))), 64, shuffle=True, drop_last=True)
        loop = partial(train, G, D, loader, warm_start=warm)
        return Run(task, seed, warm, loop=loop, sample=lambda: sample(G, 64 if options.smoke else 1000))

    runs = compared(start, options, every=100)
    report(runs)
    found = detected(runs, steps=2 if options.smoke else STEPS)
    told_detectors(runs[0].task.about, found)
    path = options.out / "defects.png"
    finish("DCGAN", runs, path, beside=lambda axes: draw_detectors(axes, found))


def detected(runs: list[Run], steps: int) -> dict[str, list[float]]:
    """The detector's average precision for each way to come by more defects, a number a seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        task: Surface = run.task
        ways = {f"+ GAN, {run.name.lower()}": task.half_made_up(run.after)}
        if not run.warm:
            ways = {"nothing else": task.alone, "flips and turns": task.augmented, **ways}
        for name, way in ways.items():
            found.setdefault(name, []).append(task.average_precision(way, steps))
    return found


if __name__ == "__main__":
    main()
