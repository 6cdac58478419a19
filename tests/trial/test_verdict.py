"""The verdict: what is said of runs whose ends are known, and with how much certainty."""

from __future__ import annotations

import pytest

from coopinit_plugin import WarmStartConfig
from coopinit_plugin.trial.comparison import _more_often, compare
from coopinit_plugin.trial.readings import Reading
from coopinit_plugin.trial.run import ARMS, Run
from coopinit_plugin.trial.verdict import decide

CONFIG = WarmStartConfig(handover="hinge")


def run(arm, seed, likeness=0.6, status="usable", error=""):
    costs = (0.1, 0.8, 0.9, 1.0) if arm == "warm start" else (0.0, 0.4, 0.8, 0.9, 1.0)
    values = dict.fromkeys(("precision", "recall", "density", "coverage", "diversity"), likeness)
    readings = tuple(Reading(distance=0.2, energy=0.1, **values, step=0, cost=cost) for cost in costs)
    return Run(arm, seed, status, error, readings, 100, 10.0, 0.1, 10.0, warm_seconds=0.0 if arm == "random" else 3.0)


def runs(**ends):
    """Of each arm, in order, how much like the data its runs end, or words for runs that were lost."""
    found = []
    for arm, values in zip(ARMS, (ends["random"], ends["hand_over"], ends["warm"]), strict=True):
        for seed, value in enumerate(values):
            lost = isinstance(value, str)
            found.append(run(arm, seed, 0.0 if lost else value, value if lost else "usable"))
    return found


SPREAD = [0.60, 0.62, 0.59, 0.61, 0.60]
LESS = [likeness - 0.2 for likeness in SPREAD]


def test_collapses_that_the_warm_start_avoids():
    verdict = decide(runs(random=["collapsed"] * 5, hand_over=["collapsed"] * 4 + [0.4], warm=SPREAD), CONFIG)
    assert verdict.kind == "use"
    assert verdict.words == (
        "In 5 of 5 seeds the random start collapsed, in 0 of 5 after a warm-up of 3 s. "
        "Use `warm_start(G, D, loader, handover='hinge')`; expected saving per usable run 6.0×."
    )


def test_a_hand_over_that_does_as_much():
    verdict = decide(runs(random=["far"] * 5, hand_over=SPREAD, warm=SPREAD), CONFIG)
    assert verdict.kind == "hand-over"
    assert verdict.words.startswith("Hand-over alone does as much here, in 3 s.")
    assert "config=WarmStartConfig(iterations=0))`" in verdict.words


def test_a_hand_over_that_does_a_part():
    verdict = decide(runs(random=["far"] * 5, hand_over=LESS, warm=SPREAD), CONFIG)
    assert verdict.kind == "use"
    assert verdict.notes[0] == (
        "Hand-over alone does a part of it: 0 of 5 runs after it were lost, 0 of 5 after a warm-up, which ends 20 "
        "points of 100 more like the data. In a longer run it may catch up."
    )


def test_no_benefit():
    near = [likeness + 0.05 for likeness in SPREAD]  # in every seed, but too little to matter
    verdict = decide(runs(random=SPREAD, hand_over=SPREAD, warm=near), CONFIG)
    assert verdict.kind == "no benefit"
    assert verdict.words.startswith("No measurable benefit; the warm-up cost 0% of the time.")
    assert "90 % interval" in verdict.words


def test_more_like_the_data_in_every_seed():
    verdict = decide(runs(random=LESS, hand_over=LESS, warm=SPREAD), CONFIG)
    assert verdict.kind == "use"
    assert "end 20 points of 100 more like the data (90 % interval 20 to 20, 5 seeds)" in verdict.words


def test_harm():
    verdict = decide(runs(random=SPREAD, hand_over=SPREAD, warm=LESS), CONFIG)
    assert verdict.kind == "harm"
    assert "20 points of 100 less like the data (90 % interval 20 to 20, 5 seeds)" in verdict.words
    assert verdict.words.endswith("Do not use it here.")
    lost = decide(runs(random=SPREAD, hand_over=SPREAD, warm=["diverged"] * 5), CONFIG)
    assert lost.kind == "harm"
    assert "No random start was lost, but 5 of 5 runs after a warm-up of 3 s." in lost.words


def test_few_seeds_are_not_sure():
    verdict = decide(runs(random=["collapsed"], hand_over=["collapsed"], warm=[0.6]), CONFIG)
    assert verdict.kind == "unclear"
    assert verdict.words.endswith("That may be chance: run more seeds.")
    assert (
        decide(runs(random=["collapsed", 0.6, 0.6], hand_over=[0.6] * 3, warm=[0.6] * 3), CONFIG).kind == "no benefit"
    )


def test_nothing_worked():
    verdict = decide(runs(random=["collapsed"] * 3, hand_over=["collapsed"] * 3, warm=["far"] * 3), CONFIG)
    assert verdict.kind == "nothing worked"
    assert "in 3 of 3 seeds the random start collapsed" in verdict.words


def test_runs_that_an_error_ended_say_nothing():
    failed = [run("warm start", seed, status="failed", error="train_step failed: boom") for seed in range(2)]
    rest = [
        r
        for r in runs(random=["collapsed"] * 5, hand_over=["collapsed"] * 5, warm=SPREAD)
        if r.arm != "warm start" or r.seed > 1
    ]
    verdict = decide([*rest, *failed], CONFIG)
    assert verdict.kind == "use"
    assert "2 of 15 runs say nothing: train_step failed: boom (2 runs)" in verdict.notes
    assert decide(failed, CONFIG).kind == "nothing worked"


@pytest.mark.parametrize(
    ("lost", "of", "other", "of_other", "share"),
    [(0, 0, 0, 0, 0.5), (5, 5, 0, 5, 1 - 1 / 924), (0, 5, 5, 5, 1 / 924), (1, 1, 0, 1, 5 / 6), (2, 4, 2, 4, 0.5)],
)
def test_the_probability_that_one_start_fails_more_often(lost, of, other, of_other, share):
    assert _more_often(lost, of, other, of_other) == pytest.approx(share, rel=1e-6)


def test_the_interval_is_students():
    seen = compare(runs(random=[0.2, 0.4], hand_over=[], warm=[0.6, 0.6]), "random", "warm start")
    assert seen.gain == pytest.approx(0.3)
    assert seen.low == pytest.approx(0.3 - 6.31 * 0.1, rel=1e-3)
    assert seen.high == pytest.approx(0.3 + 6.31 * 0.1, rel=1e-3)
    assert seen.says == "perhaps"
