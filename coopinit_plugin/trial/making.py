"""The user's ``make``: called for a run, and looked at before the first one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import tensors_of
from coopinit_plugin.host.randomness import seed_all
from coopinit_plugin.nests import describe, first_line

logger = logging.getLogger(__name__)


def made(make: Callable[[int], tuple[Any, ...]], seed: int, ambient: int | None = None) -> tuple[Any, ...]:
    """The user's networks for this seed, with global generators seeded, too.

    Raises:
        CoopInitError: if `make` fails or returns something else.
    """
    seed_all(seed if ambient is None else ambient)
    try:
        nets = make(seed)
    except Exception as error:
        raise CoopInitError(f"make({seed}) failed: {first_line(error)}") from error
    if not (isinstance(nets, (tuple, list)) and len(nets) >= 2 and all(isinstance(n, nn.Module) for n in nets[:2])):
        raise CoopInitError(
            f"make({seed}) returned {describe(nets)}; expected (G, D), or (G, D, ...) with whatever train_step wants "
            "after the batch, e.g. optimizers: def make(seed): torch.manual_seed(seed); ...; return G, D, opt_g, opt_d"
        )
    return tuple(nets)


def check_make(make: Callable[[int], tuple[Any, ...]], seed: int) -> None:
    """Refuse a `make` that ignores its seed; warn if it leaves that to the global generators.

    Raises:
        CoopInitError: if two seeds give the same networks, or two calls the same objects.
    """
    first, again = made(make, seed), made(make, seed, ambient=seed + 1)
    if first[0] is again[0] or first[1] is again[1]:
        raise CoopInitError("make returned the same networks twice; expected new ones at each call: build them inside.")
    if _sums(first) != _sums(again):
        logger.warning("make(seed) does not use its seed, but torch's global generator: the pilot seeds that instead.")
    elif _sums(first) == _sums(made(make, seed + 1, ambient=seed)):
        raise CoopInitError(
            f"make({seed}) and make({seed + 1}) gave the same networks: it ignores its seed. Write "
            "def make(seed): torch.manual_seed(seed); G, D = Generator(), Discriminator(); return G, D"
        )
    if _sums(first) != _sums(made(make, seed)):
        logger.warning(
            "make(%d) gives other networks at each call; the starts are not compared from the same ones.", seed
        )


def _sums(nets: tuple[Any, ...]) -> list[float]:
    return [float(tensor.detach().double().sum()) for net in nets[:2] for tensor in tensors_of(net).values()]
