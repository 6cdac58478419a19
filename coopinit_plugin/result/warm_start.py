"""What a warm-up gives: weights, as safetensors, with the story of how they came about."""

from __future__ import annotations

import copy
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, hf_hub_download
from torch import nn

from coopinit_plugin._version import __version__
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.networks import give_back
from coopinit_plugin.result import files
from coopinit_plugin.result.card import model_card
from coopinit_plugin.result.files import CONFIG as CONFIG
from coopinit_plugin.result.plots import draw
from coopinit_plugin.result.thumbnails import without_real

logger = logging.getLogger(__name__)


class WarmStart(files.Contents, ModelHubMixin, library_name="coopinit-plugin"):
    """Initialised weights of a generator and a discriminator.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: Iterations, seconds, the reason of the stop, statistics before and after.
        origin: The networks, the data and the machine they come from, if known.
        samples: A few samples for pictures: real ones, G's before and G's after the warm-up.
    """

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
            CoopInitError: if names or shapes differ; nothing has been changed then.
        """
        give_back([("G", generator, self.generator_state), ("D", discriminator, self.discriminator_state)])

    def plot(self, path: str | Path) -> Path:
        """Draw real samples, G's before and after the warm-up, and the curves, into one PNG.

        Args:
            path: The file to write.

        Returns:
            The path.

        Raises:
            CoopInitError: if matplotlib is not installed or the file cannot be written.
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

        A new folder appears whole. In an existing one each file is replaced whole, and :meth:`from_pretrained` refuses
        files that were not saved together. A README.md that you have edited stays.

        Args:
            save_directory: The folder; it is made if it does not exist.
            config: Not used: config.json holds this object's own.
            repo_id: The name that the card loads from; the folder's, if left out.
            push_to_hub: Push to `repo_id` when the folder is complete.
            model_card_kwargs: The card's metadata, e.g. ``{"license": "mit", "datasets": ["mnist"]}``.
            **push_to_hub_kwargs: Those of :meth:`push_to_hub`.

        Returns:
            The commit on the Hub, if pushed.

        Raises:
            CoopInitError: if the folder cannot be written; this object stays as it is, to be saved elsewhere.
        """
        # The mixin's own deletes the folder's config.json before it writes, so that a failure would cost the old save.
        target, card = Path(save_directory), dict(model_card_kwargs or {})
        with files.appearing_whole(target) as folder:
            self._save_pretrained(folder, **{"repo_id": repo_id or target.absolute().name, **card})
        if not push_to_hub:
            return None
        card.pop("repo_id", None)
        return self.push_to_hub(repo_id or target.name, model_card_kwargs=card, **push_to_hub_kwargs)

    def _save_pretrained(self, save_directory: Path, **card: Any) -> None:
        """The mixin's hook: all files of a warm start, the seal last."""
        files.write_tensors(save_directory, self)
        picture = save_directory / files.PICTURE
        try:
            self.plot(picture)
        except Exception as error:  # of whatever kind: a picture must not cost the weights
            picture.unlink(missing_ok=True)
            logger.debug("The picture failed.", exc_info=True)
            _say_once(f"Saved without a picture. {error}")
        self.generate_model_card(picture=picture.exists(), **card).save(save_directory / files.CARD)
        files.write_seal(save_directory, self)

    def push_to_hub(self, repo_id: str, *, real_samples: bool = False, **kwargs: Any) -> str:
        """Push the files of :meth:`save_pretrained` to the Hub in one commit.

        Args:
            repo_id: ``"user/name"``; the repository is made if it does not exist.
            real_samples: Publish the samples of your data, too, and show them on the card. They are left out
                otherwise: data are not always yours to publish.
            **kwargs: Those of huggingface_hub's ``ModelHubMixin.push_to_hub``: ``private``, ``token``, ``branch``,
                ``create_pr``, ``commit_message``, ``model_card_kwargs``, ...

        Returns:
            The commit, as huggingface_hub gives it.

        Raises:
            HfHubHTTPError: and huggingface_hub's other errors, as they are; this object is still whole then.
        """
        # The mixin's own knows neither what may be published nor that the card is to name the repository.
        if "/" not in repo_id:
            token, private = kwargs.get("token"), kwargs.get("private")
            repo_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
        published = copy.copy(self)
        if not real_samples:
            published.samples = without_real(self.samples)
        kwargs["model_card_kwargs"] = {"repo_id": repo_id, **(kwargs.get("model_card_kwargs") or {})}
        return super(WarmStart, published).push_to_hub(repo_id, **kwargs)

    def generate_model_card(self, *, repo_id: str = "user/name", picture: bool = False, **metadata: Any) -> ModelCard:
        """The model card.

        Args:
            repo_id: The name it loads from.
            picture: Whether the picture lies beside it.
            **metadata: Of the card, e.g. ``license="mit"``.
        """
        return model_card(self, repo_id, files.PICTURE if picture else None, metadata)

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
            token: For private repositories; the stored one, if left out.
            cache_dir: Instead of the usual cache.
            local_files_only: Take what is in the cache, without a connection.
            revision: A branch, a tag or a commit.

        Raises:
            CoopInitError: if there is no such folder, or files are missing, damaged, not saved together, or not ours.
            HfHubHTTPError: and huggingface_hub's other errors, as they are.
        """
        # The mixin's own reads config.json before the hook does, and trusts what is in it.
        name = pretrained_model_name_or_path
        is_id = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        if not is_id and not os.path.isdir(name):
            raise CoopInitError(
                f"{name} is neither a folder here nor the name of a repository, such as user/dcgan-init. Check the "
                f"path from {Path.cwd()}; result.save_pretrained(...) writes such a folder."
            )
        return cls._from_pretrained(
            model_id=str(name),
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **download: Any) -> WarmStart:
        """The mixin's hook: each file is looked for by its name, in the folder or on the Hub, and checked."""

        def file(name: str) -> Path:
            if os.path.isdir(model_id):
                return files.in_folder(model_id, name)
            download.update(library_name="coopinit-plugin", library_version=__version__)
            return Path(hf_hub_download(model_id, name, **download))

        return cls(**vars(files.read(model_id, file)))


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)
