"""What there is to learn, and how well it was learnt: four data sets, each with its networks and its measures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coopinit_plugin.measures import SlicedWasserstein
from examples.digits import StackedDigits, digits, read, spread
from examples.study import networks

QUALITY = 0.99  # a sample is of high quality where it is as close to the data as 99 % of the real ones are


@dataclass(frozen=True)
class Task:
    """A data set with its networks and measures.

    Attributes:
        data: Samples (N, ...).
        pair: ``(norm, g_width, d_width, sigmoid) -> (G, D)``, freshly initialised.
        latent: Shape of one latent.
        measure: Samples to the measures of a point of the curve; the first one is the curve.
        finish: More measures, taken once at the end.
        modes: How many the data have; 0 where nobody knows.
    """

    data: Tensor
    pair: Callable[[str, float, float, bool], tuple[nn.Module, nn.Module]]
    latent: tuple[int, ...]
    measure: Callable[[Tensor], dict[str, float]]
    finish: Callable[[Tensor], dict[str, float]] = lambda _: {}
    modes: int = 0


def stacked_digits() -> Task:
    """Three handwritten digits as three channels, 8×8: 1000 modes, told by the nearest real digits."""
    images = digits()[0]
    apart = torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(math.inf).amin(1)
    near = apart.quantile(QUALITY)

    def measure(samples: Tensor) -> dict[str, float]:
        found, distance = read(samples)
        good = (distance.reshape(-1, 3) <= near).all(1)
        return counted(found.reshape(-1, 3) @ torch.tensor([100, 10, 1]), good, 1000)

    data = StackedDigits().images
    return Task(data, functools.partial(networks.images, 8), (64, 1, 1), measure, sliced_distance(data), modes=1000)


def counted(modes: Tensor, good: Tensor, total: int) -> dict[str, float]:
    """Modes covered, the reverse KL of their frequencies against uniform, and the share of good samples."""
    covered, reverse_kl = spread(modes, total)
    return {"modes": covered, "reverse_kl": reverse_kl, "quality": float(good.float().mean())}


def sliced_distance(data: Tensor) -> Callable[[Tensor], dict[str, float]]:
    """The sliced Wasserstein distance of samples to as many real ones, in σ of the data."""
    measure = SlicedWasserstein(data[:1], [float(data.std())])
    real = measure.project(data)
    return lambda samples: {"distance": float(measure.between(measure.project(samples), real[: len(samples)]))}


TASKS: dict[str, Callable[[], Task]] = {
    "digits": stacked_digits,
}
