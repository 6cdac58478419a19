"""What a warm start tells of itself: on the model card, and in a small table for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.result.files import PICTURE, Contents
from coopinit_plugin.result.words import ENDS


def model_card(result: Contents, repo_id: str, picture: bool, metadata: dict[str, Any]) -> ModelCard:
    """Fill the template card.md; the user's metadata go over our own."""
    origin, images = result.origin, any(len(shape) == 3 for shape in result.origin.data)
    task = "unconditional-image-generation" if images else None
    tags = ["gan", "coopinit", "cooperative-learning", "energy-based-model", "safetensors", "model_hub_mixin"]
    ours = {"library_name": "coopinit-plugin", "pipeline_tag": task, "tags": tags}
    return ModelCard.from_template(
        ModelCardData(**{**ours, **metadata}),
        template_str=resources.files("coopinit_plugin.result").joinpath("card.md").read_text(encoding="utf-8"),
        title=repo_id.split("/")[-1],
        task=task or "other",
        repo_id=repo_id,
        picture=picture and PICTURE,
        networks={
            "Generator": (origin.generator, origin.generator_parameters, result.generator_state),
            "Discriminator": (origin.discriminator, origin.discriminator_parameters, result.discriminator_state),
        },
        settings=asdict(result.config),
        changed=changed(result.config),
        said=said,
        why=ENDS.get(str(result.summary.get("stopped_by")), "unknown"),
        **vars(result),
    )


def table(result: Contents) -> str:
    """What came out, a line for each thing that is known; settings only if they differ from the default."""
    origin, known = result.origin, {key: said(value) for key, value in result.summary.items() if value is not None}
    shapes = ", ".join(" × ".join(map(str, shape)) for shape in origin.data)
    rows = {
        "generator": f"{origin.generator}, {origin.generator_parameters:,} parameters",
        "discriminator": f"{origin.discriminator}, {origin.discriminator_parameters:,} parameters",
        "data": f"{shapes} in [{said(origin.low)}, {said(origin.high)}], {origin.batch} a batch",
        "iterations": f"{known.get('iterations')}, stopped by {known.get('stopped_by')}",
        "cost": f"{known.get('seconds')} s, about that of {known.get('cost_in_steps')} adversarial iterations",
    }
    if "distance_last" in known:
        rows["distance"] = f"{known.get('distance_first')} → {known['distance_last']} σ from the data"
    if "among_data" in known:
        rows["among data"] = f"{known['among_data']} of the samples; {known.get('among_data_real')} of real ones"
    if "logit_real_mean" in known:
        rows["D's logits"] = f"real {known['logit_real_mean']}, generated {known.get('logit_fake_mean')}"
    rows["versions"] = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    rows["settings"] = ", ".join(f"{k}={v!r}" for k, v in changed(result.config).items()) or "the defaults"
    return "\n".join(f"{key:<13}  {said(value)}" for key, value in rows.items())


def changed(config: WarmStartConfig) -> dict[str, Any]:
    """The settings that differ from the default."""
    usual = asdict(WarmStartConfig())
    return {name: value for name, value in asdict(config).items() if value != usual[name]}


def said(value: Any) -> str:
    """A value on one line; what came from a stranger's repository cannot steer the terminal."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
