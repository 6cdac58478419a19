"""The callback sees every iteration, and may end the warm-up."""

from __future__ import annotations

import torch
from networks import (
    assert_warmed,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot, state_bits

from coopinit_plugin import WarmStartConfig


def test_callback_sees_every_iteration_and_stops_the_warm_up():
    rows = []

    def callback(step):
        rows.append(step)
        return False if step.iteration == 2 else None

    G, D = mlp_pair()
    before, state = Snapshot(G, D), state_bits(G, D)
    result = warm(G, D, vectors(), callback=callback, config=WarmStartConfig(iterations=50))
    before.assert_only_values_changed()
    assert result.history == rows
    assert [row.iteration for row in rows] == [1, 2]
    assert result.summary["stopped_by"] == "callback"
    assert all(isinstance(value, float) for row in rows for name, value in vars(row).items() if name in NUMBERS)
    assert rows[0].seconds < rows[1].seconds
    assert rows[0].gap == rows[0].real - rows[0].refined
    assert state != state_bits(G, D)
    assert_warmed(result, G, D)


NUMBERS = ("real", "refined", "spread", "step_size", "displacement", "seconds")


def test_a_callback_that_returns_anything_but_false_does_not_stop_it():
    answers = iter([None, 0, True])
    result = warm(*mlp_pair(), vectors(), callback=lambda step: next(answers))
    assert (result.summary["iterations"], result.summary["stopped_by"]) == (3, "iterations")


def test_a_callback_that_turns_gradients_off_does_not_reach_the_warm_up():
    result = warm(*mlp_pair(), vectors(), callback=lambda step: torch.set_grad_enabled(False) and None)
    assert len(result.history) > 1
    assert torch.is_grad_enabled()
