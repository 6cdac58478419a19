"""Warm starts in a table: what a card tells, side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.host.networks import State
from coopinit_plugin.result.card import architecture
from coopinit_plugin.result.warm_start import WarmStart

DIFFERENT = "≠"


def table(names: list[str], found: list[WarmStart]) -> str:
    """One column for each; a row in which they differ is marked.

    Args:
        names: What to call them.
        found: One or two warm starts.
    """
    columns = [dict(_rows(result)) for result in found]
    usual = {key: _said(value) for key, value in asdict(WarmStartConfig()).items()}
    keys = dict.fromkeys(key for column in columns for key in column)  # settings at their default are left out
    rows = [(key, *(column.get(key, "–") for column in columns)) for key in keys]
    rows = [("", *names)] + [row for row in rows if set(row[1:]) != {usual.get(row[0])}]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        mark = DIFFERENT + " " if index and len(set(row[1:])) > 1 else "  "
        lines.append((mark + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip())
    if len(found) == 2:
        lines += ["", f"  {DIFFERENT} marks what differs. " + _weights(*found)]
    return "\n".join(lines)


def _rows(result: WarmStart) -> list[tuple[str, str]]:
    summary, origin = result.summary, result.origin
    rows: list[tuple[str, Any]] = []
    for role, state in (("Generator", result.generator_state), ("Discriminator", result.discriminator_state)):
        net = architecture(role, state, origin)
        rows.append((role, f"{net.name}, {net.parameters:,} parameters, {net.fingerprint}"))
    sizes = [" × ".join(map(str, shape)) for shape in origin.data] if origin else []
    rows += [
        ("data", f"{', '.join(sizes)} in [{origin.low:.3g}, {origin.high:.3g}]" if origin else None),
        ("first batch", origin and origin.first_batch[:16]),
        ("warm-up", f"{summary.get('iterations')} iterations, stopped by {summary.get('stopped_by')}"),
        ("seconds", summary.get("seconds")),
        ("distance to data", _change(summary.get("distance_first"), summary.get("distance_last"))),
        ("logit of real", summary.get("logit_real_mean")),
        ("logit of G's", summary.get("logit_fake_mean")),
        *(origin.versions.items() if origin else ()),
        *asdict(result.config).items(),
    ]
    return [(key, _said(value)) for key, value in rows]


def _said(value: Any) -> str:
    """On one line; what came from a stranger's repository cannot steer the terminal."""
    text = f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:100]


def _change(first: Any, last: Any) -> str | None:
    return f"{first:.3g} → {last:.3g} σ" if isinstance(first, float) and isinstance(last, float) else None


def _weights(one: WarmStart, other: WarmStart) -> str:
    """How far apart the weights are."""
    distances = [
        _apart(one.generator_state, other.generator_state),
        _apart(one.discriminator_state, other.discriminator_state),
    ]
    if None in distances:
        return "The architectures differ, so neither fits the other's networks."
    if distances == [0, 0]:
        return "The weights are the same, bit for bit."
    return f"The weights differ: G by {distances[0]:.1%} of their norm, D by {distances[1]:.1%}."


def _apart(one: State, other: State) -> float | None:
    """‖a − b‖ / ‖a‖ over all tensors, ``None`` where names or shapes differ."""
    if {key: value.shape for key, value in one.items()} != {key: value.shape for key, value in other.items()}:
        return None
    if all(torch.equal(value, other[key]) for key, value in one.items()):
        return 0.0
    pairs = [(value.double(), other[key].double()) for key, value in one.items()]
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    return (difference / max(sum(float(a.square().sum()) for a, _ in pairs), 1e-300)) ** 0.5
