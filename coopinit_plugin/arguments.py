"""What the call of ``warm_start`` asks for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from coopinit_plugin.calling.adapter import Adapter, line
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError


def _expect(kind: Any, name: str, value: Any, example: str) -> None:
    """Refuse a value of another kind; ``None`` is left out."""
    if value is not None and not isinstance(value, kind):
        raise CoopInitError(f"{name} is a {type(value).__name__}; expected {example}.")


def checked_config(config: Any, handover: str | None) -> WarmStartConfig:
    """The settings, with the one word for the loss that follows put in."""
    example = "coopinit_plugin.WarmStartConfig(...), e.g. WarmStartConfig(iterations=200), or nothing, for the default"
    _expect(WarmStartConfig, "config", config, example)
    config = config if config is not None else WarmStartConfig()
    if handover is None:
        return config
    asked = replace(config, handover=handover)
    if config.handover not in ("auto", asked.handover):
        raise CoopInitError(
            f"handover={handover!r} was given, but config=WarmStartConfig(handover={config.handover!r}) says "
            "otherwise. Give one of the two."
        )
    return asked


def check_arguments(adapter: Any, output_dir: Any, resume: bool, callback: Any = None) -> None:
    """Refuse what is of the wrong kind before anything runs."""
    _expect(Adapter, "adapter", adapter, f"coopinit_plugin.Adapter(...), e.g. {line(score='D(x)[0]')}")
    example = "a function (step) -> None, or False to stop, e.g. lambda step: print(step.iteration)"
    _expect(Callable, "callback", callback, example)
    if resume and output_dir is None:
        raise CoopInitError('resume=True needs output_dir, the folder to go on from, e.g. output_dir="init/".')


def check_loader(loader: Any) -> None:
    """Refuse what gives single samples, or keys, in place of batches, with the DataLoader to make of it."""
    made = {
        "loader": isinstance(loader, Dataset) and not isinstance(loader, IterableDataset),
        'loader.with_format("torch")': hasattr(loader, "with_format") and hasattr(loader, "column_names"),
        "TensorDataset(loader)": isinstance(loader, Tensor),
        "TensorDataset(torch.from_numpy(loader))": hasattr(loader, "__array__") and not isinstance(loader, Tensor),
        "dataset": isinstance(loader, (str, bytes, Mapping)),
    }
    dataset = next((dataset for dataset, holds in made.items() if holds), None)
    if dataset is not None:
        raise CoopInitError(
            f"loader is a {type(loader).__name__}, which gives single samples or keys; expected batches. Write "
            f"DataLoader({dataset}, batch_size=64, shuffle=True, drop_last=True), from torch.utils.data."
        )
