"""What a warm-up gives: weights, as safetensors, with the story of how they came about."""

from __future__ import annotations

import copy
import functools
import logging
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, hf_hub_download
from torch import nn

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import State, give_back
from coopinit_plugin.result import files
from coopinit_plugin.result.card import model_card
from coopinit_plugin.result.files import CONFIG as CONFIG
from coopinit_plugin.result.plots import draw
from coopinit_plugin.result.provenance import Origin
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.thumbnails import Samples, without_real

logger = logging.getLogger(__name__)


class WarmStart(ModelHubMixin, library_name="coopinit-plugin"):
    """Initialised weights of a generator and a discriminator.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: Iterations, seconds, the reason of the stop, statistics before and after.
        origin: The networks, the data and the machine they come from, where known.
        samples: A few samples for pictures: real ones, G's before and G's after the warm-up.
    """

    def __init__(
        self,
        generator_state: State,
        discriminator_state: State,
        config: WarmStartConfig,
        history: list[StepReport],
        summary: dict[str, Any],
        origin: Origin | None = None,
        samples: Samples | None = None,
    ) -> None:
        self.generator_state = generator_state
        self.discriminator_state = discriminator_state
        self.config = config
        self.history = history
        self.summary = summary
        self.origin = origin
        self.samples = samples or {}

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

    def plot(self, path: str | Path) -> Path:
        """Draw real samples, G's before and after the warm-up, and the curves, into one PNG.

        Args:
            path: The file to write.

        Returns:
            The path.

        Raises:
            CoopInitError: where matplotlib is not installed or the file cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path, self.samples, self.history, self.summary, self.origin)
        except OSError as error:
            raise CoopInitError(f"{path} cannot be written ({error.strerror or error}). Give another path.") from error
        return path

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write the weights, config.json, a few samples, a picture, and README.md, the model card.

        The folder is never half written unnoticed: a new one appears whole, in an existing one each file is replaced
        whole, and :meth:`from_pretrained` refuses files that were not saved together. A README.md that you have
        edited stays.

        Args:
            save_directory: The folder; made where it does not exist.
            config: Not used: config.json holds this object's own.
            repo_id: The name that the card loads from; the folder's, where left out.
            push_to_hub: Push to `repo_id` when the folder is complete.
            model_card_kwargs: The card's metadata, e.g. ``{"license": "mit", "datasets": ["mnist"]}``.
            **push_to_hub_kwargs: Those of :meth:`push_to_hub`.

        Returns:
            The commit on the Hub, where pushed.

        Raises:
            CoopInitError: where the folder cannot be written; this object stays as it is, to be saved elsewhere.
        """
        target = Path(save_directory)
        metadata = dict(model_card_kwargs or {})
        name = metadata.pop("repo_id", repo_id) or target.absolute().name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        except OSError as error:
            raise _unwritable(target, error) from error
        try:
            self._write(staging, name, metadata)
            mask = _umask()
            staging.chmod(0o777 & ~mask)
            for file in staging.iterdir():
                file.chmod(0o666 & ~mask)
            if not target.exists():
                os.replace(staging, target)
            else:
                if files.has_own_card(target):
                    (staging / files.CARD).unlink()
                for file in sorted(staging.iterdir(), key=lambda file: file.name == CONFIG):  # config.json is the seal
                    os.replace(file, target / file.name)
        except OSError as error:
            raise _unwritable(target, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or target.name, model_card_kwargs=metadata, **push_to_hub_kwargs)

    def push_to_hub(self, repo_id: str, *, real_samples: bool = False, **kwargs: Any) -> str:
        """Push the files of :meth:`save_pretrained` to the Hub in one commit.

        Args:
            repo_id: ``"user/name"``; the repository is made where it does not exist.
            real_samples: Publish the samples of your data, too, and show them on the card. They are left out
                otherwise: data are not always yours to publish.
            **kwargs: Those of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``, ``branch``,
                ``create_pr``, ``commit_message``, ``model_card_kwargs``, ...

        Returns:
            The commit, as huggingface_hub gives it.

        Raises:
            HfHubHTTPError: and huggingface_hub's other errors, as they are; this object is still whole then.
        """
        if "/" not in repo_id:  # the card is to say whose it is
            token, private = kwargs.get("token"), kwargs.get("private")
            repo_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
        told = copy.copy(self)
        if not real_samples:
            told.samples = without_real(self.samples)
        kwargs["model_card_kwargs"] = {"repo_id": repo_id, **(kwargs.get("model_card_kwargs") or {})}
        return super(WarmStart, told).push_to_hub(repo_id, **kwargs)

    def generate_model_card(self, *, repo_id: str = "user/name", picture: bool = False, **metadata: Any) -> ModelCard:
        """The model card.

        Args:
            repo_id: The name it loads from.
            picture: Whether the picture lies beside it.
            **metadata: Of the card, e.g. ``license="mit"``.
        """
        return model_card(
            repo_id,
            {"Generator": self.generator_state, "Discriminator": self.discriminator_state},
            self.config,
            self.summary,
            self.origin,
            picture=files.PICTURE if picture else None,
            real_samples="real" in self.samples,
            metadata=metadata,
        )

    def _write(self, folder: Path, repo_id: str, metadata: dict[str, Any]) -> None:
        contents = files.Contents(**{field.name: getattr(self, field.name) for field in fields(files.Contents)})
        files.write_weights(folder, contents)
        picture = folder / files.PICTURE
        try:
            self.plot(picture)
        except Exception as error:  # of whatever kind: a picture must not cost the weights
            picture.unlink(missing_ok=True)
            logger.debug("The picture failed.", exc_info=True)
            _say_once(f"Saved without a picture. {error}")
        card = self.generate_model_card(repo_id=repo_id, picture=picture.exists(), **metadata)
        card.save(folder / files.CARD)
        files.write_seal(folder, contents)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> WarmStart:
        """Read a warm start from a folder or a Hub repository. Only safetensors and JSON are read.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` wrote, or a repo id.
            force_download: Download again what is in the cache.
            token: For private repositories; the stored one, where left out.
            cache_dir: Instead of the usual cache.
            local_files_only: Take what is in the cache, without a connection.
            revision: A branch, a tag or a commit.

        Raises:
            CoopInitError: where files are missing, damaged, not saved together, or not ours.
            HfHubHTTPError: and huggingface_hub's other errors, as they are.
        """
        from coopinit_plugin._version import __version__

        name = str(pretrained_model_name_or_path)
        download = functools.partial(
            hf_hub_download,
            name,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
            library_name="coopinit-plugin",
            library_version=__version__,
        )
        local = os.path.isdir(name)
        return cls(
            **vars(files.read(name, lambda part: files.in_folder(name, part) if local else Path(download(part))))
        )


def _unwritable(target: Path, error: OSError) -> CoopInitError:
    return CoopInitError(
        f"{target} cannot be written ({error.strerror or error}). The weights are still in this WarmStart: call "
        "save_pretrained with a folder that you may write to."
    )


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
