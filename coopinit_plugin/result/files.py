"""A warm start in a folder: safetensors and JSON, sealed by digests. Whatever is read may come from anyone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
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
TENSORS = (GENERATOR, DISCRIMINATOR, SAMPLES)
STORY = ("config", "history", "summary", "origin")  # what config.json holds of a warm start


@dataclass(eq=False, repr=False)
class Contents:
    """All that a folder holds; :class:`coopinit_plugin.WarmStart` says what each is."""

    generator_state: State
    discriminator_state: State
    config: WarmStartConfig
    history: list[StepReport]
    summary: dict[str, bool | int | float | str | None]
    origin: Origin
    samples: Samples = field(default_factory=dict)


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A folder to write into that takes the target's place, or whose files replace its, config.json, the seal, last."""
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
        why = f"{target} cannot be written ({error.strerror or error})."
        raise CoopInitError(f"{why} The weights are still here: call save_pretrained with another folder.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write(folder: Path, contents: Contents, card: str) -> None:
    """Write the model card, the safetensors files and their seal."""
    (folder / CARD).write_bytes(card.encode())
    for name, state in ((GENERATOR, contents.generator_state), (DISCRIMINATOR, contents.discriminator_state)):
        names = {id(state[key]): key for key in sorted(state, reverse=True)}  # one name of each tensor
        aliases = {key: names[id(tensor)] for key, tensor in state.items() if names[id(tensor)] != key}
        once = {key: tensor for key, tensor in state.items() if key not in aliases}
        safetensors.torch.save_file(once, folder / name, metadata={"format": "pt", **aliases})
    if contents.samples:
        safetensors.torch.save_file(contents.samples, folder / SAMPLES)
    told = {"coopinit_plugin": __version__, **{name: getattr(contents, name) for name in STORY}}
    told["sha256"] = {key: _digest(folder / key) for key in TENSORS if (folder / key).exists()}
    told["card"] = _digest(folder / CARD)
    (folder / CONFIG).write_text(json.dumps(told, default=asdict, indent=1) + "\n", encoding="utf-8")


def read(name: str, file: Callable[[str], Path]) -> Contents:
    """Read and check everything that `file` finds by its name."""
    path = file(CONFIG)
    try:
        told = json.loads(path.read_bytes())
        story = {key: _typed(kind, told[key]) for key, kind in get_type_hints(Contents).items() if key in STORY}
        sealed = _typed(dict[str, str], told["sha256"])
        digests = {key: sealed[key] for key in TENSORS if key != SAMPLES or key in sealed}
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, CoopInitError) as error:
        raise CoopInitError(
            f"{name}: its {CONFIG} was not written by coopinit_plugin, or not by version {__version__} "
            f"({type(error).__name__}: {error!s:.400}). Give a folder or repository that "
            "WarmStart.save_pretrained wrote, or get the newest version: pip install -U coopinit_plugin"
        ) from error
    generator, discriminator, *rest = [_tensors(name, file(key), digest) for key, digest in digests.items()]
    return Contents(generator, discriminator, samples=next(filter(fit_for_pictures, rest), {}), **story)


def _tensors(name: str, path: Path, digest: str) -> State:
    """The tensors of a file that the seal knows, tied ones under all their names."""
    if _digest(path) != digest:
        raise CoopInitError(
            f"{name}: {path.name} is not the file that {CONFIG} was saved with; the folder is half written or a file "
            "was damaged. Save again with result.save_pretrained(...), or download again with force_download=True."
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            aliases = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CoopInitError(f"{path} is no whole safetensors file: {error}. Save or download it again.") from error
    return {**state, **{key: state[kept] for key, kept in aliases.items() if kept in state and key != "format"}}


def _typed(kind: Any, value: Any) -> Any:
    """What ``json.loads`` gave as a value of an annotated type, e.g. a dataclass; a TypeError if it is none."""
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, UnionType):
        for one in inner:
            with suppress(TypeError):
                return _typed(one, value)
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: _typed(hints.get(name, Any), part) for name, part in value.items()})  # type: ignore[operator]
    elif outer is dict and isinstance(value, dict):
        return {name: _typed(inner[1], part) for name, part in value.items()}
    elif outer is list and isinstance(value, list):
        return [_typed(inner[0], part) for part in value]
    elif outer is tuple and isinstance(value, list):
        return tuple(_typed(one, part) for one, part in zip(inner, value, strict=True))
    elif kind is float and type(value) is int:
        return float(value)
    elif kind is Any or type(value) is kind or (outer is Literal and value in inner):
        return value
    raise TypeError(f"{value!r:.80} is no {getattr(kind, '__name__', kind)}")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _has_own_card(folder: Path) -> bool:
    """Whether README.md is the user's: written or changed by hand since it was saved."""
    try:
        return bool(json.loads((folder / CONFIG).read_bytes())["card"] != _digest(folder / CARD))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (folder / CARD).exists()
