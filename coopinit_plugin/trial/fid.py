"""The Fréchet Inception distance, if torch-fidelity is installed, which brings its own network."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin.nests import first_line

logger = logging.getLogger(__name__)


class Images(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity reads them, (3, H, W) uint8.

    Args:
        x: (N, C, H, W), one channel or three, on the CPU.
        low: What becomes 0.
        high: What becomes 255.
    """

    def __init__(self, x: Tensor, low: Tensor, high: Tensor) -> None:
        levels = ((x - low) / (high - low).clamp_min(1e-12) * 255).round().clamp(0, 255)
        self._levels = levels.to(torch.uint8).expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self._levels)

    def __getitem__(self, index: int) -> Tensor:
        return self._levels[index]


def fid(real: Any, fake: Any) -> float | None:
    """FID of generated against real images (Heusel et al. 2017), as torch-fidelity computes it.

    Few samples make it too large (Bińkowski et al. 2018), so it compares starts that are measured on as many.

    Args:
        real: (N, C, H, W), one channel or three; their range is taken for that of all images.
        fake: As many.

    Returns:
        ``None`` if torch-fidelity is not installed or failed, which is logged, or if the samples are no images.
    """
    try:
        from torch_fidelity import calculate_metrics
    except ImportError:
        return None
    if not all(isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3) for x in (real, fake)):
        return None
    real, fake = real.cpu(), fake.cpu()
    sets = [Images(x, real.min(), real.max()) for x in (real, fake)]
    given = {"input1": sets[0], "input2": sets[1], "cuda": torch.cuda.is_available()}
    try:
        found = calculate_metrics(**given, fid=True, cache=False, verbose=False)
    except Exception as error:  # e.g. its network cannot be downloaded
        logger.warning("No FID: torch-fidelity failed (%s).", first_line(error))
        return None
    return float(found["frechet_inception_distance"])
