"""Where a warm start comes from: the networks, the data and the machine, in numbers that fit on a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Origin:
    """What was warmed up, and on what.

    Attributes:
        generator: G's class name.
        discriminator: D's.
        generator_parameters: Numbers in G's parameters.
        discriminator_parameters: Numbers in D's.
        latent: Shape of each tensor that G takes, without the batch's dimension.
        data: Shape of each tensor of a sample, without the batch's dimension.
        low: Smallest number of the first batch.
        high: Largest.
        batch: Samples in one iteration, all processes together.
        samples: Samples in the dataset, ``None`` where the loader does not tell.
        first_batch: SHA-256 of the first batch's data.
        device: Where it ran.
        versions: Of Python and of the libraries that the numbers depend on.
    """

    generator: str
    discriminator: str
    generator_parameters: int
    discriminator_parameters: int
    latent: list[list[int]]
    data: list[list[int]]
    low: float
    high: float
    batch: int
    samples: int | None
    first_batch: str
    device: str
    versions: dict[str, str]

    @classmethod
    def read(cls, told: dict[str, Any]) -> Origin:
        """From JSON that may hold anything; what this version does not know is left out.

        Raises:
            KeyError, TypeError, ValueError: where something is missing or of the wrong kind.
        """
        return cls(
            generator=str(told["generator"]),
            discriminator=str(told["discriminator"]),
            generator_parameters=int(told["generator_parameters"]),
            discriminator_parameters=int(told["discriminator_parameters"]),
            latent=[[int(size) for size in shape] for shape in told["latent"]],
            data=[[int(size) for size in shape] for shape in told["data"]],
            low=float(told["low"]),
            high=float(told["high"]),
            batch=int(told["batch"]),
            samples=None if told["samples"] is None else int(told["samples"]),
            first_batch=str(told["first_batch"]),
            device=str(told["device"]),
            versions={str(name): str(version) for name, version in told["versions"].items()},
        )
