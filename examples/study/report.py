"""RESULTS.md and its pictures, made from the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from examples.study import figures
from examples.study.arms import FIXED_NUMBERS
from examples.study.plans import Setting, plans
from examples.study.summaries import Median, Row, collapses, grouped, kept_from, late, median, number, paired
from examples.study.table import Table
from examples.study.tasks import TASKS

ARM_NAMES = {
    "random": "random start",
    "ours": "**ours**",
    "fixed": "fixed step (classic)",
    "handover-only": "hand-over only",
    "vae": "VAE decoder",
    "sliced": "sliced distance",
    "r1-1": "random + R1, γ 1",
    "r1-10": "random + R1, γ 10",
    "r3gan": "random, R3GAN loss",
    "only-g": "only G's warm weights",
    "only-d": "only D's warm weights",
    "no-handover": "no hand-over",
    "no-limit": "logits up to ±20",
    "no-sizes": "D's layers left grown",
    "no-pace": "D at 1e-3 throughout",
    "no-averaging": "G's last weights",
    "no-balance-0.1": "fixed step 0.1",
    "no-balance-1": "fixed step 1, noise 0.06",
    "no-l2": "no energy L2",
    "l2=0.01": "energy L2 0.01",
}
OBJECTIVE_NAMES = {
    "non_saturating": "non-saturating",
    "non_saturating_r1": "non-saturating + R1",
    "hinge": "hinge",
    "least_squares": "least squares",
    "wgan_gp": "WGAN-GP",
    "relativistic": "relativistic",
    "r3gan": "R3GAN loss",
    "sigmoid_bce": "sigmoid + BCE, told nothing",
}
NORM_NAMES = {"none": "", "batch": "BatchNorm", "spectral": "spectral norm"}
TASK_NAMES = {
    "digits": "",
    "patches": "",
    "series": "",
    "grid100": "grid in 2-D",
    "cloud100": "cloud in 8-D",
    "digits32": "digits",
    "patches32": "patches",
}

TASK_MODES = {"digits": 1000, "digits32": 1000, "series": 216, "grid100": 100, "cloud100": 100}
ENDS = (("modes", ".0f"), ("reverse_kl", ".2f"), ("quality", ".2f"), ("distance", ".2f"))
COSTS = (
    ("cost_to_half", ".0f"),
    ("cost_to_most", ".0f"),
    ("cost_to_keep", ".0f"),
    ("area", ".2f"),
    ("warm_score", ".0f"),
    ("warm_cost", ".0f"),
    ("iterations", ".0f"),
)
NEIGHBOURS = (
    ("distance", ".3f"),
    ("late", ".3f"),
    ("precision", ".2f"),
    ("recall", ".2f"),
    ("density", ".2f"),
    ("coverage", ".2f"),
    ("warm_cost", ".0f"),
    ("iterations", ".0f"),
)
INTERVALS = ("modes", "distance", "late", "cost_to_keep", "coverage")
COLUMN_NAMES = {
    "iterations": "GAN iterations",
    "reverse_kl": "reverse KL",
    "quality": "high quality",
    "distance": "distance, σ",
    "late": "over the last third",
    "cost_to_half": "cost to 50 %",
    "cost_to_most": "cost to 90 %",
    "cost_to_keep": "kept from",
    "warm_score": "modes after start",
    "warm_cost": "cost of start",
}


def write(folder: Path, file: Path) -> None:
    """Make the report of every part that has rows.

    Args:
        folder: Of the tables; the pictures go there, too.
        file: The report.
    """
    sections = [
        "# Results",
        "Made by `python -m examples.study report` from the tables in `results/`; what was done is told in "
        "[README.md](README.md). Medians over seeds, in brackets their 95 % bootstrap intervals (of three seeds: their "
        "whole range). A run has collapsed when it ends under 5 % of the modes. Costs are CPU time in adversarial "
        "iterations of the setting, the start's included; every run ends at 1200, unless it says otherwise. *Cost to "
        "90 %* is when a run first covers so many modes, *kept from* when it does for good.",
    ]
    parts = {
        "headline": _headline,
        "grid": _grid,
        "ablation": _ablation,
        "sensitivity": _sensitivity,
        "stop": _stop,
        "patches": _patches,
        "series": _series,
        "multimodal": _multimodal,
        "large": _large,
    }
    for part, section in parts.items():
        if rows := known_rows(part, folder):
            versions = ", ".join(f"`{version}`" for version in dict.fromkeys(row["library"] for row in rows))
            parts_of_it = section(rows, folder)
            planned = {plan.key for plan in plans(part)}
            done = sum((row["setting"], row["arm"], row["seed"]) in planned for row in rows)
            sections += parts_of_it
            sections.append(f"*{done} of {len(planned)} runs; hash of the library's sources: {versions}.*")
            broken = [row for row in rows if row["status"] != "ok"]
            if broken:
                names = ", ".join(f"{row['setting']} {row['arm']} {row['seed']}" for row in broken[:20])
                sections.append(f"Ended early ({len(broken)} runs, counted as collapsed): {names}.")
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def known_rows(part: str, folder: Path) -> list[Row]:
    """A part's rows in the order of its plan, each run once."""
    order = {key: place for place, key in enumerate(dict.fromkeys(plan.key[:2] for plan in plans(part, [0])))}
    rows = {(row["setting"], row["arm"], row["seed"]): row for row in reversed(Table(folder / f"{part}.csv").rows())}
    return sorted(
        (row | derived(row) for row in rows.values() if (row["setting"], row["arm"]) in order),
        key=lambda row: (order[row["setting"], row["arm"]], int(row["seed"])),
    )


def derived(row: Row) -> Row:
    """What the curve of a run tells beside its own columns."""
    modes = TASK_MODES.get(row["setting"].split("/")[0])
    return {"late": late(row), "cost_to_keep": kept_from(row, 0.9 * modes) if modes else ""}


def setting_of(part: str, name: str) -> Setting:
    return next(plan.setting for plan in plans(part, [0]) if plan.setting.name == name)


def setting_name(setting: Setting) -> str:
    """In words, the usual left out."""
    words = (TASK_NAMES[setting.task], OBJECTIVE_NAMES[setting.objective], NORM_NAMES[setting.norm])
    return ", ".join(word for word in words if word)


def _headline(rows: list[Row], folder: Path) -> list[str]:
    settings = grouped(rows, lambda row: row["setting"])
    names = {name: setting_name(setting_of("headline", name)) for name in settings}
    figures.coverage(
        {names[name]: grouped(of_it, lambda row: row["arm"]) for name, of_it in settings.items()},
        ARM_NAMES,
        folder / "coverage.png",
    )
    arms = [arm for arm in grouped(rows, lambda row: row["arm"]) if not arm.startswith("r")]
    shown = ["random", *(arm for arm in arms if arm != "ours"), "ours"]
    overview = []
    for name, of_it in settings.items():
        by_arm = grouped(of_it, lambda row: row["arm"])
        overview.append([names[name], *(_modes_and_collapses(by_arm.get(arm, [])) for arm in shown)])
    text = [
        "## Headline settings",
        "Stacked digits, 1000 modes; modes at the end, runs lost. D has no normalisation unless named. A sample counts "
        "for the mode of the digits it is nearest to, however unlike them it is:",
        references("digits", ENDS),
        markdown(["setting", *(ARM_NAMES[arm] for arm in shown)], overview),
        "![Modes against cost, a panel a setting](results/coverage.png)",
    ]
    for name, of_it in settings.items():
        text += [f"### {names[name]}", details(of_it, ENDS + COSTS, "modes")]
    return text


def _grid(rows: list[Row], folder: Path) -> list[str]:
    by_arm = grouped(rows, lambda row: row["arm"])
    settings = grouped(rows, lambda row: row["setting"])
    figures.grid(
        {
            (setting_of("grid", name), arm): median(of_arm, "modes").value
            for name, of_it in settings.items()
            for arm, of_arm in grouped(of_it, lambda row: row["arm"]).items()
        },
        OBJECTIVE_NAMES,
        NORM_NAMES,
        folder / "grid.png",
    )
    ratios = []
    better = worse = 0
    for of_it in settings.values():
        arms = grouped(of_it, lambda row: row["arm"])
        if len(arms) < 2:
            continue
        random, ours = (median(arms[arm], "modes").value for arm in ("random", "ours"))
        better += ours > random
        worse += ours < random
        if random >= 500:
            ratios.append(ours / random)
    lines = [
        ["collapsed", *(collapses(by_arm.get(arm, [])) for arm in ("random", "ours"))],
        ["modes", *(f"{median(by_arm.get(arm, []), 'modes'):.0f}" for arm in ("random", "ours"))],
        ["area under the curve", *(f"{median(by_arm.get(arm, []), 'area'):.2f}" for arm in ("random", "ours"))],
    ]
    text = [
        "## Grid",
        "Five losses × three norms of D × two learning rates × two widths of D, random start against ours.",
        markdown(["over all runs", "random start", "ours"], lines),
        f"By the medians of the seeds ours ends with more modes in {better} settings, with fewer in {worse}.",
    ]
    if ratios:
        ratios.sort()
        text[-1] += (
            f" Where the random start succeeds (500 modes or more, {len(ratios)} settings), ours ends with "
            f"{ratios[len(ratios) // 2]:.2f}× its modes (smallest {ratios[0]:.2f}×)."
        )
    return [*text, "![Modes at the end over the grid, random start and ours](results/grid.png)"]


def _ablation(rows: list[Row], _: Path) -> list[str]:
    settings = list(grouped(rows, lambda row: row["setting"]))
    lines = []
    for arm, of_arm in grouped(rows, lambda row: row["arm"]).items():
        cells = []
        for name in settings:
            runs = [row for row in of_arm if row["setting"] == name]
            cells += [_modes_and_collapses(runs), f"{median(runs, 'warm_score'):.0f}"]
        lines.append([ARM_NAMES.get(arm, arm), *cells])
    names = [setting_name(setting_of("ablation", name)) for name in settings]
    header = ["start", *(column for name in names for column in (f"{name}: modes at the end", "after the start"))]
    text = (
        "Ours, one setting changed at a time; what hangs on it goes with it. Without a hand-over D's layers stay "
        "grown, too. A fixed step has neither a cap nor a K of its own, a given K no pace of D's, and D's rate is that "
        "before the pace. Only G's warm weights meet a D as it was initialised."
    )
    return ["## Ablation", text, markdown(header, lines)]


def _sensitivity(rows: list[Row], folder: Path) -> list[str]:
    settings = grouped(rows, lambda row: row["setting"])
    figures.sensitivity(
        {
            setting_name(setting_of("sensitivity", name)): grouped(of_it, lambda row: row["arm"])
            for name, of_it in settings.items()
        },
        folder / "sensitivity.png",
    )
    return [
        "## Iterations × Langevin steps",
        "Modes at the end of the same budget, and the adversarial iterations that the warm-up cost; where that is more "
        "than the budget of 1200 no adversarial stage follows.",
        "![Modes at the end over warm-up iterations and Langevin steps](results/sensitivity.png)",
    ]


def _stop(rows: list[Row], _: Path) -> list[str]:
    """The automatic stop against fixed numbers of iterations, at the same cost in all."""
    lines, shares, ratios, areas, delays = [], [], [], [], []
    for name, of_it in grouped(rows, lambda row: row["setting"]).items():
        arms = grouped(of_it, lambda row: row["arm"])
        fixed = {arm: median(of_arm, "modes").value for arm, of_arm in arms.items() if arm != "ours"}
        if "ours" not in arms or len(fixed) < len(FIXED_NUMBERS):
            continue
        best = max(fixed, key=lambda arm: fixed[arm])
        enough = [arm for arm in FIXED_NUMBERS if fixed[arm] >= 0.95 * fixed[best]]
        cheapest = min((median(arms[arm], "warm_cost").value, arm) for arm in enough)
        ours, cost, number_of = (median(arms["ours"], key).value for key in ("modes", "warm_cost", "warm_iterations"))
        shares.append(ours / fixed[best])
        ratios.append(cost / cheapest[0])
        soonest, most, area, largest = (
            choice(median(arms[arm], column).value for arm in of_these)
            for column, choice in (("cost_to_most", min), ("area", max))
            for of_these in (["ours"], FIXED_NUMBERS)
        )
        areas.append(area / largest)
        delays.append(soonest / most if math.isfinite(soonest) else math.inf)
        lines.append(
            [
                setting_name(setting_of("stop", name)),
                f"{fixed[best]:.0f} ({best.removeprefix('its=')})",
                f"{cheapest[1].removeprefix('its=')} ({cheapest[0]:.0f})",
                f"{ours:.0f} ({number_of:.0f})",
                f"{shares[-1]:.2f}",
                f"{ratios[-1]:.2f}",
                f"{soonest:.0f} ({most:.0f})".replace("inf", "never"),
                f"{area:.2f} ({largest:.2f})",
            ]
        )
    if not lines:
        return []
    kept, cheap, soon = (
        sum(share >= 0.95 for share in shares),
        sum(ratio <= 1.25 for ratio in ratios),
        sum(delay <= 1.25 for delay in delays),
    )
    header = ["setting", "best number: modes (iterations)", "cheapest that keeps 95 %: iterations (cost)"]
    header += ["automatic: modes (iterations)", "share of the best", "cost, of the cheapest"]
    header += ["cost to 90 %: automatic (best number)", "area: automatic (best number)"]
    return [
        "## The automatic stop",
        "Modes at the end of the same budget after fixed numbers of warm-up iterations (50 to 400), and with the "
        "automatic stop; the grid at learning rate 2e-4, D's full width.",
        markdown(header, lines),
        f"The automatic stop keeps 95 % of the best number's modes in {kept} of {len(lines)} settings, and costs at "
        f"most 1.25 times the cheapest number that does in {cheap}; medians {Median.of(shares).value:.2f} and "
        f"{Median.of(ratios).value:.2f}. To 90 % of the modes it costs at most 1.25 times what it does with the best "
        f"number in {soon} (median {Median.of(delays).value:.2f}, at most {max(delays):.2f}); its area under the curve "
        f"is {Median.of(areas).value:.2f} times that of the best number (median). The best of "
        "six is chosen after the fact, once for each measure, which favours it.",
    ]


def _patches(rows: list[Row], _: Path) -> list[str]:
    text = [
        "## Patches of photographs",
        "16×16, cut from two photographs. Distance: sliced Wasserstein (0.014 between real halves). The other four by "
        "the 5 nearest neighbours among 5000 real patches, in 32 principal components. All are of the last moment, "
        "where the distance swings by a tenth of a σ from point to point; over the last third of the budget it is a "
        "mean.",
        references("patches", NEIGHBOURS),
    ]
    return text + _each_setting("patches", rows, NEIGHBOURS, "late")


def _series(rows: list[Row], _: Path) -> list[str]:
    text = ["## Time series", "3 channels × 32 steps, 216 modes; 1-D convolutions.", references("series", ENDS)]
    return text + _each_setting("series", rows, ENDS + COSTS, "modes")


def _multimodal(rows: list[Row], _: Path) -> list[str]:
    text = ["## Many far-apart modes", "100 Gaussians; MLPs. High quality: within 3 sd of a centre."]
    return text + _each_setting("multimodal", rows, ENDS + COSTS, "modes")


def _large(rows: list[Row], _: Path) -> list[str]:
    text = [
        "## 32×32",
        "The digits enlarged, and larger patches; every run ends at a cost of 3000 adversarial iterations.",
    ]
    patches = [row for row in rows if row["setting"].startswith("patches")]
    text += _each_setting("large", [row for row in rows if row not in patches], ENDS + COSTS, "modes")
    return text + _each_setting("large", patches, NEIGHBOURS, "late")


def references(task: str, columns: Iterable[tuple[str, str]]) -> str:
    """What the measures say of samples that no GAN made."""
    of = TASKS[task]()
    data = of.data.flatten(1)
    torch.manual_seed(0)
    factor = torch.linalg.cholesky(torch.cov(data.T.double()) + 1e-6 * torch.eye(data.shape[1], dtype=torch.float64))
    normal = torch.randn(10_000, data.shape[1])
    samples = {
        "the data": data[torch.randperm(len(data))[:10_000]],
        "a Gaussian with the data's mean and covariance": data.mean(0) + normal @ factor.T.float(),
        "white noise": normal,
    }
    shaped = {name: x.view(-1, *of.data.shape[1:]) for name, x in samples.items()}
    found = {name: of.measure(x) | of.finish(x) for name, x in shaped.items()}
    known = [(column, form) for column, form in columns if column in found["the data"]]
    lines = ([name, *(f"{of_it[column]:{form}}" for column, form in known)] for name, of_it in found.items())
    return markdown(["samples", *(COLUMN_NAMES.get(column, column) for column, _ in known)], lines)


def _each_setting(part: str, rows: list[Row], columns: Sequence[tuple[str, str]], compared: str) -> list[str]:
    text = []
    for name, of_it in grouped(rows, lambda row: row["setting"]).items():
        text += [f"### {setting_name(setting_of(part, name)).capitalize()}", details(of_it, columns, compared)]
    return text


def details(rows: Iterable[Row], columns: Sequence[tuple[str, str]], compared: str) -> str:
    """A setting's arms, a line each.

    Args:
        rows: Its runs.
        columns: (Column, format) of what to show.
        compared: The column of which the difference of each arm to ours is shown, by seed.
    """
    by_arm = grouped(rows, lambda row: row["arm"])
    lines = []
    for arm, runs in by_arm.items():
        difference = paired(runs, by_arm["ours"], compared) if arm != "ours" and "ours" in by_arm else None
        kind = dict(columns)[compared].replace(".", "+.")
        lines.append(
            [
                ARM_NAMES.get(arm, arm),
                collapses(runs),
                *(_with_interval(runs, column, form) for column, form in columns),
                "" if difference is None else f"{difference:{kind}}",
            ]
        )
    shown = [COLUMN_NAMES.get(column, column) for column, _ in columns]
    return markdown(["start", "collapsed", *shown, f"{COLUMN_NAMES.get(compared, compared)} − ours"], lines)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def _with_interval(runs: list[Row], column: str, form: str) -> str:
    """The interval only where it matters: a table of twelve columns is to be read, too."""
    found = median(runs, column)
    return f"{found:{form}}" if column in INTERVALS else f"{replace(found, low=found.value, high=found.value):{form}}"


def _modes_and_collapses(runs: list[Row]) -> str:
    if not runs:
        return ""
    lost = sum(number(row, "collapsed") for row in runs)
    return f"{median(runs, 'modes'):.0f}" + (f"; {lost:.0f}/{len(runs)} lost" if lost else "")
