"""Copies of D that help it while it trains as an energy."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from networks import grid, mlp_pair, simple_pair
from snapshot import state_bits
from torch import nn

from coopinit_plugin import WarmStartConfig, warm_start, warmup
from coopinit_plugin.calling.adapter import Adapter, bound
from coopinit_plugin.host import checkpoint
from coopinit_plugin.method.ensemble import MOST, Ensemble, energies_of


def test_the_copies_have_the_same_numbers_in_another_order_and_d_stays_as_it_is():
    G, D = simple_pair()
    before = state_bits(G, D)
    first, *copies = energies_of(G, D, deepcopy, seed=0)
    assert first is D
    assert state_bits(G, D) == before
    assert len(copies) == MOST - 1
    drawn = [D[0].weight, *(copy[0].weight for copy in copies)]
    assert all(torch.equal(weight.flatten().sort()[0], drawn[0].flatten().sort()[0]) for weight in drawn)
    assert len({tuple(weight.flatten().tolist()) for weight in drawn}) > MOST // 2  # by chance two may be alike
    again = energies_of(G, D, deepcopy, seed=0)[1:]
    assert all(state_bits(a, D) == state_bits(b, D) for a, b in zip(copies, again, strict=True))


def test_all_of_them_together_are_no_larger_than_g():
    G, D = mlp_pair(hidden=8)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (G, D)]
    assert len(energies_of(G, D, deepcopy, seed=0)) == max(1, sizes[0] // sizes[1]) == 1
    wide = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 2))
    assert len(energies_of(wide, D, deepcopy, seed=0)) == sum(p.numel() for p in wide.parameters()) // sizes[1] == 6


def test_a_frozen_weight_stays_as_it_is():
    G, D = simple_pair()
    D[0].weight.requires_grad_(False)
    assert all(torch.equal(copy[0].weight, D[0].weight) for copy in energies_of(G, D, deepcopy, seed=0))


def test_until_they_are_called_d_scores_alone():
    G, D = simple_pair()
    clipped = []
    adapter = Adapter(score=lambda D, x, z, batch: D(x).flatten(), after_d_step=clipped.append)
    members = [bound(G, energy, adapter) for energy in energies_of(G, D, deepcopy, seed=0)]
    together = Ensemble(members)
    x = torch.randn(6, 2)
    assert torch.equal(together.pair.score(x, None, x), D(x).flatten())
    together.pair.after_d_step()
    assert clipped == [D]
    together.called = True
    each = torch.stack([member.D(x).flatten() for member in members])
    torch.testing.assert_close(together.pair.score(x, None, x), each.sum(0) / len(members) ** 0.5)
    together.pair.after_d_step()
    assert clipped == [D, *(member.D for member in members)]


@pytest.mark.parametrize(("behind", "needed"), [(0.1, True), (0.6, False)])
def test_they_are_needed_if_g_is_closer_to_its_chains_than_to_the_data(behind, needed):
    pair = bound(*mlp_pair(), Adapter())
    assert Ensemble([pair, pair]).is_needed(behind, distance=1.0) is needed
    assert not Ensemble([pair]).is_needed(behind, distance=1.0)  # none are there
    assert not Ensemble([pair, pair], called=True).is_needed(behind, distance=1.0)


def test_a_d_with_too_little_to_say_calls_them_and_is_handed_over_alone(caplog):
    caplog.set_level("INFO")
    G, D = simple_pair()
    names = list(D.state_dict())
    result = warm_start(G, D, grid(), config=WarmStartConfig(max_iterations=80, handover="hinge"), progress=False)
    assert result.summary["energies"] == MOST
    assert f"D alone does not lead the chains to the data: {MOST - 1} copies help." in caplog.text
    assert list(result.discriminator_state) == names
    G, D = simple_pair()
    short = warm_start(G, D, grid(), config=WarmStartConfig(max_iterations=40, handover="hinge"), progress=False)
    assert short.summary["energies"] == 1  # three readings are too few to know


class Remembers(nn.Module):
    """D that keeps what it has computed where deepcopy does not look for it, and a function made on the first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.kept = simple_pair()[1], SimpleNamespace()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.first = self.kept.first if hasattr(self.kept, "first") else self.net[:2].forward
        self.kept.h = self.kept.first(x)
        return self.net[2:](self.kept.h)


def test_a_d_that_cannot_be_copied_any_more_after_a_pass_gets_copies_that_compute_by_themselves(monkeypatch):
    met = []
    monkeypatch.setattr(warmup, "Ensemble", lambda members: met.extend(members) or Ensemble(members))
    D = Remembers()
    warm_start(simple_pair()[0], D, grid(), config=WarmStartConfig(iterations=1, handover="hinge"), progress=False)
    x = grid()[0]
    assert len(met) == MOST
    assert len({float(member.D(x).sum().detach()) for member in met}) > MOST // 2


def test_a_resumed_warm_up_has_its_company_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1e12)  # a checkpoint after every iteration
    config = WarmStartConfig(max_iterations=96, handover="hinge")
    whole = simple_pair()
    warm_start(*whole, grid(), config=config, progress=False)

    for at in (66, 80):

        def interrupted(step, at=at):
            if step.iteration == at:
                raise KeyboardInterrupt

        parted, folder = simple_pair(), tmp_path / str(at)
        given = {"config": config, "output_dir": folder, "progress": False}
        with pytest.raises(KeyboardInterrupt):
            warm_start(*parted, grid(), callback=interrupted, **given)
        result = warm_start(*parted, grid(), resume=True, **given)
        assert result.summary["energies"] == MOST
        assert state_bits(*parted) == state_bits(*whole)
