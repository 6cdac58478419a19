"""A watch on the user's own loop: the pilot's measures over time, and a word as soon as something is wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.calling import data
from coopinit_plugin.calling.adapter import Adapter, line, unclear
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.nests import describe, get, move
from coopinit_plugin.trial.data import taken
from coopinit_plugin.trial.drawing import draw_curves
from coopinit_plugin.trial.measures import Features, Measures
from coopinit_plugin.trial.readings import Reading, alarms, scores

logger = logging.getLogger(__name__)

REAL = 512  # samples that are measured against
FAKE = 64  # generated samples that a call looks at


class Watch:
    """Watches a GAN's run from inside the user's loop and warns of collapse, divergence, a dead D and memorising.

    Args:
        loader: Real data, any iterable of batches; the first 512 samples are kept. Best a loader of held-back data.
        adapter: ``Adapter(real=...)`` if a batch holds more than one tensor that could be the data.
        features: ``(x) -> (N, d)``: neighbours and diversity are measured there instead of on principal components of
            random projections. x is on the device that it came from.
        every: How many of your iterations lie between two calls, unless you give `step`.

    Attributes:
        readings: Everything measured so far, one :class:`Reading` a call.
        held_back: The first real samples that are measured against, to be scored by D.

    Raises:
        CoopInitError: if the data cannot be found in a batch, or there are fewer than 16 samples.

    Example:
        >>> watch = coopinit_plugin.Watch(held_back_loader)  # doctest: +SKIP
        >>> for step, real in enumerate(loader):  # doctest: +SKIP
        ...     ...  # your adversarial step
        ...     if step % 25 == 0:  # a millisecond or two; a warning is logged, in words
        ...         watch(fake=fake, real_score=D(real), fake_score=D(fake), step=step)
        >>> watch.plot("run.png")  # doctest: +SKIP
        >>> accelerator.log(watch.readings[-1].row, step=step)  # doctest: +SKIP
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        adapter: Adapter | None = None,
        features: Features | None = None,
        every: int = 25,
    ) -> None:
        if not (isinstance(every, int) and every > 0):
            raise CoopInitError(f"every={every!r} was given; expected a whole number of iterations, e.g. every=25.")
        with borrowed_randomness(0, loader), torch.no_grad():
            real = _real(loader, adapter or Adapter())
        self._measures = Measures(real, features, directions=32)
        self.held_back = tree_map(lambda leaf: leaf[:FAKE], real)
        self.readings: list[Reading] = []
        self._every, self._sounding = every, set[str]()

    @torch.no_grad()
    def __call__(
        self,
        *,
        fake: Any,
        real_score: Tensor | None = None,
        fake_score: Tensor | None = None,
        held_score: Tensor | None = None,
        step: int | None = None,
    ) -> Reading:
        """Measure the first 64 of the samples; a new alarm is logged as a warning.

        Args:
            fake: Generated samples, of the real ones' shape and range.
            real_score: D's scores of a batch of training data.
            fake_score: D's scores of generated samples.
            held_score: ``D(watch.held_back)``, which shows whether D memorises.
            step: Your iteration.

        Raises:
            CoopInitError: if the samples have another shape than the data.
        """
        few = tree_map(lambda leaf: leaf[:FAKE], fake)
        self._check(few)
        if step is None:
            step = self.readings[-1].step + self._every if self.readings else 0
        measured = self._measures(few)
        reading = Reading(**asdict(measured), step=step, **scores(real=real_score, fake=fake_score, held=held_score))
        found = alarms([*self.readings, reading])
        reading = replace(reading, warnings=tuple(found.values()))
        self.readings.append(reading)
        for name in found.keys() - self._sounding:
            logger.warning("Step %d: %s.", step, found[name])
        self._sounding = set(found)
        return reading

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong now, in words; empty if nothing is."""
        return self.readings[-1].warnings if self.readings else ()

    def plot(self, path: str | Path) -> Path:
        """Draw the measures over the steps into a PNG; returns its path.

        Raises:
            CoopInitError: if matplotlib is not installed.
        """
        return draw_curves(Path(path), {"this run": [(reading.step, reading) for reading in self.readings]}, "step")

    def state_dict(self) -> dict[str, Any]:
        """Plain values for your checkpoint."""
        return {"readings": [asdict(reading) for reading in self.readings], "sounding": sorted(self._sounding)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        rows = [{**row, "warnings": tuple(row["warnings"])} for row in state["readings"]]
        self.readings, self._sounding = [Reading(**row) for row in rows], set(state["sounding"])

    def _check(self, fake: Any) -> None:
        ours, theirs = ([tuple(leaf.shape[1:]) for leaf in tree_leaves(x)] for x in (self.held_back, fake))
        if ours != theirs:
            raise CoopInitError(
                f"fake is {describe(fake)}; expected generated samples shaped as the data, {describe(self.held_back)}. "
                "Give G's output as D gets it, or an adapter=coopinit_plugin.Adapter(real=...) to Watch."
            )


def _real(loader: Iterable[Any], adapter: Adapter) -> Any:
    """As many real samples as are needed, or as there are."""
    batches = taken(loader, REAL)
    first = data.held(batches[0], adapter.real)
    if adapter.real is None and len(first.data) > 1:
        names = [part.name for part in first.data]
        raise unclear(f"Which tensor of the batch is the data? {' or '.join(names)}.", line(real=names[0]))
    keys = first.data[0].keys
    found = [move(adapter.real(batch) if adapter.real else get(batch, keys), None) for batch in batches]
    data.check_finite(found[0], "The first batch")
    return tree_map(lambda *leaves: torch.cat(leaves)[:REAL], *found)
