"""A class-conditional SNGAN on handwritten digits, from both starts: ``python -m examples.sngan_conditional``."""

from __future__ import annotations

from torch.utils.data import DataLoader

from examples.runs import Run, compared, parser, report
from examples.sngan_conditional.digits import Digits, as_asked, sample, show_classes
from examples.sngan_conditional.networks import pair
from examples.sngan_conditional.train import train
from examples.story import finish


def main() -> None:
    options = parser("sngan_conditional", __doc__.split(":")[0], iterations=500).parse_args()
    task = Digits()

    def start(seed: int, warm: bool) -> Run:
        netG, netD = pair(seed, width=8 if options.smoke else 32)
        dataloader = DataLoader(task.dataset, 64, shuffle=True, drop_last=True)
        return Run(
            task,
            seed,
            warm,
            loop=lambda keep_going: train(netG, netD, dataloader, keep_going, warm_start=warm),
            sample=lambda: sample(netG),
        )

    runs = compared(start, options, every=25)
    report(runs)
    print("\nDigits that read as the class that was asked for:")
    for run in runs:
        print(f"{run.seed:>4}  {run.name:<12}  {as_asked(run.after):.1%}")
    finish("conditional SNGAN", runs, options.out / "sngan_conditional.png", show=show_classes)


if __name__ == "__main__":
    main()
