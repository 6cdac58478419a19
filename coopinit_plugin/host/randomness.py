"""The random generators of the process and of the loader: seeded for the warm-up, and put back as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from coopinit_plugin.method.kept import kept


def random_state(generators: list[torch.Generator]) -> dict[str, Any]:
    """Python's, NumPy's and torch's generators on every device, and those given; a nest of tensors and plain values."""
    numpy = sys.modules.get("numpy")
    kind, keys, *rest = numpy.random.get_state() if numpy else (None, None)
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest) if keys is not None else None,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "generators": [generator.get_state() for generator in generators],
    }


def set_random_state(state: dict[str, Any], generators: list[torch.Generator]) -> None:
    """Put them all in the state that :func:`random_state` read."""
    random.setstate(state["python"])
    numpy = sys.modules.get("numpy")
    if numpy and state["numpy"] is not None:
        numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    for generator, value in zip(generators, state["generators"], strict=True):
        generator.set_state(value)


def seed_all(seed: int, process: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators; every process draws its own numbers from the one seed."""
    own = seed if process == 0 else random.Random(f"{seed}, process {process}").getrandbits(63)
    random.seed(own)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(own % 2**32)
    torch.manual_seed(own)


@contextmanager
def borrowed_randomness(seed: int, loader: Any = None) -> Iterator[None]:
    """Seed every global generator inside; put their states, and those of the loader's own generators, back after."""
    owned = loader_generators(loader)
    with kept(partial(set_random_state, random_state(owned), owned)):
        seed_all(seed)
        yield


def loader_generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers own."""
    found = {id(g): g for g in (getattr(owner, "generator", None) for owner in samplers(loader))}
    return [g for g in found.values() if isinstance(g, torch.Generator)]


def samplers(loader: Any) -> list[Any]:
    """A DataLoader and what it draws from: its sampler, its batch sampler, and those inside that one."""
    found, names = [loader], ("sampler", "batch_sampler")
    for owner in found:
        inside = [getattr(owner, name, None) for name in names]
        found += [new for new in inside if new is not None and not any(new is old for old in found)]
    return found
