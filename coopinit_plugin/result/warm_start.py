"""What a warm-up gives: weights and how they came about, kept as safetensors and JSON, shared on the Hub."""

import json
import logging
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import nn

from coopinit_plugin._version import __version__
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import Tensors, give_back
from coopinit_plugin.method.kept import kept
from coopinit_plugin.nests import first_line
from coopinit_plugin.result.plots import draw
from coopinit_plugin.result.provenance import Samples
from coopinit_plugin.result.step_report import StepReport

logger = logging.getLogger(__name__)

CONFIG, PICTURE, CARD = "config.json", "warm_start.png", "README.md"
TENSORS = ("generator.safetensors", "discriminator.safetensors", "samples.safetensors")
TAGS = ["gan", "coopinit", "cooperative-learning", "energy-based-model", "safetensors", "model_hub_mixin"]
ROWS = {  # of the table, each if all that it tells is known
    "iterations": "{iterations}, stopped by {stopped_by}",
    "cost": "{seconds:.3g} s, about that of {cost_in_steps:.3g} adversarial iterations",
    "distance": "{distance_first:.3g} → {distance_kept:.3g} σ from the data",
    "among data": "{among_data:.3g} of the samples; {among_data_real:.3g} of real ones",
    "D's logits": "real {logit_real_mean:.3g}, generated {logit_fake_mean:.3g}",
}


@dataclass(eq=False, repr=False)
class WarmStart(ModelHubMixin, library_name="coopinit-plugin"):
    """Initialised weights of a generator and a discriminator; ``print`` it for a table of what came out.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: ``iterations``; ``seconds``, ``cost_in_steps`` (in adversarial iterations); ``stopped_by`` ("goal",
            "plateau", "worse", "max_iterations", "max_seconds", "callback", "iterations"); ``distance_first``,
            ``distance_last`` and ``distance_kept`` in σ, ``among_data`` and ``among_data_real`` (shares, or ``None``);
            ``energies`` (D and copies that joined in); ``layers_slowed`` (of G); ``handover``, ``handover_moved``,
            ``handover_scale``, ``handover_shift``; ``logit_real_mean``, ``logit_real_std`` and those of ``fake``.
        origin: The networks, the data and the machine they come from, in words.
        samples: A few samples for pictures: real ones, G's before and G's after the warm-up.
    """

    generator_state: Tensors
    discriminator_state: Tensors
    config: WarmStartConfig
    history: list[StepReport]
    summary: dict[str, bool | int | float | str | None]
    origin: dict[str, str]
    samples: Samples = field(default_factory=dict)

    def __repr__(self) -> str:
        rows = dict(self.origin)
        for name, text in ROWS.items():
            with suppress(KeyError, TypeError, ValueError):
                rows[name] = text.format_map(self.summary)
        usual = asdict(WarmStartConfig())
        changed = [f"{name}={value!r}" for name, value in asdict(self.config).items() if value != usual[name]]
        rows["settings"] = ", ".join(changed) or "the defaults"
        lines = [f"{name:<13}  {value}"[:200] for name, value in rows.items()]  # of a stranger's repository, maybe
        return "\n".join("".join(letter if letter.isprintable() else "?" for letter in line) for line in lines)

    def load_into(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Write the weights into both networks, in place: all of them, or none. Wrappers are seen through.

        Raises:
            CoopInitError: if names or shapes differ; nothing has been changed then.
        """
        give_back([("G", generator, self.generator_state), ("D", discriminator, self.discriminator_state)])

    def plot(self, path: str | Path) -> Path:
        """Draw real samples, G's before and after the warm-up, and the curves, into one PNG; returns its path.

        Raises:
            CoopInitError: if matplotlib is not installed, the file cannot be written or the samples are none of ours.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path, self.samples, self.history)
        except Exception as error:  # of whatever kind: samples and curves may come from anyone
            needs = (
                "matplotlib (pip install matplotlib), a path that may be written to, samples that this library saved"
            )
            raise CoopInitError(f"{path} cannot be drawn ({first_line(error)}). It takes {needs}.") from error
        return path

    def save_pretrained(self, save_directory: str | Path, *, push_to_hub: bool = False, **given: Any) -> str | None:
        """Save all in a folder, made if needed; an older save stays whole until then, and its card always.

        `given` is what ModelHubMixin takes: ``repo_id``, ``model_card_kwargs``, and what :meth:`push_to_hub` does if it
        is to be pushed, which gives the commit. ``OSError`` if the folder cannot be written; nothing is lost.
        """
        folder, new = Path(save_directory), Path(save_directory, ".new")
        clear = partial(shutil.rmtree, new, ignore_errors=True)
        clear()  # of what a killed process left
        with kept(clear):
            super().save_pretrained(new, **given)
            (folder / CONFIG).unlink(missing_ok=True)  # without it, files of two saves are not taken for one
            for file in sorted(new.iterdir(), key=lambda file: file.name == CONFIG):  # it comes last
                if file.name != CARD or not (folder / CARD).exists():
                    file.replace(folder / file.name)
        return self.push_to_hub(**{"repo_id": folder.name, **given}) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        """All files but the card, which the mixin adds."""
        states = (self.generator_state, self.discriminator_state, self.samples)
        for name, state in zip(TENSORS, states, strict=True):
            _write_tensors(save_directory / name, state)
        try:
            self.plot(save_directory / PICTURE)
        except CoopInitError as error:
            logger.warning("Saved without a picture. %s", error)
        told = {name: getattr(self, name) for name in ("config", "history", "summary", "origin")}
        text = json.dumps({"coopinit_plugin": __version__, **told}, default=asdict, indent=1)
        (save_directory / CONFIG).write_text(text + "\n", encoding="utf-8")

    def push_to_hub(self, repo_id: str, *, real_samples: bool = False, **kwargs: Any) -> str:
        """Push the files of :meth:`save_pretrained` to the Hub in one commit, and return it.

        Args:
            repo_id: ``"user/name"``; the repository is made if it does not exist.
            real_samples: Publish the samples of your data, too, and show them on the card. They are left out
                otherwise: data are not always yours to publish.
            **kwargs: Those of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``, ``branch``,
                ``create_pr``, ``commit_message``, ``model_card_kwargs``, ...

        Raises:
            CoopInitError: if `repo_id` is no name, or the Hub cannot be reached.
            HfHubHTTPError: and huggingface_hub's other errors, as they are; this object is still whole then.
        """
        if not isinstance(repo_id, str):
            raise CoopInitError(f'repo_id is {repo_id!r}; expected "user/name", the name of a repository on the Hub.')
        samples = {name: x for name, x in self.samples.items() if real_samples or name != "real"}
        try:
            api = HfApi(token=kwargs.get("token"))  # tells the whole name, which the card is to load from
            repo_id = api.create_repo(repo_id, private=kwargs.get("private"), exist_ok=True).repo_id
            kwargs["model_card_kwargs"] = {"repo_id": repo_id, **(kwargs.get("model_card_kwargs") or {})}
            return super(WarmStart, replace(self, samples=samples)).push_to_hub(repo_id, **kwargs)
        except Exception as error:
            if {"TransportError", "ConnectionError"}.isdisjoint(kind.__name__ for kind in type(error).__mro__):
                raise
            raise CoopInitError(
                f"The Hub could not be reached ({first_line(error)}): nothing was pushed to {repo_id}, and this object "
                "is still whole. Check the connection, the proxy and the variables HF_HUB_OFFLINE and HF_ENDPOINT, and "
                'push again; save_pretrained("init/") keeps it until then.'
            ) from error

    def generate_model_card(self, *, repo_id: str = "user/name", **metadata: Any) -> ModelCard:
        """The model card, loading from `repo_id`; metadata such as ``license="mit"`` go into its head."""
        task = "unconditional-image-generation" if any(x.ndim == 4 for x in self.samples.values()) else None
        return ModelCard.from_template(
            ModelCardData(**{"library_name": "coopinit-plugin", "pipeline_tag": task, "tags": TAGS, **metadata}),
            template_str=resources.files("coopinit_plugin.result").joinpath("card.md").read_text(encoding="utf-8"),
            repo_id=repo_id,
            result=self,
            picture=PICTURE if find_spec("matplotlib") else None,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> "WarmStart":
        """Read a warm start from a folder or a Hub repository. Only safetensors and JSON are read.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` wrote, or a repo id.
            **download: huggingface_hub's own, for a repository: ``revision``, ``token``, ``cache_dir``,
                ``local_files_only``, ``force_download``.

        Raises:
            CoopInitError: if there is no such folder, or files are missing, damaged, or not ours.
            HfHubHTTPError: and huggingface_hub's other errors, as they are.
        """
        # The mixin's own would trust config.json before `_from_pretrained` sees it.
        name = str(pretrained_model_name_or_path)
        is_id = isinstance(pretrained_model_name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        if os.path.isdir(name):
            find: Any = partial(_in_folder, name)
        elif is_id and not os.path.isdir(os.path.dirname(name)):  # runs/gone is none if there is a folder runs
            find = partial(hf_hub_download, name, **download)
        else:
            told = f"{name} is neither a folder here nor the name of a repository, such as user/dcgan-init"
            raise CoopInitError(f"{told}. Check the path from {Path.cwd()}; save_pretrained(...) writes such a folder.")
        story = _read_story(Path(find(CONFIG)))
        generator, discriminator, samples = (_read_tensors(Path(find(part))) for part in TENSORS)
        return cls(generator, discriminator, samples=samples, **story)


def _in_folder(folder: str, part: str) -> Path:
    """The path of a part that has to be there."""
    path, going_on = Path(folder, part), f"warm_start(..., output_dir={folder!r}, resume=True), or --resume"
    if not path.is_file():
        raise CoopInitError(
            f"{folder} has no {part}: no warm start was saved there by save_pretrained, or only half of one. "
            + (f"If one was interrupted there, go on with it: {going_on}." if part == CONFIG else "Save it again.")
        )
    return path


def _write_tensors(path: Path, state: Tensors) -> None:
    """Write each tensor once; the other names of tied ones go into the file's metadata."""
    names = {id(state[key]): key for key in sorted(state, reverse=True)}  # one name of each tensor
    aliases = {key: names[id(tensor)] for key, tensor in state.items() if names[id(tensor)] != key}
    once = {key: tensor for key, tensor in state.items() if key not in aliases}
    path.write_bytes(safetensors.torch.save(once, metadata={"format": "pt", **aliases}))


def _read_tensors(path: Path) -> Tensors:
    """The tensors, tied ones under all their names."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            aliases = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise CoopInitError(f"{path} is no whole safetensors file: {error}. Save or download it again.") from error
    return {**state, **{key: state[kept] for key, kept in aliases.items() if kept in state and key != "format"}}


def _read_story(path: Path) -> dict[str, Any]:
    """Settings, history, summary and origin of a warm start."""
    try:
        told = json.loads(path.read_bytes())
        return {
            "config": WarmStartConfig(**told["config"]),
            "history": [StepReport(**row) for row in told["history"]],
            "summary": dict(told["summary"]),
            "origin": dict(told["origin"]),
        }
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, CoopInitError) as error:
        what = f"{path} was not written by coopinit_plugin, or not by version {__version__} ({error!r:.400})"
        raise CoopInitError(f"{what}. The newest version reads more: pip install -U coopinit_plugin") from error
