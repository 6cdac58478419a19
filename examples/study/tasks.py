"""What there is to learn, and how well it was learnt: five data sets, each with its networks and its measures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import chi2
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import interpolate

from coopinit_plugin import SlicedWasserstein
from coopinit_plugin.trial.measures import PrincipalComponents, fidelity
from examples.helpers.digits import StackedDigits, digits, read, spread
from examples.study import networks

QUALITY = 0.99  # a sample is of high quality where it is as close to the data as 99 % of the real ones are

ALIKE = 0.7  # correlation with the nearest template; of real series about 0.9 at least
PHASES = 8  # of 32 steps


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


def stacked_digits(size: int = 8) -> Task:
    """Three handwritten digits as three channels, 8×8 or enlarged: 1000 modes, told by the nearest real digits."""

    def enlarged(images: Tensor) -> Tensor:
        return images if size == 8 else interpolate(images, size=size, mode="bilinear")

    def reduced(images: Tensor) -> Tensor:
        return images if size == 8 else interpolate(images, size=8, mode="area")

    images = reduced(enlarged(digits()[0][:, None]))[:, 0]
    apart = torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(math.inf).amin(1)
    near = apart.quantile(QUALITY)

    def measure(samples: Tensor) -> dict[str, float]:
        found, distance = read(reduced(samples), images)
        good = (distance.reshape(-1, 3) <= near).all(1)
        return counted(found.reshape(-1, 3) @ torch.tensor([100, 10, 1]), good, 1000)

    data = enlarged(StackedDigits().images)
    return Task(data, functools.partial(networks.images, size), (64, 1, 1), measure, sliced_distance(data), modes=1000)


def photograph_patches(size: int = 16) -> Task:
    """Patches 16×16, or larger, of scikit-learn's two bundled photographs, half of them mirrored."""
    generator = torch.Generator().manual_seed(0)
    photographs = [torch.tensor(image).permute(2, 0, 1) / 127.5 - 1 for image in load_sample_images().images]
    patches = []
    for photograph in photographs:
        every = photograph.unfold(1, size, 1).unfold(2, size, 1)  # (3, rows, columns, size, size), a view
        rows, columns = (torch.randint(every.shape[i], (10_000,), generator=generator) for i in (1, 2))
        patches.append(every[:, rows, columns].transpose(0, 1))
    data = torch.cat(patches)[torch.randperm(20_000, generator=generator)]
    data[::2] = data[::2].flip(3)
    inside = PrincipalComponents(data)
    real = inside(data[:5000])

    def finish(samples: Tensor) -> dict[str, float]:
        return fidelity(real, inside(samples[:5000]))

    return Task(data, functools.partial(networks.images, size), (64, 1, 1), sliced_distance(data), finish)


def wave_series() -> Task:
    """Series of 3 channels × 32 steps; each channel is one of 6 waves: 216 modes, told by the nearest template.

    A wave has one of 8 phases, an amplitude of 0.5 to 1, and noise of 0.1. A sample counts where each of its channels
    is like a template.
    """
    t = torch.arange(32) / 32
    turn = 2 * math.pi * t
    bump = 2 * (-(((t - 0.5) / 0.08) ** 2)).exp() - 0.5
    square, saw = torch.where(t < 0.5, 1.0, -1.0), 2 * t - 1
    waves = torch.stack([turn.sin(), (2 * turn).sin(), (3 * turn).sin(), square, saw, bump])
    generator = torch.Generator().manual_seed(0)
    shifted = torch.stack([waves.roll(shift, 1) for shift in range(PHASES)], 1)  # (6, phases, 32)
    chosen, phase = (torch.randint(high, (25_600, 3), generator=generator) for high in (6, PHASES))
    amplitude = 0.5 + torch.rand(25_600, 3, 1, generator=generator) / 2
    data = amplitude * shifted[chosen, phase] + 0.1 * torch.randn(25_600, 3, 32, generator=generator)
    templates = _normal(shifted.reshape(-1, 32))

    def nearest(samples: Tensor) -> tuple[Tensor, Tensor]:
        """(Which wave each channel is, the correlation with it)."""
        likeness, index = (_normal(samples.reshape(-1, 32)) @ templates.T).max(1)
        return index.reshape(-1, 3) // PHASES, likeness.reshape(-1, 3)

    def measure(samples: Tensor) -> dict[str, float]:
        found, likeness = nearest(samples)
        return counted_where_good(found @ torch.tensor([36, 6, 1]), (likeness >= ALIKE).all(1), 216)

    return Task(data, networks.series, (64, 1), measure, sliced_distance(data), modes=216)


def _normal(x: Tensor) -> Tensor:
    """Each series with mean 0 and norm 1."""
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-8)


def gaussians(centres: Tensor, sd: float) -> Task:
    """A mixture of equal Gaussians, σ of the whole 1; a mode counts where a sample lies within 3 sd of it.

    In more than two dimensions it is the radius that holds as much of a Gaussian as 3 sd do in two: 98.9 %.
    """
    centres = centres - centres.mean(0)
    whole = float((centres.square().mean() + sd**2).sqrt())
    centres, sd = centres / whole, sd / whole
    modes, size = centres.shape
    radius = sd * math.sqrt(chi2.ppf(1 - math.exp(-4.5), size))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(modes, (25_600,), generator=generator)
    data = centres[chosen] + sd * torch.randn(25_600, size, generator=generator)

    def measure(samples: Tensor) -> dict[str, float]:
        distance, nearest = torch.cdist(samples, centres).min(1)
        return counted_where_good(nearest, distance <= radius, modes)

    return Task(data, functools.partial(networks.vectors, size), (64,), measure, sliced_distance(data), modes=modes)


def gaussian_grid() -> Task:
    """A 10×10 grid in the plane, 20 sd apart."""
    line = torch.arange(10.0)
    return gaussians(torch.cartesian_prod(line, line), 0.05)


def gaussian_cloud() -> Task:
    """100 Gaussians about random centres in 8 dimensions, 20 sd apart."""
    return gaussians(torch.randn(100, 8, generator=torch.Generator().manual_seed(0)), 0.2)


def counted(modes: Tensor, good: Tensor, total: int) -> dict[str, float]:
    """Modes covered, the reverse KL of their frequencies against uniform, and the share of good samples."""
    covered, reverse_kl = spread(modes, total)
    return {"modes": covered, "reverse_kl": reverse_kl, "quality": float(good.float().mean())}


def counted_where_good(modes: Tensor, good: Tensor, total: int) -> dict[str, float]:
    """The same, where a sample that is not good has no mode."""
    if good.any():
        return counted(modes[good], good, total)
    return {"modes": 0.0, "reverse_kl": math.log(total), "quality": 0.0}


def sliced_distance(data: Tensor) -> Callable[[Tensor], dict[str, float]]:
    """The sliced Wasserstein distance of samples to as many real ones, in σ of the data."""
    measure = SlicedWasserstein(data[:1], [float(data.std())])
    real = measure.project(data)
    return lambda samples: {"distance": float(measure.between(measure.project(samples), real[: len(samples)]))}


TASKS: dict[str, Callable[[], Task]] = {
    "digits": stacked_digits,
    "digits32": functools.partial(stacked_digits, 32),
    "patches": photograph_patches,
    "patches32": functools.partial(photograph_patches, 32),
    "series": wave_series,
    "grid100": gaussian_grid,
    "cloud100": gaussian_cloud,
}
