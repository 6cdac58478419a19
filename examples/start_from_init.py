"""Begin a training where someone's warm-up ended: ``python -m examples.start_from_init user/digits-init``.

No warm-up is run and no data is needed for it; the init comes from the Hub, or from a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from torch.utils.data import DataLoader
from tqdm import tqdm

import coopinit_plugin
from examples.sngan_conditional.data import Digits
from examples.sngan_conditional.networks import pair
from examples.sngan_conditional.trainer import Trainer

matplotlib.use("Agg")  # draws into files, with or without a display


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.start_from_init", description=__doc__)
    parser.add_argument("repo_id", help="user/name, as given to examples.share_init, or a folder")
    parser.add_argument("--revision", help="a branch, tag or commit")
    parser.add_argument("--iterations", type=int, default=500, help="adversarial ones (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/start_from_init"), metavar="DIR", help="%(default)s")
    options = parser.parse_args()

    netG, netD = pair(seed=options.seed)
    init = coopinit_plugin.WarmStart.from_pretrained(options.repo_id, revision=options.revision)
    init.load_into(netG, netD)
    digits = Digits()
    begun = digits.sample(netG)

    torch.manual_seed(options.seed)
    loader = DataLoader(digits.dataset, 64, shuffle=True, drop_last=True)
    steps = iter(tqdm(range(options.iterations + 1)))
    Trainer(netD, netG, loader, on_step=lambda _: next(steps) < options.iterations).train()

    figure, sides = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    words = f"As loaded from {options.repo_id}", f"After {options.iterations} adversarial iterations"
    for axes, title, samples in zip(sides, words, (begun, digits.sample(netG)), strict=True):
        digits.show(axes, samples)
        axes.set_title(title)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "start_from_init.png"
    figure.savefig(path, dpi=100)
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
