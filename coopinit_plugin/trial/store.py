"""A pilot's runs on disk: each kept in a file of its own as soon as it has ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import first_line
from coopinit_plugin.trial.run import ARMS, Run

RUNS = "runs"


class Store:
    """The runs so far.

    Args:
        folder: Where they are kept; nowhere if ``None``.
        resume: Whether those that are there are taken.
        seeds: Of the runs that are asked for.
        asked: What has to be the same in all.

    Raises:
        CoopInitError: if the folder holds runs and `resume` is off, or other ones.
    """

    def __init__(self, folder: str | Path | None, resume: bool, seeds: list[int], asked: dict[str, Any]) -> None:
        self._folder = Path(folder) / RUNS if folder is not None else None
        self._asked, self.runs = asked, list[Run]()
        paths = sorted(self._folder.glob("*.pt")) if self._folder else []
        if paths and not resume:
            raise CoopInitError(
                f"{folder} holds {len(paths)} runs of a pilot. Go on with them by resume=True, or give another folder."
            )
        for path in paths:
            was, run = _read(path)
            if differ := [
                f"{name} was {was.get(name)!r} and is {asked[name]!r}" for name in asked if was.get(name) != asked[name]
            ]:
                raise CoopInitError(f"{path} was run otherwise ({'; '.join(differ)}). Give another output_dir.")
            if run.seed in seeds:
                self.runs.append(run)
        self.runs.sort(key=lambda run: (seeds.index(run.seed), ARMS.index(run.arm)))

    def keep(self, run: Run) -> None:
        """Keep a run that has ended."""
        self.runs.append(run)
        if self._folder is None:
            return
        path = self._folder / f"{run.seed}-{run.arm.replace(' ', '-')}.pt"
        new = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            torch.save({"asked": self._asked, "run": run.as_dict}, new)
            os.replace(new, path)
        except (OSError, RuntimeError) as error:
            raise CoopInitError(f"output_dir: {path} cannot be written ({first_line(error)}).") from error


def _read(path: Path) -> tuple[dict[str, Any], Run]:
    try:
        kept = torch.load(path, weights_only=True)
        return kept["asked"], Run.from_dict(kept["run"])
    except Exception as error:  # torch.load has a dozen kinds
        raise CoopInitError(f"{path} is no run of a pilot, or was damaged. Delete it, and it is run again.") from error
