"""The model card: what a warm start is, how to load it, how it was made, and what it must not be used for."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.provenance import Origin

LINES = 60  # tensors that a card lists; the files hold the rest
MEASURES = {  # of the summary: (key, kind of metric, what it is called)
    "distance_first": ("sliced-wasserstein", "Sliced Wasserstein distance to the data, first reading (σ)"),
    "distance_last": ("sliced-wasserstein", "Sliced Wasserstein distance to the data, last reading (σ)"),
    "displacement_last": ("langevin-displacement", "Displacement by the last Langevin chain (σ)"),
}


@dataclass(frozen=True)
class Architecture:
    """One network, as its weights show it.

    Attributes:
        role: Generator or Discriminator.
        name: The class, where known.
        parameters: Numbers in its parameters, where known; else in all its tensors.
        fingerprint: Begins the SHA-256 of all names, shapes and kinds of numbers: equal for equal architectures.
        lines: ``name  shape`` of each tensor.
    """

    role: str
    name: str
    parameters: int
    fingerprint: str
    lines: list[str]


def architecture(role: str, state: State, origin: Origin | None) -> Architecture:
    """Read off the weights."""
    rows = [
        (key, list(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in sorted(state.items(), key=lambda item: _natural(item[0]))
    ]
    fingerprint = hashlib.sha256("\n".join(f"{key} {shape} {kind}" for key, shape, kind in rows).encode())
    numbers = sum(value.numel() for value in {id(value): value for value in state.values()}.values())
    width = max((len(key) for key, _, _ in rows), default=0)
    return Architecture(
        role,
        getattr(origin, role.lower(), "a network"),
        getattr(origin, f"{role.lower()}_parameters", numbers),
        fingerprint.hexdigest()[:16],
        [f"{key:<{width}}  {' × '.join(map(str, shape)) or 'one number'}" for key, shape, _ in rows],
    )


def _natural(key: str) -> list[Any]:
    """Orders 2.weight before 10.weight, whichever file or module the names came from."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]


def model_card(
    repo_id: str,
    states: dict[str, State],
    config: WarmStartConfig,
    summary: dict[str, Any],
    origin: Origin | None,
    *,
    picture: str | None,
    real_samples: bool,
    metadata: dict[str, Any],
) -> ModelCard:
    """Fill the template.

    Args:
        repo_id: The name that the lines on the card load from.
        states: Weights by role.
        config: The settings.
        summary: What came out.
        origin: Networks, data and machine, where known.
        picture: File name of the picture, where there is one.
        real_samples: Whether it shows the user's data.
        metadata: Of the user's; goes over our own.
    """
    images = origin is not None and any(len(shape) == 3 for shape in origin.data)
    task = "unconditional-image-generation" if images else "other"
    title = repo_id.split("/")[-1]
    measured = [
        EvalResult(
            task_type=task,
            dataset_type="own-data",
            dataset_name="the data it was warmed up on",
            metric_type=kind,
            metric_name=name,
            metric_value=float(f"{summary[key]:.4g}"),
        )
        for key, (kind, name) in MEASURES.items()
        if isinstance(summary.get(key), float)
    ]
    ours = {
        "library_name": "coopinit-plugin",
        "pipeline_tag": task if images else None,
        "tags": ["gan", "coopinit", "cooperative-learning", "energy-based-model", "safetensors", "model_hub_mixin"],
        "model_name": title,
        "eval_results": measured or None,
    }
    defaults = asdict(WarmStartConfig())
    return ModelCard.from_template(
        ModelCardData(**{**ours, **metadata}),
        template_str=resources.files("coopinit_plugin.result").joinpath("card.md").read_text(encoding="utf-8"),
        title=title,
        repo_id=repo_id,
        networks=[architecture(role, state, origin) for role, state in states.items()],
        most_lines=LINES,
        settings=[(name, repr(value), value != defaults[name]) for name, value in asdict(config).items()],
        summary=summary,
        origin=origin,
        seen=origin and origin.batch * int(summary.get("iterations") or 0),
        picture=picture,
        real_samples=real_samples,
    )
