"""The use: a detector trained with few defects, judged on many; how much do further defects that are made up help?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from examples.helpers.runs import distance_to
from examples.timeseries.data import WINDOW, cut, defects, recordings, windows
from examples.timeseries.networks import detector

HALF = 64  # healthy windows in a batch, and as many with a defect
STEPS, REPEATS = 600, 3

Defects = Callable[[int, torch.Generator], Tensor]  # so many windows to train with


class Machine:
    """Healthy recordings and a few defects to learn from; others of both to be judged by.

    Args:
        healthy: (N, channels, T), T at least 64.
        few: Those of defects that are known.
        healthy_test: Windows (M, channels, 64).
        defects_test: Likewise.
        many: More defects than anybody has, where that is known.

    Attributes:
        few: Windows of the defects that are known, all of them.
        measure: The sliced Wasserstein distance of samples to the held-out defects, in σ.
        score: Its name.
        about: The data in a few words.
    """

    score = "distance to unseen defects (σ)"

    def __init__(
        self, healthy: Tensor, few: Tensor, healthy_test: Tensor, defects_test: Tensor, many: Tensor | None = None
    ) -> None:
        self._healthy, self._few, self.many = healthy, few, many
        self._test, self._defects_test = torch.cat([healthy_test, defects_test]), len(defects_test)
        self.few = windows(few)
        self.about = f"{len(few)} recordings of defects"
        self.measure = distance_to(defects_test)

    @staticmethod
    def tell(value: float) -> str:
        return f"{value:.3f} σ from the data"

    def real(self, n: int) -> Tensor:
        """One window of each recording."""
        return cut(self._few[:n], torch.Generator().manual_seed(0))

    def known(self, n: int, generator: torch.Generator) -> Tensor:
        """Windows of the few defects: no augmentation."""
        return cut(self._few[torch.randint(len(self._few), (n,), generator=generator)], generator)

    def jittered(self, n: int, generator: torch.Generator) -> Tensor:
        """Classic augmentation: each channel scaled by 10 %, noise of 0.1."""
        x = self.known(n, generator)
        scale = 1 + 0.1 * torch.randn(n, x.shape[1], 1, generator=generator)
        return scale * x + 0.1 * torch.randn(x.shape, generator=generator)

    def half_made_up(self, samples: Tensor) -> Defects:
        """Half of them known, half from a GAN."""

        def mixed(n: int, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(samples), (n // 2,), generator=generator)
            return torch.cat([self.known(n - n // 2, generator), samples[chosen]])

        return mixed

    def plenty(self, n: int, generator: torch.Generator) -> Tensor:
        """Windows of the many defects that nobody has."""
        assert self.many is not None
        return cut(self.many[torch.randint(len(self.many), (n,), generator=generator)], generator)

    def average_precision(self, with_defects: Defects, steps: int = STEPS) -> float:
        """Of a detector trained with these defects; the mean of three."""
        truth = torch.arange(len(self._test)) >= len(self._test) - self._defects_test
        found = [self._detector(with_defects, seed, steps) for seed in range(REPEATS)]
        return sum(average_precision_score(truth, scores) for scores in found) / REPEATS

    def _detector(self, with_defects: Defects, seed: int, steps: int) -> Tensor:
        """Its scores of the held-out windows."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        net = detector(self._test.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        labels = torch.cat([torch.zeros(HALF, 1), torch.ones(HALF, 1)])
        for _ in range(steps):
            healthy = self._healthy[torch.randint(len(self._healthy), (HALF,), generator=generator)]
            x = torch.cat([cut(healthy, generator), with_defects(HALF, generator)])
            loss = binary_cross_entropy_with_logits(net(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            return net(self._test)[:, 0]


def simulated(few: int, seed: int, many: int = 2000) -> Machine:
    """`many` healthy recordings and `few` defects of the simulated machine; judged by 5 and ¼ times `many` others."""
    generator = torch.Generator().manual_seed(10_000)
    healthy, unseen = recordings(5 * many, None, generator), defects(many // 4, generator)
    tests = cut(healthy, generator), cut(unseen, generator)
    more = defects(many, generator)
    generator.manual_seed(seed)
    return Machine(recordings(many, None, generator), defects(few, generator), *tests, more)


def of_folder(folder: Path, few: int | None, seed: int) -> Machine:
    """The user's own: healthy.npy and defects.npy, each (recordings, channels, steps); half of each is held out.

    Args:
        folder: Where they are.
        few: How many of the defects are known; all that are not held out where it is not given.
        seed: Of the choice.

    Raises:
        ValueError: where a file is missing, or does not have that shape.
    """
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for name in ("healthy.npy", "defects.npy"):
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{folder}: no {name} there; numpy.save it, (recordings, channels, steps)")
        x = torch.from_numpy(numpy.load(file, allow_pickle=False)).float()
        if x.ndim != 3 or x.shape[2] < WINDOW or len(x) < 4:
            raise ValueError(
                f"{file}: shape {tuple(x.shape)}; (recordings, channels, steps) is expected, at least 4 recordings of "
                f"{WINDOW} steps"
            )
        halves.append(x[torch.randperm(len(x), generator=generator)].chunk(2))
    (healthy, healthy_test), (known, defects_test) = halves
    if healthy.shape[1] != known.shape[1]:
        raise ValueError(f"{folder}: {healthy.shape[1]} channels in healthy.npy, {known.shape[1]} in defects.npy")
    mean, std = healthy.mean((0, 2), keepdim=True), healthy.std((0, 2), keepdim=True).clamp_min(1e-12)
    healthy, known, healthy_test, defects_test = (
        (x - mean) / std for x in (healthy, known, healthy_test, defects_test)
    )
    return Machine(healthy, known[:few], cut(healthy_test, generator), cut(defects_test, generator))
