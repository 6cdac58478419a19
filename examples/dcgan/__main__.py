"""The same DCGAN from a random and from a warm start, each at the same cost: ``python -m examples.dcgan``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from examples.dcgan.data import Task, digits_task, folder_task, mnist_task
from examples.dcgan.run import start
from examples.helpers.runs import Run, compared, parser, refusing_data, report
from examples.helpers.story import save_grid, save_story, show_images

SHOWN = 100  # more than a picture has room for


def main() -> None:
    known = parser("dcgan", __doc__.split(":")[0], iterations=800)
    known.add_argument("--data", type=Path, metavar="PLACE", help="a folder of images, or mnist.npz (default: digits)")
    known.add_argument("--batch-norm", action="store_true", help="BatchNorm in D: there a random start trains, too")
    options = known.parse_args()
    with refusing_data(known):
        task = task_of(options.data, options.seeds[0])
    if options.smoke:
        task = replace(task, samples=500)
    networks = {"width": 0.125 if options.smoke else 1.0, "batch_norm": options.batch_norm}
    runs = compared(lambda seed, warm: start(task, seed, warm=warm, **networks), options)
    report(runs)
    draw(runs, options.out)


def task_of(data: Path | None, seed: int) -> Task:
    """The digits that come with scikit-learn, MNIST in a file or in torchvision's folder, or a folder of images."""
    if data is None:
        return digits_task(seed)
    return mnist_task(data, seed) if data.is_file() or (data / "MNIST").is_dir() else folder_task(data)


def draw(runs: list[Run], folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)

    def look(samples: Tensor) -> Tensor:
        return runs[0].task.look(samples[:SHOWN])

    save_story("DCGAN", runs, folder / "dcgan.png", show=lambda axes, samples: show_images(axes, look(samples)))
    for run in runs[:2]:
        if run.warm:
            save_grid(look(run.before), folder / "after_warmup.png")
        save_grid(look(run.after), folder / ("after_training.png" if run.warm else "random.png"))
    print(f"Pictures in {folder}: {', '.join(sorted(file.name for file in folder.glob('*.png')))}")


if __name__ == "__main__":
    main()
