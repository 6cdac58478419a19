"""A pilot's page: one HTML file that loads nothing, its curves and samples inside it."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from coopinit_plugin._version import __version__
from coopinit_plugin.trial.drawing import COLOURS, CURVES
from coopinit_plugin.trial.run import Run

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 190, 34, 22, 8  # of a curve's picture
SHOWN = 36  # images, or series and vectors, in a panel
POINTS = 400  # in the plane


def page(report: Any) -> str:
    """Fill the template report.html with a PilotReport."""
    import jinja2  # comes with torch

    source = resources.files("coopinit_plugin.trial").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    markup = environment.from_string("{{ text | safe }}").environment.filters["safe"]
    curves = [(title, markup(curve(report, name, real))) for name, (title, real) in CURVES.items()]
    return environment.from_string(source).render(
        report=report,
        verdict=report.decision,
        version=__version__,
        curves=curves,
        panels=[(title, markup(picture)) for title, picture in panels(report)],
        measures=list(CURVES),
        css={arm: arm.replace(" ", "-") for arm in COLOURS},
        measuring=sum(run.measuring for run in report.runs) / max(sum(run.seconds for run in report.runs), 1e-9),
        said=said,
    )


def said(value: Any) -> str:
    """A value of a table, as it is shown."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{round(value, 3):.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def curve(report: Any, name: str, ideal: float) -> str:
    """One measure of every run over the budget, as SVG whose colours the page's style sets."""
    real = getattr(report.real, name)
    values = [getattr(r, name) for run in report.runs for r in run.readings] + [ideal, real]
    top = _round_up(max((v for v in values if math.isfinite(v)), default=1.0))

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 6) * min(x, 1.0)
        return f"{across:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(y, 0.0), top) / top):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name} over the budget">']
    for part in (0.0, 0.5, 1.0):
        (x, y), (right, _) = place(0, part * top).split(","), place(1, 0).split(",")
        parts.append(f'<line class="grid" x1="{x}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{float(y) + 3.5:.1f}" text-anchor="end">{part * top:.3g}</text>')
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[part]
        parts.append(
            f'<text x="{place(part, 0).split(",")[0]}" y="{HEIGHT - 6}" text-anchor="{anchor}">{part:.0%}</text>'
        )
    level = place(0, real).split(",")[1]
    parts.append(f'<line class="real" x1="{LEFT}" x2="{WIDTH - 6}" y1="{level}" y2="{level}"/>')
    for run in report.runs:
        points = [(r.cost, getattr(r, name)) for r in run.readings]
        line = " ".join(place(x, y) for x, y in points if math.isfinite(y))
        if line:
            parts.append(
                f'<polyline class="{run.arm.replace(" ", "-")}" points="{line}"><title>{_title(run)}</title></polyline>'
            )
    return "".join([*parts, "</svg>"])


def _title(run: Run) -> str:
    return f"{run.arm}, seed {run.seed}: {run.status}"


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.5, 2, 3, 5, 8 times a power of ten."""
    scale = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next((step * scale for step in (1, 1.2, 1.5, 2, 3, 5, 8, 10) if step * scale >= value), value)


def panels(report: Any) -> list[tuple[str, str]]:
    """(Title, picture) of the real data and of each start's run whose end is the median one."""
    if report.samples is None:
        return []
    low, high = float(report.samples.min()), float(report.samples.max())
    found = [("Real data", picture(report.samples, report.samples, "real", low, high))]
    for arm in report.arms:
        runs = sorted((run for run in report.of(arm) if run.samples is not None), key=lambda run: run.end("distance"))
        if runs:
            run = runs[len(runs) // 2]
            title = f"{arm[0].upper()}{arm[1:]}, seed {run.seed}: {run.status}"
            found.append((title, picture(run.samples, report.samples, arm.replace(" ", "-"), low, high)))
    return found


def picture(x: Tensor | None, real: Tensor, css: str, low: float, high: float) -> str:
    """Samples as one image, as lines, or as points, in the way that shows their kind."""
    assert x is not None
    x, span = x.float(), max(high - low, 1e-12)
    if x.ndim == 4:
        rows = math.isqrt(min(len(x), SHOWN))
        tiles = ((x[: rows * rows] - low) / span).clamp(0, 1).expand(-1, 3, -1, -1)
        tiles = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=0.5)
        grid = tiles.reshape(rows, rows, *tiles.shape[1:]).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        data = base64.b64encode(png(grid)).decode()
        return f'<img alt="{len(tiles)} samples" src="data:image/png;base64,{data}">'
    if x.ndim == 2 and x.shape[1] == 2:
        centre, half = real.float().mean(0), 1.3 * float((real.float() - real.float().mean(0)).abs().max()) + 1e-12
        dots = ((x[:POINTS] - centre) / half * 50 + 50).clamp(0, 100).tolist()
        inside = "".join(f'<circle cx="{a:.1f}" cy="{100 - b:.1f}" r="1"/>' for a, b in dots)
        return f'<svg class="{css} dots" viewBox="0 0 100 100" role="img" aria-label="samples">{inside}</svg>'
    lines = x[:SHOWN, :, 0] if x.ndim == 3 else x[:SHOWN]
    if lines.shape[1] == 1:
        lines = x[:, 0].sort().values[None]
    across = [100 * i / max(lines.shape[1] - 1, 1) for i in range(lines.shape[1])]
    drawn = ((1 - (lines - low) / span) * 100).clamp(-10, 110).tolist()
    inside = "".join(
        f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, row, strict=True))}"/>'
        for row in drawn
    )
    return f'<svg class="{css} lines" viewBox="0 -10 100 120" role="img" aria-label="samples">{inside}</svg>'


def png(grid: Tensor) -> bytes:
    """An image (H, W, 3) in [0, 1] as a PNG file."""
    height, width, _ = grid.shape
    rows = torch.cat([torch.zeros(height, 1), (grid * 255).round().flatten(1)], dim=1).to(torch.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(rows.flatten().tolist()), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
