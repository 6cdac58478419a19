"""Where a warm start comes from: the networks, the data, the machine, and G's samples before and after."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin._version import __version__
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.result.thumbnails import Samples, pack, preview


@dataclass(frozen=True)
class Origin:
    """What was warmed up, and on what, in numbers that fit on a card. Shapes are without the batch's dimension."""

    generator: str  # class names
    discriminator: str
    generator_parameters: int
    discriminator_parameters: int
    latent: list[list[int]]  # of each tensor that G takes
    data: list[list[int]]  # of each tensor of a sample
    low: float  # the range of the first batch
    high: float
    batch: int  # samples in one iteration, all processes together
    samples: int | None  # in the dataset, if the loader tells
    first_batch: str  # SHA-256 of its data
    device: str
    versions: dict[str, str]


class Witness:
    """Sees the warm-up begin and end, from the same latents, and puts back what looking on moves in G."""

    def __init__(self, pair: Pair, batch: Any, seed: int, device: torch.device) -> None:
        self._pair, self._seed = pair, seed
        with borrowed_randomness(seed):
            self._x, self._z, _ = pair.draw(batch, device)
        self._before = self._generated()

    def samples(self) -> Samples:
        """Real samples, and G's before and after from the same latents, for pictures."""
        return pack(real=preview(self._x), before=self._before, after=self._generated())

    def origin(self, loader: Any, processes: int) -> Origin:
        """The networks, the data and the machine; each of the processes took a batch."""
        leaves = [leaf.detach() for leaf in tree_leaves(self._x)]
        dataset, device = getattr(loader, "dataset", None), leaves[0].device
        data = b"".join(leaf.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for leaf in leaves)
        versions = {"torch": str(torch.__version__), "accelerate": importlib.metadata.version("accelerate")}
        return Origin(
            generator=type(self._pair.G).__name__,
            discriminator=type(self._pair.D).__name__,
            generator_parameters=sum(p.numel() for p in self._pair.G.parameters()),
            discriminator_parameters=sum(p.numel() for p in self._pair.D.parameters()),
            latent=[list(leaf.shape[1:]) for leaf in tree_leaves(self._z) if isinstance(leaf, Tensor)],
            data=[list(leaf.shape[1:]) for leaf in leaves],
            low=min(float(leaf.min()) for leaf in leaves),
            high=max(float(leaf.max()) for leaf in leaves),
            batch=len(leaves[0]) * processes,
            samples=len(dataset) if isinstance(dataset, Sized) else None,
            first_batch=hashlib.sha256(data).hexdigest(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            versions={"coopinit_plugin": __version__, **versions},
        )

    def _generated(self) -> Tensor:
        """G's samples in training mode, as the user's loop will see them; with a graph, for the G that needs one."""
        with borrowed_randomness(self._seed), kept(buffers(self._pair.G), training(self._pair.G)):
            self._pair.G.train()
            return preview(self._pair.generate(self._z))
