"""A witness of the warm-up: G's samples before and after from the same latents, and where it all came from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.result.provenance import Origin
from coopinit_plugin.result.thumbnails import Samples, pack, preview


class Witness:
    """Looks on, and leaves no trace: buffers, modes and every random generator are put back.

    Args:
        pair: The copies, before the first iteration.
        batch: The first batch.
        seed: Seeds the latents, and G's own noise alike before and after.
        device: Where the latents go.
    """

    def __init__(self, pair: Pair, batch: Any, seed: int, device: torch.device) -> None:
        self._pair, self._seed = pair, seed
        with borrowed_randomness(seed):
            self._x, self._z, _ = pair.draw(batch, device)
        self._before = self._generated()

    def samples(self) -> Samples:
        """Real samples, and G's before and after, for pictures."""
        weights = sum(p.numel() * p.element_size() for net in (self._pair.G, self._pair.D) for p in net.parameters())
        return pack(weights, real=preview(self._x), before=self._before, after=self._generated())

    def origin(self, loader: Any, processes: int) -> Origin:
        """The networks, the data, and what they were put together with.

        Args:
            loader: The user's.
            processes: How many each took a batch.
        """
        from coopinit_plugin._version import __version__

        G, D = self._pair.G, self._pair.D
        leaves = tree_leaves(self._x)
        dataset: Any = getattr(loader, "dataset", None)
        device = leaves[0].device
        return Origin(
            generator=type(G).__name__,
            discriminator=type(D).__name__,
            generator_parameters=sum(p.numel() for p in G.parameters()),
            discriminator_parameters=sum(p.numel() for p in D.parameters()),
            latent=[list(leaf.shape[1:]) for leaf in tree_leaves(self._z) if isinstance(leaf, Tensor)],
            data=[list(leaf.shape[1:]) for leaf in leaves],
            low=min(float(leaf.min()) for leaf in leaves),
            high=max(float(leaf.max()) for leaf in leaves),
            batch=len(leaves[0]) * processes,
            samples=len(dataset) if hasattr(dataset, "__len__") else None,
            first_batch=_digest(leaves),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            versions={
                "coopinit_plugin": __version__,
                "torch": str(torch.__version__),
                "accelerate": importlib.metadata.version("accelerate"),
                "python": platform.python_version(),
            },
        )

    def _generated(self) -> Tensor:
        """G's samples in the mode in which the user's loop will see them; with a graph, for G's that need one."""
        with borrowed_randomness(self._seed), kept(buffers(self._pair.G), training(self._pair.G)):
            self._pair.G.train()
            return preview(self._pair.generate(self._z))


def _digest(leaves: list[Tensor]) -> str:
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
