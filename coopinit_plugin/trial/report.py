"""What a pilot found: in words, as a table, a page, a picture, and rows."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.trial.drawing import CURVES, draw_curves
from coopinit_plugin.trial.measures import Measured
from coopinit_plugin.trial.page import page, said
from coopinit_plugin.trial.run import ARMS, Run
from coopinit_plugin.trial.verdict import Verdict, decide

logger = logging.getLogger(__name__)

PAGE, PICTURE, TABLE = "report.html", "pilot.png", "pilot.csv"
LENGTHS = (16, 32, 64, 128, 256, 400)  # of the warm-up, in iterations


@dataclass(frozen=True)
class PilotReport:
    """What :func:`coopinit_plugin.pilot` found; ``print`` it for the verdict and a table.

    Attributes:
        runs: One for each start and seed.
        config: Of the warm-ups.
        real: What real samples score that are measured as generated ones are: the best that can be had.
        seconds: That the pilot took.
        samples: A few real samples, for pictures.
    """

    runs: tuple[Run, ...]
    config: WarmStartConfig
    real: Measured
    seconds: float
    samples: Tensor | None = field(default=None, compare=False, repr=False)

    @cached_property
    def decision(self) -> Verdict:
        """What to do, with what else is to be known: ``print(report.decision)``."""
        return decide(self.runs, self.config)

    @property
    def verdict(self) -> str:
        """What to do, in words, and what that rests on."""
        return self.decision.words

    @property
    def kind(self) -> str:
        """The verdict in a word: "use", "hand-over", "no benefit", "harm", "unclear" or "nothing worked"."""
        return self.decision.kind

    @property
    def arms(self) -> list[str]:
        """The starts that were compared."""
        return [arm for arm in ARMS if any(run.arm == arm for run in self.runs)]

    def of(self, arm: str) -> list[Run]:
        """The runs from one start."""
        return [run for run in self.runs if run.arm == arm]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """One row a start: medians over its runs that say something."""
        rows = []
        for arm in self.arms:
            runs = [run for run in self.of(arm) if run.decided]
            row: dict[str, Any] = {"start": arm, "usable": f"{sum(r.usable for r in runs)} of {len(runs)}"}
            for name in CURVES:
                row[name] = _median(run.end(name) for run in runs)
            if any(run.fid is not None for run in self.runs):
                row["FID (torch-fidelity)"] = _median(run.fid for run in runs)
            row["iterations"] = _median(run.iterations for run in runs)
            row["warm-up, s"] = _median(run.warm_seconds for run in runs)
            row["its share"] = _median(run.warm_share for run in runs)
            rows.append(row)
        return rows

    @property
    def lengths(self) -> list[tuple[int, float, float]]:
        """Other lengths of the warm-up: (iterations, seconds, distance of G's samples to the data there, in σ)."""
        found = []
        for most in LENGTHS:
            at = [
                [x for x in run.lengths if x[0] <= most][-1:] for run in self.of(ARMS[2]) if run.warm_iterations >= most
            ]
            rows = [x for part in at for x in part]
            if rows:
                found.append((most, _median(x[1] for x in rows), _median(x[2] for x in rows)))
        return found

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a reading, as in the CSV."""
        return [
            {
                "start": run.arm,
                "seed": run.seed,
                "status": run.status,
                "warm_seconds": run.warm_seconds,
                **asdict(reading),
            }
            for run in self.runs
            for reading in run.readings
        ]

    def __str__(self) -> str:
        shown = [{name: said(value) for name, value in row.items()} for row in self.summary]
        widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in (shown[0] if shown else ())}
        lines = [{name: name for name in widths}, *shown]
        table = "\n".join(
            "  ".join(f"{row[name]:<{width}}" for name, width in widths.items()).rstrip() for row in lines
        )
        return f"{self.decision}\n\n{table}"

    def to_html(self) -> str:
        """One page that loads nothing from outside."""
        return page(self)

    def plot(self, path: str | Path) -> Path:
        """Draw the curves into a PNG; returns its path.

        Raises:
            CoopInitError: if matplotlib is not installed or the file cannot be written.
        """
        curves = {f"{run.arm} {run.seed}": [(r.cost, r) for r in run.readings] for run in self.runs}
        return draw_curves(Path(path), curves, "share of the budget, the warm-up included", self.verdict)

    def save(self, folder: str | Path) -> Path:
        """Write report.html, pilot.csv and, if matplotlib is installed, pilot.png; returns the page's path."""
        folder = Path(folder)
        text = io.StringIO()
        if self.rows:
            table = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows({**row, "warnings": "; ".join(row["warnings"])} for row in self.rows)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((TABLE, text.getvalue()), (PAGE, self.to_html())):
                new = folder / f".{name}.new"
                new.write_bytes(content.encode())
                os.replace(new, folder / name)
        except OSError as error:
            raise CoopInitError(f"{folder} cannot be written ({error.strerror or error}). Give another one.") from error
        try:
            self.plot(folder / PICTURE)
        except CoopInitError as error:
            logger.warning("Saved without a picture. %s", error)
        return folder / PAGE


def _median(values: Any) -> float:
    known: Sequence[float] = [float(value) for value in values if value is not None and not math.isnan(value)]
    return median(known) if known else math.nan
