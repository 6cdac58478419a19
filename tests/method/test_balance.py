"""The step size that balances itself."""

from __future__ import annotations

import math

import pytest
import torch

from coopinit_plugin.method.balance import BalancedStep, step_size
from coopinit_plugin.method.langevin import langevin


def test_the_first_drift_is_as_long_as_the_noise():
    step = step_size("balanced")
    assert step.size is None
    step.start(noise=0.05, gradient_rms=4.0)
    assert step.size == pytest.approx(0.05 / 4)
    assert step.cap == 0.25


def test_without_noise_the_first_drift_is_as_long_as_the_usual_noise():
    step = BalancedStep()
    step.start(noise=0.0, gradient_rms=2.0)
    assert step.size == pytest.approx(0.03)


@pytest.mark.parametrize("given", ["balanced", 0.1])
def test_without_a_gradient_it_does_not_start(given):
    step = step_size(given)
    step.start(noise=0.05, gradient_rms=0.0)
    step.update(1.0, 1.0)
    assert step.size is None
    step.start(noise=0.05, gradient_rms=1.0)
    assert step.size == pytest.approx(0.05 if given == "balanced" else 0.005)


@pytest.mark.parametrize("gap", [0.5, -0.5, 0.0, 0.99])
def test_it_grows_where_the_chain_falls_short_and_shrinks_where_it_overshoots(gap):
    step = BalancedStep(size=2.0)
    step.update(gap * 3, 3.0)
    assert step.size == pytest.approx(2 * math.exp(0.1 * gap))


@pytest.mark.parametrize(("gap", "sign"), [(50.0, 1), (-50.0, -1), (1e30, 1), (-1e30, -1)])
def test_a_change_is_held_to_ten_per_cent(gap, sign):
    step = BalancedStep(size=2.0)
    step.update(gap, 1e-3)
    assert step.size == pytest.approx(2 * math.exp(0.1 * sign))


def test_a_d_that_gives_one_score_a_batch_has_no_spread():
    step = BalancedStep(size=2.0)
    step.update(0.3, 0.0)
    assert step.size == pytest.approx(2 * math.exp(0.1))
    step.update(-0.3, 0.0)
    assert step.size == pytest.approx(2.0)


def test_where_longer_steps_are_cut_it_takes_more_of_them_and_gives_them_back_first():
    step = step_size("balanced", "auto")
    step.start(noise=0.05, gradient_rms=1.0)
    step.update(1.0, 1.0, drift=0.25)  # at the cap, not over it
    assert (step.steps, step.size) == (2, pytest.approx(0.05 * math.exp(0.1)))
    size = step.size
    seen = []
    for _ in range(30):
        step.update(1.0, 1.0, drift=9.0)
        seen.append(step.steps)
    assert seen == sorted(seen)
    assert set(seen) == set(range(2, 11))
    assert seen[:5] == [2, 2, 3, 3, 3]  # 2·exp(0.1·k)
    assert step.size == size  # no wind-up: held, though the gap stays
    for _ in range(17):
        step.update(-1.0, 1.0, drift=9.0)
    assert (step.steps, step.size) == (2, size)
    step.update(-1.0, 1.0, drift=9.0)
    assert step.size == pytest.approx(size * math.exp(-0.1))


def test_the_users_number_of_steps_is_kept_and_the_size_balances_alone():
    step = step_size("balanced", 5)
    step.start(noise=0.05, gradient_rms=1.0)
    for gap in (1.0, 1.0, -1.0):
        step.update(gap, 1.0, drift=0.3)
    assert (step.steps, step.size) == (5, pytest.approx(0.05 * math.exp(0.1)))


def test_the_reach_grows_evenly_where_the_number_of_steps_jumps():
    step = step_size("balanced", "auto")
    step.start(noise=0.05, gradient_rms=1.0)
    reach = []
    for _ in range(20):
        reach.append(step.steps * step.longest)
        step.update(1.0, 1.0, drift=9.0)
    assert reach[0] == 0.5
    assert reach == pytest.approx([min(0.5 * math.exp(0.1 * k), 2.5) for k in range(20)])


@pytest.mark.parametrize(
    ("number", "gap", "pace"),
    [(2, 0.0, 2), (2, 0.5, 1.5), (2, -0.5, 1.5), (2, 3.0, 1), (3, 0.0, 4 / 3), (4, 0.0, 1), (9, 0.0, 1)],
)
def test_d_learns_twice_as_fast_in_balance_by_two_steps_and_as_set_far_off_or_by_four(number, gap, pace):
    step = step_size("balanced", "auto")
    assert step.pace == 1  # until there is a balance
    step.start(noise=0.05, gradient_rms=1.0)
    step.number = number
    step.update(gap * 0.1, 0.1)
    assert step.pace == pytest.approx(pace)


@pytest.mark.parametrize(("size", "steps"), [("balanced", 1), ("balanced", 2), ("balanced", 10), (0.1, "auto")])
def test_where_the_chain_is_the_users_d_learns_as_fast_as_is_set(size, steps):
    step = step_size(size, steps)
    step.start(noise=0.05, gradient_rms=1.0)
    step.update(0.0, 1.0)
    assert step.pace == 1


def test_a_chain_with_a_far_way_to_go_arrives_by_more_steps():
    """From 0 uphill to data at 1: two steps of 0.25 do not reach them, four do."""
    real = torch.randn(256, 4) * 0.1 + 1
    step = step_size("balanced", "auto")
    step.start(0.05, 1.0)
    for _ in range(150):
        start = torch.randn(256, 4) * 0.1
        refined, drift = langevin(
            lambda x: x.sum(1), start, steps=step.steps, drift=step.size, noise=0.05, scale=[1.0], cap=step.longest
        )
        step.update(float((real - refined).sum(1).mean()), 0.2, float(drift))
    assert abs(float(refined.mean()) - 1) < 0.15
    assert step.steps in (4, 5)
    assert step.size < 0.5  # nor has it wound up


def test_a_fixed_step_is_the_textbooks_and_stays():
    step = step_size(0.3, "auto")
    step.start(noise=0.3, gradient_rms=17.0)
    assert step.size == pytest.approx(0.3**2 / 2)
    assert step.cap is None
    for gap in (5.0, -5.0):
        step.update(gap, 1.0, 9.0)
    assert step.size == pytest.approx(0.3**2 / 2)
    assert step.steps == 2


@pytest.mark.parametrize("steepness", [1e-3, 1.0, 1e3])
def test_it_finds_the_balance_whatever_the_size_of_the_gradients(steepness):
    """Chains from 0 uphill on a linear score towards data at 1: the gap closes, for a D a million times as steep."""
    real = torch.randn(256, 1) * 0.1 + 1
    step = BalancedStep()
    step.start(0.05, steepness)
    gaps = []
    for _ in range(120):
        start = torch.randn(256, 1) * 0.1
        refined, _ = langevin(
            lambda x: steepness * x[:, 0], start, steps=8, drift=step.size, noise=0.05, scale=[1.0], cap=step.cap
        )
        spread = steepness * float(real.std() + refined.std()) / 2
        gap = steepness * float(real.mean() - refined.mean())
        gaps.append(gap / spread)
        step.update(gap, spread)
    assert abs(gaps[0]) > 2
    assert max(map(abs, gaps[-20:])) < 0.7
    assert step.size * steepness == pytest.approx(1 / 8, rel=0.2)  # eight equal steps from 0 to 1
