"""Where a warm start comes from: the networks, the data, the machine, and a few small samples before and after."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

from coopinit_plugin._version import __version__
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.nests import describe

WIDEST = 40  # pixels of a kept image
NUMBERS = 100_000  # that the samples of one set have together at most
VECTORS, OTHERS = 512, 64  # the most samples of a set: many points make a picture, a few images do

Samples = dict[str, Tensor]  # "real", "before", "after"


def witness(pair: Pair, batch: Any, seed: int, device: torch.device) -> Callable[[], tuple[dict[str, str], Samples]]:
    """See a warm-up begin, and end when the result is called: (its origin in words, samples from the same latents).

    Looking on moves nothing in G.
    """
    with borrowed_randomness(seed):
        x, z, _ = pair.draw(batch, device)

    def generated() -> Tensor:
        """G's samples in training mode, as the user's loop will see them; with a graph, for the G that needs one."""
        with borrowed_randomness(seed), kept(buffers(pair.G), training(pair.G)):
            pair.G.train()
            return preview(pair.generate(z))

    before = generated()
    return lambda: (_origin(pair, x, z, device), pack(real=preview(x), before=before, after=generated()))


def _origin(pair: Pair, x: Any, z: Any, device: torch.device) -> dict[str, str]:
    """The networks, the first batch and the machine, in words for the table and the card."""
    G, D = ((type(net).__name__, sum(p.numel() for p in net.parameters())) for net in (pair.G, pair.D))
    numbers = torch.cat([leaf.flatten() for leaf in tree_leaves(x)])
    return {
        "generator": "{}, {:,} parameters".format(*G),
        "discriminator": "{}, {:,} parameters".format(*D),
        "latents": describe(z),
        "data": f"{describe(x)} from {numbers.min():.3g} to {numbers.max():.3g}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": f"coopinit_plugin {__version__}, torch {torch.__version__}",
    }


def preview(samples: Any) -> Tensor:
    """The largest tensor, as images ``(N, 1 or 3, H, W)``, series ``(N, length, channels)`` or vectors ``(N, C)``."""
    x: Tensor = max(tree_leaves(samples), key=lambda leaf: leaf[0].numel()).detach().float().cpu()
    if x.ndim == 5:
        x = x[:, :, x.shape[2] // 2]  # the middle slice of a volume or a video
    if x.ndim == 4:
        colours = 3 if x.shape[1] >= 3 else 1
        return interpolate(x[:, :colours], [min(WIDEST, side) for side in x.shape[2:]], mode="area")
    if x.ndim == 3:
        return x.transpose(1, 2) if x.shape[1] < x.shape[2] else x
    return x.flatten(1)


def pack(**sets: Tensor) -> Samples:
    """As many samples of each set as fit; nothing if not even one fits."""
    x = next(iter(sets.values()))
    count = min(len(x), VECTORS if x.ndim == 2 else OTHERS, NUMBERS // x[0].numel())
    return {name: torch.nan_to_num(x[:count]).contiguous() for name, x in sets.items()} if count else {}
