"""What a warm-up gives: weights, as safetensors, with the story of how they came about."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from huggingface_hub import ModelHubMixin
from torch import nn

from coopinit_plugin.borrowed import State, give_back
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.report import StepReport

GENERATOR, DISCRIMINATOR, CONFIG = "generator.safetensors", "discriminator.safetensors", "config.json"


class WarmStart(ModelHubMixin, library_name="coopinit-plugin", tags=["gan", "coopinit", "energy-based-model"]):
    """Initialised weights of a generator and a discriminator.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: Iterations, seconds, the reason of the stop, statistics before and after.
    """

    def __init__(
        self,
        generator_state: State,
        discriminator_state: State,
        config: WarmStartConfig,
        history: list[StepReport],
        summary: dict[str, Any],
    ) -> None:
        self.generator_state = generator_state
        self.discriminator_state = discriminator_state
        self.config = config
        self.history = history
        self.summary = summary

    def __repr__(self) -> str:
        counts = [sum(t.numel() for t in s.values()) for s in (self.generator_state, self.discriminator_state)]
        return (
            f"WarmStart(G {counts[0]:,} numbers, D {counts[1]:,} numbers, {self.summary.get('iterations')} iterations "
            f"in {self.summary.get('seconds', 0.0):.1f} s, stopped by {self.summary.get('stopped_by')})"
        )

    def load_into(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Write the weights into both networks, in place: all of them, or none.

        Args:
            generator: G, of the same architecture; wrappers are seen through.
            discriminator: D.

        Raises:
            CoopInitError: where names or shapes differ; nothing has been changed then.
        """
        give_back([("G", generator, self.generator_state), ("D", discriminator, self.discriminator_state)])

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write generator.safetensors, discriminator.safetensors, config.json and README.md.

        The folder is never half written unnoticed: a new one appears whole, in an existing one each file is replaced
        whole, and :meth:`from_pretrained` refuses files that were not saved together.

        Args:
            save_directory: The folder; made where it does not exist.
            **kwargs: Those of huggingface_hub, such as ``push_to_hub=True, repo_id=...``.

        Raises:
            CoopInitError: where the folder cannot be written; this object stays as it is, to be saved elsewhere.
        """
        target = Path(save_directory)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        except OSError as error:
            raise _unwritable(target, error) from error
        try:
            pushed = super().save_pretrained(staging, **{"repo_id": target.name, **kwargs})
            staging.chmod(0o777 & ~_umask())
            if not target.exists():
                os.replace(staging, target)
            else:
                for file in sorted(staging.iterdir(), key=lambda file: file.name == CONFIG):  # config.json is the seal
                    os.replace(file, target / file.name)
        except OSError as error:
            raise _unwritable(target, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return pushed

    def _save_pretrained(self, save_directory: Path) -> None:
        seals = {}
        for name, state in ((GENERATOR, self.generator_state), (DISCRIMINATOR, self.discriminator_state)):
            kept, aliases = _without_ties(state)
            safetensors.torch.save_file(kept, save_directory / name, metadata={"format": "pt", **aliases})
            seals[name] = hashlib.sha256((save_directory / name).read_bytes()).hexdigest()
        from coopinit_plugin import __version__

        told = {
            "coopinit_plugin": __version__,
            "config": dataclasses.asdict(self.config),
            "summary": self.summary,
            "sha256": seals,
            "history": {
                column.name: [getattr(row, column.name) for row in self.history]
                for column in dataclasses.fields(StepReport)
            },
        }
        (save_directory / CONFIG).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> WarmStart:
        """Read a warm start from a folder or a Hub repository.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` wrote, or a repo id.
            **kwargs: Those of huggingface_hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``,
                ``force_download``.

        Raises:
            CoopInitError: where files are missing, damaged, not saved together, or not ours.
        """
        try:
            found: WarmStart = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:  # the last: JSON, but no object
            raise _not_ours(pretrained_model_name_or_path, error) from error
        return found

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **download: Any) -> WarmStart:
        files = {name: _local(model_id, name, download) for name in (CONFIG, GENERATOR, DISCRIMINATOR)}
        try:
            told = json.loads(files[CONFIG].read_text(encoding="utf-8"))
            seals = {name: told["sha256"][name] for name in (GENERATOR, DISCRIMINATOR)}
            summary, history = told["summary"], told["history"]
            config = WarmStartConfig(**told["config"])
            rows = [StepReport(**dict(zip(history, row, strict=True))) for row in zip(*history.values(), strict=True)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _not_ours(model_id, error) from error
        states = []
        for name, seal in seals.items():
            if hashlib.sha256(files[name].read_bytes()).hexdigest() != seal:
                raise CoopInitError(
                    f"{model_id}: {name} is not the file that {CONFIG} was saved with; the folder is half written or a "
                    "file was damaged or exchanged. Save again with result.save_pretrained(...), or download again "
                    "with force_download=True."
                )
            states.append(_with_ties(files[name]))
        return cls(states[0], states[1], config, rows, summary)


def _local(model_id: str, name: str, download: dict[str, Any]) -> Path:
    """The file in the folder, or in the Hub's cache."""
    if os.path.isdir(model_id):
        path = Path(model_id) / name
        if not path.is_file():
            raise CoopInitError(
                f"{model_id} has no {name}: no warm start was saved there, or only half of one. Expected {GENERATOR}, "
                f"{DISCRIMINATOR} and {CONFIG}, as result.save_pretrained({model_id!r}) writes them."
            )
        return path
    from huggingface_hub import hf_hub_download

    known = ("revision", "cache_dir", "force_download", "token", "local_files_only")
    return Path(hf_hub_download(model_id, name, **{key: download[key] for key in known if key in download}))


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


def _not_ours(name: str | Path, error: Exception) -> CoopInitError:
    return CoopInitError(
        f"{name}: its {CONFIG} was not written by coopinit_plugin, or only half of it "
        f"({type(error).__name__}: {error}). Give a folder or repository made by "
        "WarmStart.save_pretrained or push_to_hub."
    )


def _unwritable(target: Path, error: OSError) -> CoopInitError:
    return CoopInitError(
        f"{target} cannot be written ({error.strerror or error}). The weights are still in this WarmStart: call "
        "save_pretrained with a folder that you may write to."
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
