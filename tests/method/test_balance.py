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


def test_beyond_the_cap_it_does_not_grow_and_comes_back_at_once():
    step = BalancedStep(size=2.0)
    for _ in range(100):
        step.update(1.0, 1.0, drift=0.26)
    assert step.size == 2
    step.update(-1.0, 1.0, drift=0.26)
    assert step.size == pytest.approx(2 * math.exp(-0.1))


def test_a_d_that_gives_one_score_a_batch_has_no_spread():
    step = BalancedStep(size=2.0)
    step.update(0.3, 0.0)
    assert step.size == pytest.approx(2 * math.exp(0.1))
    step.update(-0.3, 0.0)
    assert step.size == pytest.approx(2.0)


def test_the_users_number_of_steps_is_kept_and_the_size_balances_alone():
    step = step_size("balanced", 5)
    step.start(noise=0.05, gradient_rms=1.0)
    for gap in (1.0, 1.0, -1.0):
        step.update(gap, 1.0)
    assert (step.steps, step.size) == (5, pytest.approx(0.05 * math.exp(0.1)))


def test_a_fixed_step_is_the_textbooks_and_stays():
    step = step_size(0.3, "auto")
    step.start(noise=0.3, gradient_rms=17.0)
    assert step.size == pytest.approx(0.3**2 / 2)
    assert step.cap is None
    for gap in (5.0, -5.0):
        step.update(gap, 1.0)
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
        refined, drift = langevin(
            lambda x: steepness * x[:, 0], start, steps=8, drift=step.size, noise=0.05, scale=[1.0], cap=step.cap
        )
        spread = steepness * float(real.std() + refined.std()) / 2
        gap = steepness * float(real.mean() - refined.mean())
        gaps.append(gap / spread)
        step.update(gap, spread, float(drift))
    assert abs(gaps[0]) > 2
    assert max(map(abs, gaps[-20:])) < 0.7
    assert step.size * steepness == pytest.approx(1 / 8, rel=0.2)  # eight equal steps from 0 to 1


@pytest.mark.parametrize(("gap", "pace"), [(0.0, 2), (0.5, 1.5), (-0.5, 1.5), (3.0, 1), (-3.0, 1)])
def test_d_learns_twice_as_fast_in_balance_and_as_set_far_off(gap, pace):
    step = step_size("balanced")
    assert step.pace == 1  # until there is a balance
    step.start(noise=0.05, gradient_rms=1.0)
    step.update(gap * 0.1, 0.1)
    assert step.pace == pytest.approx(pace)
