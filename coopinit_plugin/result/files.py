"""How a warm start lies in a folder: safetensors and JSON, sealed, so that half a folder is not taken for a whole.

Whatever is read may come from anyone: only the files named here are looked for, and every value is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import safetensors
import safetensors.torch

from coopinit_plugin._version import __version__
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.provenance import Origin
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.thumbnails import Samples, fit_for_pictures

GENERATOR, DISCRIMINATOR, CONFIG = "generator.safetensors", "discriminator.safetensors", "config.json"
SAMPLES, PICTURE, CARD = "samples.safetensors", "warm_start.png", "README.md"


@dataclass(eq=False, repr=False)
class Contents:
    """All that a folder holds; :class:`coopinit_plugin.WarmStart` says what each is."""

    generator_state: State
    discriminator_state: State
    config: WarmStartConfig
    history: list[StepReport]
    summary: dict[str, Any]
    origin: Origin | None = None
    samples: Samples = field(default_factory=dict)


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A folder to write into, beside the target, that takes its place at the end.

    A target that does not exist appears at once. In an existing one each file is replaced whole, config.json, the
    seal, last; its other files stay, and so does a README.md that was edited.

    Raises:
        CoopInitError: if the target cannot be written.
    """
    staging = target.absolute().with_name(f".{target.name}-{uuid4().hex}")
    try:
        staging.mkdir(parents=True)
        yield staging
        for file in staging.iterdir():
            file.chmod(0o666 & staging.stat().st_mode)  # safetensors writes files that their owner alone can read
        if not target.exists():
            os.replace(staging, target)
            return
        if _has_own_card(target):
            (staging / CARD).unlink()
        for file in sorted(staging.iterdir(), key=lambda file: file.name == CONFIG):
            os.replace(file, target / file.name)
    except OSError as error:
        raise CoopInitError(
            f"{target} cannot be written ({error.strerror or error}). The weights are still in this WarmStart: call "
            "save_pretrained with a folder that you may write to."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_tensors(folder: Path, contents: Contents) -> None:
    """The safetensors files."""
    for name, state in ((GENERATOR, contents.generator_state), (DISCRIMINATOR, contents.discriminator_state)):
        once, aliases = _without_ties(state)
        safetensors.torch.save_file(once, folder / name, metadata={"format": "pt", **aliases})
    if contents.samples:
        safetensors.torch.save_file(contents.samples, folder / SAMPLES)


def write_seal(folder: Path, contents: Contents) -> None:
    """config.json, with the digests of the files that are there."""
    tensors = [name for name in (GENERATOR, DISCRIMINATOR, SAMPLES) if (folder / name).exists()]
    columns = [column.name for column in fields(StepReport)]
    told = {
        "coopinit_plugin": __version__,
        "config": asdict(contents.config),
        "summary": contents.summary,
        "origin": contents.origin and asdict(contents.origin),
        "sha256": {name: _digest(folder / name) for name in tensors},
        "card": _digest(folder / CARD),
        "history": {name: [getattr(row, name) for row in contents.history] for name in columns},
    }
    (folder / CONFIG).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(name: str, file: Callable[[str], Path]) -> Contents:
    """Read and check everything that `file` finds by its name.

    Raises:
        CoopInitError: if files are damaged, not saved together, or not ours.
    """
    path = file(CONFIG)
    told: Any = None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        digests = {key: told["sha256"][key] for key in (GENERATOR, DISCRIMINATOR)}
        if SAMPLES in told["sha256"]:
            digests[SAMPLES] = told["sha256"][SAMPLES]
        summary, history = dict(told["summary"]), dict(told["history"])
        _refuse_other([*summary.values()], (bool, int, float, str))
        _refuse_other([value for column in history.values() for value in column], (int, float))
        rows = [StepReport(**dict(zip(history, row, strict=True))) for row in zip(*history.values(), strict=True)]
        origin = None if told.get("origin") is None else Origin.read(told["origin"])
        config = WarmStartConfig(**told["config"])
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, CoopInitError) as error:
        raise _not_ours(name, told, error) from error
    states = {}
    for key, digest in digests.items():
        part = file(key)
        if _digest(part) != digest:
            raise CoopInitError(
                f"{name}: {key} is not the file that {CONFIG} was saved with; the folder is half written or a "
                "file was damaged or exchanged. Save again with result.save_pretrained(...), or download again "
                "with force_download=True."
            )
        states[key] = _with_ties(part)
    samples = states.get(SAMPLES, {})
    samples = samples if fit_for_pictures(samples) else {}
    return Contents(states[GENERATOR], states[DISCRIMINATOR], config, rows, summary, origin, samples)


def in_folder(folder: str, name: str) -> Path:
    """The file in a local folder, or an error that says what was expected there."""
    path = Path(folder) / name
    if not path.is_file():
        raise CoopInitError(
            f"{folder} has no {name}: no warm start was saved there, or only half of one. Expected {GENERATOR}, "
            f"{DISCRIMINATOR} and {CONFIG}, as result.save_pretrained({folder!r}) writes them."
        )
    return path


def _digest(file: Path) -> str:
    """SHA-256, read in pieces."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def _has_own_card(folder: Path) -> bool:
    """Whether README.md is the user's: written or changed by hand since it was saved."""
    try:
        return bool(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["card"] != _digest(folder / CARD))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (folder / CARD).exists()


def _without_ties(state: State) -> tuple[State, dict[str, str]]:
    """One name for each tensor, and ``{other name: kept name}``, as safetensors' own save_model writes it."""
    first: dict[int, str] = {}
    names = {key: first.setdefault(id(state[key]), key) for key in sorted(state)}
    once = {key: state[key] for key, kept in names.items() if key == kept}
    return once, {key: kept for key, kept in names.items() if key != kept}


def _with_ties(path: Path) -> State:
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            aliases = {key: kept for key, kept in (file.metadata() or {}).items() if kept in state and key != "format"}
    except safetensors.SafetensorError as error:
        raise CoopInitError(f"{path} is no whole safetensors file: {error}. Save or download it again.") from error
    return {**state, **{key: state[kept] for key, kept in aliases.items()}}


def _refuse_other(values: list[Any], kinds: tuple[type, ...]) -> None:
    for value in values:
        if value is not None and not isinstance(value, kinds):
            raise TypeError(f"{value!r:.80} is a {type(value).__name__}")


def _not_ours(name: str, told: Any, error: Exception) -> CoopInitError:
    theirs = told.get("coopinit_plugin") if isinstance(told, dict) else None
    reason = f"{type(error).__name__}: {error}"[:400]
    if isinstance(theirs, str) and theirs != __version__:
        return CoopInitError(
            f"{name}: its {CONFIG} was written by coopinit_plugin {theirs[:40]}, which this version, {__version__}, "
            f"does not understand ({reason}). Install that one: pip install -U coopinit_plugin"
        )
    return CoopInitError(
        f"{name}: its {CONFIG} was not written by coopinit_plugin, or only half of it ({reason}). Give a folder or "
        "repository made by WarmStart.save_pretrained or push_to_hub."
    )
