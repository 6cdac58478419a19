"""Where a warm start comes from: the networks, the data, the machine, and G's samples before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from coopinit_plugin._version import __version__
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.nests import describe
from coopinit_plugin.result.thumbnails import Samples, pack, preview


class Witness:
    """Sees the warm-up begin and end, from the same latents, and puts back what looking on moves in G."""

    def __init__(self, pair: Pair, batch: Any, seed: int, device: torch.device) -> None:
        self._pair, self._seed, self._device = pair, seed, device
        with borrowed_randomness(seed):
            self._x, self._z, _ = pair.draw(batch, device)
        self._before = self._generated()

    def samples(self) -> Samples:
        """Real samples, and G's before and after from the same latents, for pictures."""
        return pack(real=preview(self._x), before=self._before, after=self._generated())

    def origin(self) -> dict[str, str]:
        """The networks, the first batch and the machine, in words for the table and the card."""
        told = {}
        for name, net in (("generator", self._pair.G), ("discriminator", self._pair.D)):
            told[name] = f"{type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters"
        leaves = tree_leaves(self._x)
        low, high = min(float(leaf.min()) for leaf in leaves), max(float(leaf.max()) for leaf in leaves)
        told["latents"] = describe(self._z)
        told["data"] = f"{describe(self._x)} from {low:.3g} to {high:.3g}"
        told["device"] = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type
        return {**told, "versions": f"coopinit_plugin {__version__}, torch {torch.__version__}"}

    def _generated(self) -> Tensor:
        """G's samples in training mode, as the user's loop will see them; with a graph, for the G that needs one."""
        with borrowed_randomness(self._seed), kept(buffers(self._pair.G), training(self._pair.G)):
            self._pair.G.train()
            return preview(self._pair.generate(self._z))
