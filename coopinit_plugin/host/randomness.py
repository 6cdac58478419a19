"""The random generators of the process and of the loader: seeded for the warm-up, and put back as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy
import torch

from coopinit_plugin.method.kept import Undo, entries, kept


def random_state(generators: list[torch.Generator]) -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, on every device, and of those given."""
    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "devices": [torch.get_device_module().get_rng_state(i) for i in range(torch.accelerator.device_count())],
        "generators": [generator.get_state() for generator in generators],
    }


def set_random_state(state: dict[str, Any], generators: list[torch.Generator]) -> None:
    """Put them all in the state that :func:`random_state` read."""
    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for index, value in zip(range(torch.accelerator.device_count()), state["devices"], strict=False):
        torch.get_device_module().set_rng_state(value, index)
    for generator, value in zip(generators, state["generators"], strict=True):
        generator.set_state(value)


def randomness(generators: list[torch.Generator]) -> Undo:
    """Save the state of all of them, for :func:`coopinit_plugin.method.kept.kept`."""
    return partial(set_random_state, random_state(generators), generators)


def seed_all(seed: int, process: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators; every process draws its own numbers from the one seed."""
    own = seed if process == 0 else random.Random(f"{seed}, process {process}").getrandbits(63)
    random.seed(own)
    numpy.random.seed(own % 2**32)
    torch.manual_seed(own)


@contextmanager
def borrowed_randomness(seed: int, loader: Any = None) -> Iterator[None]:
    """Seed every global generator inside; put their states, and the loader with its own generators, back after."""
    owners = samplers(loader) if isinstance(loader, torch.utils.data.DataLoader) else []
    own = [entries(vars(owner)) for owner in owners if hasattr(owner, "__dict__")]  # a persistent iterator among them
    with kept(*own, randomness(loader_generators(loader))):
        seed_all(seed)
        yield


def loader_generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader and its samplers own, each once."""
    found = [getattr(owner, "generator", None) for owner in samplers(loader)]
    return list(dict.fromkeys(generator for generator in found if isinstance(generator, torch.Generator)))


def samplers(loader: Any) -> list[Any]:
    """A DataLoader and what it draws from: its sampler, its batch sampler, and those inside that one."""
    inside = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    return [loader, *(owner for new in inside if new is not None for owner in samplers(new))]
