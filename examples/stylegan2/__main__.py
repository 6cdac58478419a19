"""A small StyleGAN2 on patches of photographs, from both starts: ``python -m examples.stylegan2``."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from examples.dcgan.data import Task, distance_task, folder_task
from examples.helpers.digits import StackedDigits
from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import finish, show_images, side_by_side
from examples.study.tasks import photograph_patches
from examples.stylegan2.model import Discriminator, Generator
from examples.stylegan2.train import train

BATCH = 16
SHOWN = 100  # more than a picture has room for


def main() -> None:
    known = parser("stylegan2", __doc__.split(":")[0], iterations=600)
    known.add_argument("--data", type=Path, metavar="FOLDER", help="images to learn (default: patches of photographs)")
    known.add_argument("--digits", action="store_true", help="learn stacked digits, 8×8")
    options = known.parse_args()
    with refusing_data(known):
        task = folder_task(options.data) if options.data else digits_task() if options.digits else patches_task()

    def start(seed: int, warm: bool) -> Run:
        torch.manual_seed(seed)
        channels = 8 if options.smoke else 32
        generator, discriminator = Generator(task.size, channels=channels), Discriminator(task.size, channels)
        g_ema = copy.deepcopy(generator).eval()
        loader = DataLoader(task.dataset, BATCH, shuffle=True, drop_last=True)
        return Run(
            task,
            seed,
            warm,
            loop=lambda going: train(generator, discriminator, g_ema, loader, BATCH, going, warm_start=warm),
            sample=lambda: sample(g_ema, 200 if options.smoke else task.samples),
        )

    runs = compared(start, options)
    report(runs)
    path = options.out / "stylegan2.png"
    finish("small StyleGAN2", runs, path, show=lambda axes, samples: show_images(axes, task.look(samples[:SHOWN])))


def patches_task() -> Task:
    """20,000 patches 16×16 of scikit-learn's two photographs."""
    patches = photograph_patches().data
    return distance_task(TensorDataset(patches, torch.zeros(len(patches))), 16, "patches of 2 photographs")


def digits_task() -> Task:
    """Three handwritten digits in three channels; judged by distance, for noise covers hundreds of the modes, too."""
    return replace(distance_task(StackedDigits(), 8, "3 handwritten digits each"), look=side_by_side)


@torch.no_grad()
def sample(g_ema: Generator, n: int) -> Tensor:
    """`n` images of the averaged generator, always from the same latents and the same noise."""
    z = torch.randn(n, g_ema.style_dim, generator=torch.Generator().manual_seed(0))
    return torch.cat([g_ema([part], randomize_noise=False)[0] for part in z.split(512)])


if __name__ == "__main__":
    main()
