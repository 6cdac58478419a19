"""What a warm-up gives: weights, as safetensors, with the story of how they came about."""

from __future__ import annotations

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
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import nn

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import State, give_back
from coopinit_plugin.nests import first_line
from coopinit_plugin.result import files
from coopinit_plugin.result.plots import draw
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.thumbnails import Samples

logger = logging.getLogger(__name__)

LIBRARY = "coopinit-plugin"
TAGS = ["gan", "coopinit", "cooperative-learning", "energy-based-model", "safetensors", "model_hub_mixin"]
ROWS = {  # of the table, each if all that it tells is known
    "iterations": "{iterations}, stopped by {stopped_by}",
    "cost": "{seconds} s, about that of {cost_in_steps} adversarial iterations",
    "distance": "{distance_first} → {distance_kept} σ from the data",
    "among data": "{among_data} of the samples; {among_data_real} of real ones",
    "D's logits": "real {logit_real_mean}, generated {logit_fake_mean}",
}


@dataclass(eq=False, repr=False)
class WarmStart(ModelHubMixin, library_name=LIBRARY):
    """Initialised weights of a generator and a discriminator; ``print`` it for a table of what came out.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: Iterations, seconds, the reason of the stop, statistics before and after.
        origin: The networks, the data and the machine they come from, in words.
        samples: A few samples for pictures: real ones, G's before and G's after the warm-up.
    """

    generator_state: State
    discriminator_state: State
    config: WarmStartConfig
    history: list[StepReport]
    summary: dict[str, bool | int | float | str | None]
    origin: dict[str, str]
    samples: Samples = field(default_factory=dict)

    def __repr__(self) -> str:
        known = {key: said(value) for key, value in self.summary.items() if value is not None}
        rows = dict(self.origin)
        for name, text in ROWS.items():
            with suppress(KeyError):
                rows[name] = text.format_map(known)
        usual = asdict(WarmStartConfig())
        changed = [f"{name}={value!r}" for name, value in asdict(self.config).items() if value != usual[name]]
        rows["settings"] = ", ".join(changed) or "the defaults"
        return "\n".join(f"{said(name):<13}  {said(value)}" for name, value in rows.items())

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
            raise CoopInitError(
                f"{path} cannot be drawn ({first_line(error)}). It takes matplotlib (pip install matplotlib), a path "
                "that may be written to, and samples and curves that this library saved."
            ) from error
        return path

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the weights, config.json, a few samples, a picture, and README.md, the model card.

        All is written before the first file of an older save is replaced, config.json last, without which
        :meth:`from_pretrained` refuses the folder. A README.md that is there stays: delete it to get a new one. Returns
        the commit if pushed.

        Args:
            save_directory: The folder; it is made if it does not exist.
            repo_id: The name that the card loads from; the folder's, if left out.
            push_to_hub: Push to `repo_id` when the folder is complete.
            model_card_kwargs: The card's metadata, e.g. ``{"license": "mit", "datasets": ["mnist"]}``.
            **push_to_hub_kwargs: Those of :meth:`push_to_hub`.

        Raises:
            CoopInitError: if the folder cannot be written; this object stays as it is, to be saved elsewhere.
        """
        target = Path(save_directory).absolute()
        name = repo_id or target.name
        try:
            target.mkdir(parents=True, exist_ok=True)
            for broken_off in target.glob(".coopinit-*"):  # by a kill
                shutil.rmtree(broken_off, ignore_errors=True)
            with TemporaryDirectory(prefix=".coopinit-", dir=target) as whole:
                super().save_pretrained(whole, model_card_kwargs={"repo_id": name, **(model_card_kwargs or {})})
                (target / files.CONFIG).unlink(missing_ok=True)
                for file in sorted(Path(whole).iterdir(), key=lambda file: file.name == files.CONFIG):
                    if file.name != "README.md" or not (target / file.name).exists():
                        file.replace(target / file.name)
        except OSError as error:
            raise CoopInitError(
                f"{save_directory} cannot be written ({error.strerror or error}). The weights are still here: call "
                "save_pretrained with another folder."
            ) from error
        if not push_to_hub:
            return None
        return self.push_to_hub(name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        """All files but the card, which the mixin adds."""
        states = (self.generator_state, self.discriminator_state, self.samples)
        for name, state in zip(files.TENSORS, states, strict=True):
            files.write_tensors(save_directory / name, state)
        try:
            self.plot(save_directory / files.PICTURE)
        except CoopInitError as error:
            logger.warning("Saved without a picture. %s", error)
        story = {name: getattr(self, name) for name in ("config", "history", "summary", "origin")}
        files.write_story(save_directory / files.CONFIG, story)

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
            ModelCardData(**{"library_name": LIBRARY, "pipeline_tag": task, "tags": TAGS, **metadata}),
            template_str=resources.files("coopinit_plugin.result").joinpath("card.md").read_text(encoding="utf-8"),
            repo_id=repo_id,
            result=self,
            picture=files.PICTURE if find_spec("matplotlib") else None,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> WarmStart:
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
            find: Any = partial(files.in_folder, name)
        elif is_id and not os.path.isdir(os.path.dirname(name)):  # runs/gone is none if there is a folder runs
            find = partial(hf_hub_download, name, **download)
        else:
            raise CoopInitError(
                f"{name} is neither a folder here nor the name of a repository, such as user/dcgan-init. Check the "
                f"path from {Path.cwd()}; result.save_pretrained(...) writes such a folder."
            )
        story = files.read_story(Path(find(files.CONFIG)))
        generator, discriminator, samples = (files.read_tensors(Path(find(part))) for part in files.TENSORS)
        return cls(generator, discriminator, samples=samples, **story)


def said(value: Any) -> str:
    """A value on one line; what came from a stranger's repository cannot steer the terminal."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
