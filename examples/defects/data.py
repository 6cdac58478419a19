"""Few pictures of one defect, many of sound surface, and a detector that learns from them, judged on other boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from examples.helpers.runs import distance_to

SIDE = 64  # pixels of a picture as it is
HALF = 32  # sound pictures in a batch of the detector's, and as many defects
STEPS, REPEATS = 300, 3

Defects = Callable[[int, torch.Generator], Tensor]  # so many pictures to train with


class Surface:
    """Pictures (N, 1, size, size) in [−1, 1]: to learn from, and others of both kinds to be judged by.

    Args:
        size: To which they are made smaller, 32 or 64 pixels.
        known: The few defects there are.
        sound: Pictures without a defect.
        defects_test: Of boards that nobody has seen.
        sound_test: Likewise.
        about: The defects in a few words.

    Attributes:
        few: The known defects, flipped and turned: eight of each.
        score: The sliced Wasserstein distance of samples to defects of held-back boards, in σ.
    """

    score = "distance to unseen ones (σ)"

    def __init__(
        self, size: int, known: Tensor, sound: Tensor, defects_test: Tensor, sound_test: Tensor, about: str
    ) -> None:
        known, sound, defects_test, sound_test = (
            avg_pool2d(x, SIDE // size) for x in (known, sound, defects_test, sound_test)
        )
        self.known, self._sound, self.about = known, sound, f"{len(known)} {about}"
        self.few = torch.cat([turned(known, way) for way in range(8)])
        self._test, self._defects = torch.cat([sound_test, defects_test]), len(defects_test)
        self.measure = distance_to(defects_test)

    @staticmethod
    def tell(value: float) -> str:
        return f"{value:.3f} σ from unseen ones"

    def real(self, n: int) -> Tensor:
        return self.known[:n]

    def alone(self, n: int, generator: torch.Generator) -> Tensor:
        """The known defects as they are."""
        return self.known[torch.randint(len(self.known), (n,), generator=generator)]

    def augmented(self, n: int, generator: torch.Generator) -> Tensor:
        """The known defects flipped and turned at random: plain augmentation."""
        return self.few[torch.randint(len(self.few), (n,), generator=generator)]

    def half_made_up(self, samples: Tensor) -> Defects:
        """Half of them augmented, half from a GAN."""

        def mixed(n: int, generator: torch.Generator) -> Tensor:
            made = samples[torch.randint(len(samples), (n // 2,), generator=generator)]
            return torch.cat([self.augmented(n - n // 2, generator), made])

        return mixed

    def average_precision(self, defects: Defects, steps: int = STEPS) -> float:
        """Of a detector trained with these defects, on held-back boards; the mean of three."""
        truth = torch.arange(len(self._test)) >= len(self._test) - self._defects
        found = [self._detector(defects, seed, steps) for seed in range(REPEATS)]
        return sum(average_precision_score(truth, scores) for scores in found) / REPEATS

    def _detector(self, defects: Defects, seed: int, steps: int) -> Tensor:
        """Its scores of the held-back pictures."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        net = nn.Sequential(
            *(nn.Conv2d(1, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 1)),
        )
        adam = torch.optim.Adam(net.parameters(), 1e-3)
        labels = torch.cat([torch.zeros(HALF, 1), torch.ones(HALF, 1)])
        for _ in range(steps):
            sound = self._sound[torch.randint(len(self._sound), (HALF,), generator=generator)]
            way = int(torch.randint(8, (1,), generator=generator))
            loss = binary_cross_entropy_with_logits(
                net(torch.cat([turned(sound, way), defects(HALF, generator)])), labels
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
        net.eval()
        with torch.no_grad():
            return torch.cat([net(part) for part in self._test.split(500)])[:, 0]


def turned(x: Tensor, way: int) -> Tensor:
    """One of the eight flips and turns of a square."""
    x = torch.rot90(x, way % 4, (2, 3))
    return x.flip(3) if way >= 4 else x


def of_file(file: Path, kind: str, size: int, few: int, seed: int) -> Surface:
    """Defects of one kind from a file such as DeepPCB's crops; a third of the boards is held back.

    Args:
        file: An .npz with `x` (N, 64, 64) uint8, `template` (the same places without the defect), `y`, the names
            `classes` of the defects, and `names` of the boards.
        kind: One of the classes.
        size: Of the pictures, 32 or 64.
        few: How many defects are known.
        seed: Of the choice of boards and defects.

    Raises:
        ValueError: if the file lacks something, or knows no such class.
    """
    with np.load(file, allow_pickle=False) as held:
        missing = {"x", "template", "y", "names", "classes"} - set(held.files)
        if missing:
            raise ValueError(f"{file}: no {', '.join(sorted(missing))} in it")
        x, sound, y, boards, classes = (held[key] for key in ("x", "template", "y", "names", "classes"))
    if x.ndim != 3 or x.shape[1:] != (SIDE, SIDE) or x.dtype != np.uint8:
        raise ValueError(f"{file}: x is {x.shape} {x.dtype}; (N, {SIDE}, {SIDE}) uint8 is expected")
    if kind not in classes:
        raise ValueError(f"{file}: no class {kind!r}; there are {', '.join(classes)}")
    order = np.random.default_rng(seed)
    names = order.permutation(np.unique(boards))
    test = np.isin(boards, names[: len(names) // 3])
    this = y == list(classes).index(kind)
    known = order.permutation(np.flatnonzero(this & ~test))[:few]
    parts = [
        (x, known),
        (sound, np.flatnonzero(~test)),
        (x, np.flatnonzero(this & test)),
        (sound, np.flatnonzero(test)),
    ]
    pictures = [torch.from_numpy(part[rows])[:, None] / 127.5 - 1 for part, rows in parts]
    return Surface(size, *pictures, about=f"pictures of a {kind}")


def simulated(size: int, few: int, seed: int, many: int = 2000) -> Surface:
    """Brushed metal with and without a scratch; `many` sound pictures, a quarter scratched and `many` to judge by."""
    generator = torch.Generator().manual_seed(10_000)
    tests = scratched(metal(many // 4, generator), generator), metal(many, generator)
    generator.manual_seed(seed)
    known, sound = scratched(metal(few, generator), generator), metal(many, generator)
    return Surface(size, known, sound, *tests, about="pictures of a scratch")


def metal(n: int, generator: torch.Generator) -> Tensor:
    """Brushed along one direction, with a soft sheen across."""
    grain = avg_pool2d(torch.randn(n, 1, SIDE, 3 * SIDE, generator=generator), (1, 17), 1)[..., :SIDE]
    across = torch.linspace(-1, 1, SIDE)[:, None] - torch.rand(n, 1, 1, 1, generator=generator) * 2 + 1
    return (0.4 * (-3 * across**2).exp() + grain - 0.3).clamp(-1, 1)


def scratched(x: Tensor, generator: torch.Generator) -> Tensor:
    """A bent scratch through or near the middle of each, bright along its ridge and dark beside it."""
    angle, bend, shift, length, depth = (torch.rand(len(x), 1, 1, generator=generator) for _ in range(5))
    v, u = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    angle = torch.pi * angle
    along = u * angle.cos() + v * angle.sin()
    aside = v * angle.cos() - u * angle.sin() + (bend - 0.5) * along**2 + 0.4 * (shift - 0.5)
    there = torch.sigmoid(20 * (0.3 + 0.5 * length - along.abs()))
    ridge = (-((aside / 0.04) ** 2)).exp() - 0.8 * (-(((aside - 0.08) / 0.05) ** 2)).exp()
    return (x + ((0.4 + 0.8 * depth) * there * ridge)[:, None]).clamp(-1, 1)
