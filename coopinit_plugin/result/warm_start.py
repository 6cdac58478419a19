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
from coopinit_plugin.host.checkpoint import NAME as CHECKPOINT
from coopinit_plugin.host.networks import give_back
from coopinit_plugin.nests import first_line
from coopinit_plugin.result import files
from coopinit_plugin.result.card import model_card, said
from coopinit_plugin.result.plots import draw

logger = logging.getLogger(__name__)
_say_once = functools.cache(logger.warning)


class WarmStart(files.Contents, ModelHubMixin, library_name="coopinit-plugin"):
    """Initialised weights of a generator and a discriminator.

    Args:
        generator_state: G's weights under the keys of the plain module, CPU tensors.
        discriminator_state: D's.
        config: The settings they were made with.
        history: One row an iteration.
        summary: Iterations, seconds, the reason of the stop, statistics before and after.
        origin: The networks, the data and the machine they come from.
        samples: A few samples for pictures: real ones, G's before and G's after the warm-up.
    """

    def __repr__(self) -> str:
        iterations, seconds, why = (said(self.summary.get(key)) for key in ("iterations", "seconds", "stopped_by"))
        nets = f"{said(self.origin.generator)}, {said(self.origin.discriminator)}"
        return f"WarmStart({nets}, {iterations} iterations in {seconds} s, stopped by {why})"

    def load_into(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """Write the weights into both networks, in place: all of them, or none. Wrappers are seen through.

        Raises:
            CoopInitError: if names or shapes differ; nothing has been changed then.
        """
        give_back([("G", generator, self.generator_state), ("D", discriminator, self.discriminator_state)])

    def plot(self, path: str | Path) -> Path:
        """Draw real samples, G's before and after the warm-up, and the curves, into one PNG; returns its path.

        Raises:
            CoopInitError: if matplotlib is not installed or the file cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path, self)
        except OSError as error:
            raise CoopInitError(f"{path} cannot be written ({error.strerror or error}). Give another path.") from error
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

        A new folder appears whole. In an existing one each file is replaced whole, and :meth:`from_pretrained` refuses
        files that were not saved together. A README.md that you have edited stays. Returns the commit if pushed.

        Args:
            save_directory: The folder; it is made if it does not exist.
            repo_id: The name that the card loads from; the folder's, if left out.
            push_to_hub: Push to `repo_id` when the folder is complete.
            model_card_kwargs: The card's metadata, e.g. ``{"license": "mit", "datasets": ["mnist"]}``.
            **push_to_hub_kwargs: Those of :meth:`push_to_hub`.

        Raises:
            CoopInitError: if the folder cannot be written; this object stays as it is, to be saved elsewhere.
        """
        # The mixin's own deletes the folder's config.json before it writes, so that a failure would cost the old save.
        target = Path(save_directory).absolute()
        name = repo_id or target.name
        shown = {"repo_id": name, **(model_card_kwargs or {})}
        with files.appearing_whole(target) as folder:
            picture = folder / files.PICTURE
            try:
                self.plot(picture)
            except Exception as error:  # of whatever kind: a picture must not cost the weights
                picture.unlink(missing_ok=True)
                _say_once(f"Saved without a picture. {error}")
            files.write(folder, self, str(self.generate_model_card(picture=picture.exists(), **shown)))
        if not push_to_hub:
            return None
        return self.push_to_hub(name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)

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
        # The mixin's own knows neither what may be published nor that the card is to name the repository.
        if not isinstance(repo_id, str):
            raise CoopInitError(f'repo_id is {repo_id!r}; expected "user/name", the name of a repository on the Hub.')
        published = copy.copy(self)
        published.samples = {name: x for name, x in self.samples.items() if real_samples or name != "real"}
        try:
            if "/" not in repo_id:
                api, private = HfApi(token=kwargs.get("token")), kwargs.get("private")
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            kwargs["model_card_kwargs"] = {"repo_id": repo_id, **(kwargs.get("model_card_kwargs") or {})}
            return super(WarmStart, published).push_to_hub(repo_id, **kwargs)
        except Exception as error:
            if {"TransportError", "ConnectionError"}.isdisjoint(kind.__name__ for kind in type(error).__mro__):
                raise
            raise CoopInitError(
                f"The Hub could not be reached ({first_line(error)}): nothing was pushed to {repo_id}, and this object "
                "is still whole. Check the connection, the proxy and the variables HF_HUB_OFFLINE and HF_ENDPOINT, and "
                'push again; save_pretrained("init/") keeps it until then.'
            ) from error

    def generate_model_card(self, *, repo_id: str = "user/name", picture: bool = False, **metadata: Any) -> ModelCard:
        """The model card, loading from `repo_id`; metadata such as ``license="mit"`` go into its head."""
        return model_card(self, repo_id, picture, metadata)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> WarmStart:
        """Read a warm start from a folder or a Hub repository. Only safetensors and JSON are read.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` wrote, or a repo id.
            **download: huggingface_hub's own, for a repository: ``revision``, ``token``, ``cache_dir``,
                ``local_files_only``, ``force_download``.

        Raises:
            CoopInitError: if there is no such folder, or files are missing, damaged, not saved together, or not ours.
            HfHubHTTPError: and huggingface_hub's other errors, as they are.
        """
        # The mixin's own trusts config.json.
        name = str(pretrained_model_name_or_path)
        is_folder = os.path.isdir(name)
        is_id = isinstance(pretrained_model_name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
        if not is_folder and (not is_id or os.path.isdir(os.path.dirname(name))):  # runs/gone, and runs is a folder
            raise CoopInitError(
                f"{name} is neither a folder here nor the name of a repository, such as user/dcgan-init. Check the "
                f"path from {Path.cwd()}; result.save_pretrained(...) writes such a folder."
            )

        def file(part: str) -> Path:
            if not is_folder:
                asker: Any = {"library_name": "coopinit-plugin", "library_version": __version__, **download}
                return Path(hf_hub_download(name, part, **asker))
            if not os.path.isfile(os.path.join(name, part)):
                if os.path.isfile(os.path.join(name, CHECKPOINT)):
                    raise CoopInitError(
                        f"{name} holds an unfinished warm-up. Go on with it: warm_start(..., output_dir={name!r}, "
                        f"resume=True), or coopinit warm-start ... -o {name} --resume."
                    )
                raise CoopInitError(
                    f"{name} has no {part}: no warm start was saved there, or only half of one. Expected "
                    f"{', '.join(files.TENSORS[:2])} and {files.CONFIG}, as result.save_pretrained writes them."
                )
            return Path(name, part)

        return cls(**vars(files.read(name, file)))
