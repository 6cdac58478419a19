"""A GAN makes up defects to train a detector with, from both starts: ``python -m examples.timeseries``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import draw_detectors, finish, told_detectors
from examples.timeseries.detection import STEPS, of_folder, simulated
from examples.timeseries.networks import Discriminator, Generator
from examples.timeseries.train import train

CHANNELS = "#0b7285", "#5f3dc4", "#2b8a3e"


def main() -> None:
    known = parser("timeseries", __doc__.split(":")[0], iterations=2000)
    known.add_argument("--data", type=Path, metavar="FOLDER", help="with healthy.npy and defects.npy in it")
    known.add_argument("--defects", type=int, metavar="N", help="recordings of defects (default: 40; of --data, half)")
    known.add_argument("--batch-norm", action="store_true", help="BatchNorm in D")
    options = known.parse_args()
    make = partial(simulated, many=200 if options.smoke else 2000)
    if options.data:
        make = partial(of_folder, options.data)
    few = options.defects or (None if options.data else 40)
    with refusing_data(known):
        machines = {seed: make(few, seed) for seed in options.seeds}

    def start(seed: int, warm: bool) -> Run:
        torch.manual_seed(seed)
        width, task = 8 if options.smoke else 32, machines[seed]
        channels = task.few.shape[1]
        G, D = Generator(width=width, channels=channels), Discriminator(width, options.batch_norm, channels)
        loader = DataLoader(TensorDataset(task.few), 64, shuffle=True, drop_last=True)
        return Run(
            task,
            seed,
            warm,
            loop=lambda keep_going: train(G, D, loader, keep_going, warm_start=warm),
            sample=lambda: sample(G, 200 if options.smoke else 2000),
        )

    runs = compared(start, options, every=100)
    report(runs)
    found = detected(runs, steps=2 if options.smoke else STEPS)
    told_detectors(runs[0].task.about, found)
    path = options.out / "timeseries.png"
    finish("1-D DCGAN", runs, path, show=show_signals, beside=lambda axes: draw_detectors(axes, found))


@torch.no_grad()
def sample(G: nn.Module, n: int) -> Tensor:
    """`n` windows, always from the same latents, G in evaluation mode."""
    G.eval()
    samples = G(torch.randn(n, G.nz, generator=torch.Generator().manual_seed(0)))
    G.train()
    return samples


def detected(runs: list[Run], steps: int) -> dict[str, list[float]]:
    """The detector's average precision for each way to come by more defects, a number a seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        ways = {f"GAN, {run.name.lower()}": run.task.half_made_up(run.after)}
        if not run.warm:
            ways = {"nothing else": run.task.known, "jitter": run.task.jittered, **ways}
        for name, way in ways.items():
            found.setdefault(name, []).append(run.task.average_precision(way, steps))
    if (many := runs[0].task.many) is not None:
        found[f"{len(many)} real defects"] = [runs[0].task.average_precision(runs[0].task.plenty, steps)]
    return found


def show_signals(axes: Axes, samples: Tensor) -> None:
    """Six windows, their three channels over one another."""
    for index, window in enumerate(samples[:6]):
        left, top = index % 2 * 1.08, -(index // 2) * 9.0
        for channel, (values, colour) in enumerate(zip(window[: len(CHANNELS)], CHANNELS, strict=False)):
            steps = torch.linspace(0, 1, len(values)) + left
            axes.plot(steps, values + top - 2.6 * channel, color=colour, linewidth=1.2)
    axes.set_ylim(-26, 3)
    axes.set_xlim(0, 2.08)
    axes.axis("off")


if __name__ == "__main__":
    main()
