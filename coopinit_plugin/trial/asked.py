"""What the call of ``pilot`` asks for, checked before anything runs."""

from __future__ import annotations

import math
from typing import Any

from coopinit_plugin.errors import CoopInitError

FEWEST_STEPS = 20  # adversarial iterations without which a run means nothing


def checked_seeds(make: Any, train_step: Any, minutes: Any, iterations: Any, seeds: Any) -> list[int]:
    """The seeds, after everything that the call itself can have wrong."""
    for name, given, example in (("make", make, "make(seed)"), ("train_step", train_step, "train_step(G, D, batch)")):
        if not callable(given):
            raise CoopInitError(f"{name} is a {type(given).__name__}; expected a function, {example}.")
    whole = isinstance(iterations, int) and not isinstance(iterations, bool)
    if (minutes is None) == (iterations is None):
        raise CoopInitError("Give one of minutes and iterations, e.g. pilot(make, loader, train_step, minutes=10).")
    if minutes is not None and not (isinstance(minutes, (int, float)) and 0 < minutes < math.inf):
        raise CoopInitError(f"minutes={minutes!r} was given; expected a number above 0, e.g. minutes=10.")
    if iterations is not None and not (whole and iterations >= FEWEST_STEPS):
        raise CoopInitError(f"iterations={iterations!r} was given; expected a whole number of at least {FEWEST_STEPS}.")
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or len(set(chosen)) < len(chosen) or not all(isinstance(s, int) and 0 <= s < 2**63 for s in chosen):
        raise CoopInitError(f"seeds={seeds!r} was given; expected how many, or different whole numbers: seeds=5.")
    return chosen
