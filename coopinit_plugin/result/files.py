"""How a warm start lies in a folder: safetensors and JSON, sealed, so that half a folder is not taken for a whole.

Whatever is read may come from anyone: only the files named here are looked for, and every value is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.provenance import Origin
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.thumbnails import Samples, fit_for_pictures

GENERATOR, DISCRIMINATOR, CONFIG = "generator.safetensors", "discriminator.safetensors", "config.json"
SAMPLES, PICTURE, CARD = "samples.safetensors", "warm_start.png", "README.md"


@dataclass(frozen=True)
class Contents:
    """All that a folder holds; see :class:`coopinit_plugin.WarmStart` for what each is."""

    generator_state: State
    discriminator_state: State
    config: WarmStartConfig
    history: list[StepReport]
    summary: dict[str, Any]
    origin: Origin | None
    samples: Samples


def write_weights(folder: Path, contents: Contents) -> None:
    """The safetensors files."""
    for name, state in ((GENERATOR, contents.generator_state), (DISCRIMINATOR, contents.discriminator_state)):
        kept, aliases = _without_ties(state)
        safetensors.torch.save_file(kept, folder / name, metadata={"format": "pt", **aliases})
    if contents.samples:
        safetensors.torch.save_file(contents.samples, folder / SAMPLES)


def write_seal(folder: Path, contents: Contents) -> None:
    """config.json, with the digests of the files that are there."""
    from coopinit_plugin._version import __version__

    told = {
        "coopinit_plugin": __version__,
        "config": asdict(contents.config),
        "summary": contents.summary,
        "origin": contents.origin and asdict(contents.origin),
        "sha256": {
            name: digest(folder / name) for name in (GENERATOR, DISCRIMINATOR, SAMPLES) if (folder / name).exists()
        },
        "card": digest(folder / CARD),
        "history": {
            column.name: [getattr(row, column.name) for row in contents.history] for column in fields(StepReport)
        },
    }
    (folder / CONFIG).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read(name: str, file: Callable[[str], Path]) -> Contents:
    """Read and check everything.

    Args:
        name: What the user asked for, for messages.
        file: Gives each file by its name, downloaded where it has to be.

    Raises:
        CoopInitError: where files are damaged, not saved together, or not ours.
    """
    path = file(CONFIG)
    told: Any = None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        seals = {key: told["sha256"][key] for key in (GENERATOR, DISCRIMINATOR)}
        if SAMPLES in told["sha256"]:
            seals[SAMPLES] = told["sha256"][SAMPLES]
        summary, history = dict(told["summary"]), dict(told["history"])
        _refuse_other([*summary.values()], (bool, int, float, str))
        _refuse_other([value for column in history.values() for value in column], (int, float))
        rows = [StepReport(**dict(zip(history, row, strict=True))) for row in zip(*history.values(), strict=True)]
        origin = told.get("origin")
        origin = None if origin is None else Origin.read(origin)
        config = WarmStartConfig(**told["config"])
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, CoopInitError) as error:
        raise _not_ours(name, told, error) from error
    states = []
    for key, seal in seals.items():
        part = file(key)
        if digest(part) != seal:
            raise CoopInitError(
                f"{name}: {key} is not the file that {CONFIG} was saved with; the folder is half written or a "
                "file was damaged or exchanged. Save again with result.save_pretrained(...), or download again "
                "with force_download=True."
            )
        states.append(_with_ties(part))
    samples = states[2] if len(states) > 2 and fit_for_pictures(states[2]) else {}
    return Contents(states[0], states[1], config, rows, summary, origin, samples)


def in_folder(folder: str, name: str) -> Path:
    """The file in a local folder.

    Raises:
        CoopInitError: where there is none.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise CoopInitError(
            f"{folder} has no {name}: no warm start was saved there, or only half of one. Expected {GENERATOR}, "
            f"{DISCRIMINATOR} and {CONFIG}, as result.save_pretrained({folder!r}) writes them."
        )
    return path


def digest(file: Path) -> str:
    """SHA-256, read in pieces."""
    found = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def has_own_card(folder: Path) -> bool:
    """Whether README.md is the user's: written or changed by hand since it was saved."""
    if not (folder / CARD).exists():
        return False
    try:
        return bool(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["card"] != digest(folder / CARD))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True


def _without_ties(state: State) -> tuple[State, dict[str, str]]:
    """One name for each tensor, and ``{other name: kept name}``, as safetensors' own save_model writes it."""
    kept: State = {}
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for key in sorted(state):
        first = names.setdefault(id(state[key]), key)
        if first == key:
            kept[key] = state[key]
        else:
            aliases[key] = first
    return kept, aliases


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
    from coopinit_plugin._version import __version__

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
