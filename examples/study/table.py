"""The committed tables: one row a run, appended whole."""

from __future__ import annotations

import csv
import io
from pathlib import Path

COLUMNS = (
    *("setting", "arm", "seed", "status", "seconds", "iterations"),
    *("warm_iterations", "warm_cost", "warm_stop", "warm_score", "warm_handover"),
    *("modes", "reverse_kl", "quality", "collapsed", "cost_to_half", "cost_to_most", "area"),
    *("distance", "precision", "recall", "density", "coverage"),
    *("library", "curve"),
)


class Table:
    """A CSV file that several processes may append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def append(self, row: dict[str, object]) -> None:
        """One write of one line, which a file opened for appending takes as a whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(",".join(COLUMNS) + "\n")
        except FileExistsError:
            pass
        line = io.StringIO()
        csv.DictWriter(line, COLUMNS, lineterminator="\n", restval="").writerow(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(line.getvalue())
