"""A class-conditional SNGAN on handwritten digits, from both starts: ``python -m examples.sngan_conditional``."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader

from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import finish
from examples.sngan_conditional.data import Digits, blocks_for, folder_of_classes
from examples.sngan_conditional.networks import pair
from examples.sngan_conditional.train import train


def main() -> None:
    known = parser("sngan_conditional", __doc__.split(":")[0], iterations=500)
    known.add_argument("--data", type=Path, metavar="FOLDER", help="a folder for each class (default: digits)")
    options = known.parse_args()
    with refusing_data(known):
        task = folder_of_classes(options.data) if options.data else Digits()

    def start(seed: int, warm: bool) -> Run:
        channels, side = task.shape[0], task.shape[-1]
        netG, netD = pair(seed, task.classes, channels, blocks_for(side), width=8 if options.smoke else 32)
        dataloader = DataLoader(task.dataset, 64, shuffle=True, drop_last=True)
        return Run(
            task,
            seed,
            warm,
            loop=lambda keep_going: train(netG, netD, dataloader, keep_going, warm_start=warm),
            sample=lambda: task.sample(netG),
        )

    runs = compared(start, options, every=25)
    report(runs)
    if isinstance(task, Digits):
        print("\nDigits that read as the class that was asked for:")
        for run in runs:
            print(f"{run.seed:>4}  {run.name:<12}  {task.as_asked(run.after):.1%}")
    finish("conditional SNGAN", runs, options.out / "sngan_conditional.png", show=task.show)


if __name__ == "__main__":
    main()
