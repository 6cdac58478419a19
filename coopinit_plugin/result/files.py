"""The files of a warm start: safetensors and JSON, nothing else. Whatever is read may come from anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from coopinit_plugin._version import __version__
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.step_report import StepReport

CONFIG, PICTURE = "config.json", "warm_start.png"
TENSORS = ("generator.safetensors", "discriminator.safetensors", "samples.safetensors")


def in_folder(folder: str, part: str) -> Path:
    """The path of a part that has to be there."""
    path = Path(folder, part)
    if not path.is_file():
        raise CoopInitError(
            f"{folder} has no {part}: no warm start was saved there, or only half of one. Expected {TENSORS[0]}, "
            f"{TENSORS[1]} and {CONFIG}, as result.save_pretrained writes them. If a warm-up was interrupted there, go "
            f"on with it: warm_start(..., output_dir={folder!r}, resume=True), or coopinit warm-start ... --resume."
        )
    return path


def write_tensors(path: Path, state: State) -> None:
    """Write each tensor once; the other names of tied ones go into the file's metadata."""
    names = {id(state[key]): key for key in sorted(state, reverse=True)}  # one name of each tensor
    aliases = {key: names[id(tensor)] for key, tensor in state.items() if names[id(tensor)] != key}
    once = {key: tensor for key, tensor in state.items() if key not in aliases}
    path.write_bytes(safetensors.torch.save(once, metadata={"format": "pt", **aliases}))


def read_tensors(path: Path) -> State:
    """The tensors, tied ones under all their names."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            aliases = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CoopInitError(f"{path} is no whole safetensors file: {error}. Save or download it again.") from error
    return {**state, **{key: state[kept] for key, kept in aliases.items() if kept in state and key != "format"}}


def write_story(path: Path, story: Mapping[str, Any]) -> None:
    """Write what :func:`read_story` reads."""
    told = {"coopinit_plugin": __version__, **story}
    path.write_text(json.dumps(told, default=asdict, indent=1) + "\n", encoding="utf-8")


def read_story(path: Path) -> dict[str, Any]:
    """Settings, history, summary and origin of a warm start: plain values of the expected kinds."""
    try:
        told = json.loads(path.read_bytes())
        return {
            "config": WarmStartConfig(**told["config"]),
            "history": [StepReport(**_plain(row, int, float)) for row in told["history"]],
            "summary": _plain(told["summary"], int, float, str),
            "origin": _plain(told["origin"], str),
        }
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, CoopInitError) as error:
        raise CoopInitError(
            f"{path} was not written by coopinit_plugin, or not by version {__version__} ({error!r:.400}). Give what "
            "WarmStart.save_pretrained wrote, or get the newest version: pip install -U coopinit_plugin"
        ) from error


def _plain(told: Any, *kinds: type) -> dict[str, Any]:
    """The JSON object, if its values are of these kinds or null."""
    if not isinstance(told, dict):
        raise TypeError(f"{told!r:.80} is no object")
    for name, value in told.items():
        if not isinstance(value, (*kinds, type(None))):
            raise TypeError(f"{name!r:.80} is {value!r:.80}")
    return told
