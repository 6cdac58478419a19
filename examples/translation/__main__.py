"""Digits become outlines without a pair to learn from, from both starts: ``python -m examples.translation``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import finish
from examples.translation.data import Outlines, two_folders
from examples.translation.networks import Discriminator, Generator
from examples.translation.train import train


def main() -> None:
    known = parser("translation", __doc__.split(":")[0], iterations=300)
    known.add_argument("--data", type=Path, metavar="FOLDER", help="with trainA and trainB in it (default: digits)")
    options = known.parse_args()
    with refusing_data(known):
        task = two_folders(options.data) if options.data else Outlines()

    def start(seed: int, warm: bool) -> Run:
        torch.manual_seed(seed)
        width = 8 if options.smoke else 32
        channels = task.held_out.shape[1]
        netG, netD = Generator(width, channels), Discriminator(width, channels)
        loader = DataLoader(task, 16, shuffle=True, drop_last=True)
        return Run(
            task,
            seed,
            warm,
            loop=lambda keep_going: train(netG, netD, loader, keep_going, warm_start=warm),
            sample=lambda: translated(netG, task.held_out),
        )

    runs = compared(start, options)
    report(runs)
    finish("translation network", runs, options.out / "translation.png", show=task.show)


@torch.no_grad()
def translated(netG: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([netG(part) for part in images.split(512)])


if __name__ == "__main__":
    main()
