"""The use: a detector trained with few defects, judged on many; how much do further defects that are made up help?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from coopinit_plugin.measures import SlicedWasserstein
from examples.timeseries.data import cut, defects, recordings, windows
from examples.timeseries.networks import detector

HALF = 64  # healthy windows in a batch, and as many with a defect
STEPS, REPEATS = 600, 3

Defects = Callable[[int, torch.Generator], Tensor]  # so many windows to train with


class Machine:
    """2000 healthy recordings and a few defects to learn from; 10,000 and 500 others to be judged by.

    Attributes:
        few: Windows of the defects that are known, (40 · 65, 3, 64).
        measure: The sliced Wasserstein distance of samples to the held-out defects, in σ.
        score: Its name.
        about: The data in a few words.
    """

    score = "distance to unseen defects (σ)"

    def __init__(self, seed: int, few: int = 40) -> None:
        generator = torch.Generator().manual_seed(10_000)
        healthy, unseen = recordings(10_000, None, generator), defects(500, generator)
        self._test = torch.cat([cut(healthy, generator), cut(unseen, generator)])
        self._many = defects(2000, generator)
        generator.manual_seed(seed)
        self._healthy = recordings(2000, None, generator)
        self._few = defects(few, generator)
        self.few = windows(self._few)
        self.about = f"{few} recordings of defects"
        unseen = self._test[-500:]
        distance = SlicedWasserstein(unseen, [float(unseen.std())])
        real = distance.project(unseen)
        self.measure = lambda samples: float(distance.between(distance.project(samples[: len(real)]), real))

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
        scale = 1 + 0.1 * torch.randn(n, 3, 1, generator=generator)
        return scale * x + 0.1 * torch.randn(x.shape, generator=generator)

    def half_made_up(self, samples: Tensor) -> Defects:
        """Half of them known, half from a GAN."""

        def mixed(n: int, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(samples), (n // 2,), generator=generator)
            return torch.cat([self.known(n - n // 2, generator), samples[chosen]])

        return mixed

    def plenty(self, n: int, generator: torch.Generator) -> Tensor:
        """Windows of 2000 defects: what nobody has."""
        return cut(self._many[torch.randint(len(self._many), (n,), generator=generator)], generator)

    def average_precision(self, with_defects: Defects, steps: int = STEPS) -> float:
        """Of a detector trained with these defects; the mean of three."""
        truth = torch.arange(len(self._test)) >= len(self._test) - 500
        found = [self._detector(with_defects, seed, steps) for seed in range(REPEATS)]
        return sum(average_precision_score(truth, scores) for scores in found) / REPEATS

    def _detector(self, with_defects: Defects, seed: int, steps: int) -> Tensor:
        """Its scores of the held-out windows."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        net = detector()
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
