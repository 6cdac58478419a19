"""What a warm start tells of itself: on the model card, and in a small table for the terminal."""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib import resources
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.files import Contents
from coopinit_plugin.result.provenance import Origin

LINES = 60  # tensors that a card lists; the files hold the rest
MEASURES = {  # of the summary: (key, kind of metric, what it is called)
    "distance_first": ("sliced-wasserstein", "Sliced Wasserstein distance to the data, first reading (σ)"),
    "distance_last": ("sliced-wasserstein", "Sliced Wasserstein distance to the data, last reading (σ)"),
    "displacement_last": ("langevin-displacement", "Displacement by the last Langevin chain (σ)"),
}


class Architecture(NamedTuple):
    """One network, as its weights show it."""

    role: str
    name: str  # of the class, if known
    parameters: int  # if not known, the numbers in all its tensors
    lines: list[str]  # name and shape of each tensor


def model_card(result: Contents, repo_id: str, picture: str | None, metadata: dict[str, Any]) -> ModelCard:
    """Fill the template; the picture is a file's name, the user's metadata go over our own."""
    summary, origin = result.summary, result.origin
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
    changed = _changed(result.config)
    return ModelCard.from_template(
        ModelCardData(**{**ours, **metadata}),
        template_str=resources.files("coopinit_plugin.result").joinpath("card.md").read_text(encoding="utf-8"),
        title=title,
        repo_id=repo_id,
        networks=_architectures(result),
        most_lines=LINES,
        settings=[(name, repr(value), name in changed) for name, value in asdict(result.config).items()],
        summary=summary,
        origin=origin,
        seen=origin and origin.batch * int(summary.get("iterations") or 0),
        picture=picture,
        real_samples="real" in result.samples,
    )


def table(result: Contents) -> str:
    """What came out, a line for each thing that is known; settings only if they differ from the default."""
    summary, origin = result.summary, result.origin
    rows: list[tuple[str, Any]] = [
        (net.role.lower(), f"{net.name}, {net.parameters:,} parameters") for net in _architectures(result)
    ]
    if origin:
        shapes = ", ".join(" × ".join(map(str, shape)) for shape in origin.data)
        rows.append(("data", f"{shapes} in [{origin.low:.3g}, {origin.high:.3g}], {origin.batch} a batch"))
    rows.append(("iterations", f"{summary.get('iterations')}, stopped by {summary.get('stopped_by')}"))
    rows.append(("seconds", summary.get("seconds")))
    rows.append(("distance", _pair(summary, "distance_first", "distance_last", "{:.3g} → {:.3g} σ from the data")))
    rows.append(("D's logits", _pair(summary, "logit_real_mean", "logit_fake_mean", "real {:.3g}, generated {:.3g}")))
    if origin:
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in origin.versions.items())))
    rows.append(("settings", ", ".join(f"{k}={v!r}" for k, v in _changed(result.config).items()) or "the defaults"))
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:<{width}}  {_said(value)}" for key, value in rows if value is not None)


def _architectures(result: Contents) -> list[Architecture]:
    """Both networks, read off the weights."""
    states = {"Generator": result.generator_state, "Discriminator": result.discriminator_state}
    return [_architecture(role, state, result.origin) for role, state in states.items()]


def _architecture(role: str, state: State, origin: Origin | None) -> Architecture:
    def natural(key: str) -> list[Any]:
        """Orders 2.weight before 10.weight."""
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]

    numbers = sum(value.numel() for value in {id(value): value for value in state.values()}.values())
    width = max(map(len, state), default=0)
    shapes = {key: " × ".join(map(str, state[key].shape)) or "one number" for key in sorted(state, key=natural)}
    return Architecture(
        role,
        getattr(origin, role.lower(), "a network"),
        getattr(origin, f"{role.lower()}_parameters", numbers),
        [f"{key:<{width}}  {shape}" for key, shape in shapes.items()],
    )


def _changed(config: WarmStartConfig) -> dict[str, Any]:
    """The settings that differ from the default."""
    usual = asdict(WarmStartConfig())
    return {name: value for name, value in asdict(config).items() if value != usual[name]}


def _pair(summary: dict[str, Any], one: str, other: str, text: str) -> str | None:
    values = summary.get(one), summary.get(other)
    return text.format(*values) if all(isinstance(value, float) for value in values) else None


def _said(value: Any) -> str:
    """On one line; what came from a stranger's repository cannot steer the terminal."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
