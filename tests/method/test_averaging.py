"""The generator that is handed over: the running mean of the last iterations' weights."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import state_bits
from torch import nn

from coopinit_plugin import warm_start
from coopinit_plugin.method.iteration import AveragedGenerator


def test_the_first_iterations_count_alike_and_later_ones_by_the_decay():
    G, D = mlp_pair()
    averaged = AveragedGenerator(G, D, decay=0.75)
    weights = [torch.full_like(G[0].weight, value) for value in (1.0, 5.0, 3.0, 7.0, 12.0)]
    means = []
    for iteration, value in enumerate(weights, start=1):
        with torch.no_grad():
            G[0].weight.copy_(value)
        averaged.update(iteration)
        means.append(float(averaged.tensors[0].mean()))
    assert means == pytest.approx([1.0, 3.0, 3.0, 4.0, 0.75 * 4.0 + 0.25 * 12.0])
    assert float(G[0].weight.detach().mean()) == pytest.approx(12.0)  # G goes on from where it is
    averaged.hand_over()
    assert float(G[0].weight.detach().mean()) == pytest.approx(6.0)


def test_running_statistics_are_averaged_and_other_buffers_are_the_newest():
    G, D = conv_pair()
    G.register_buffer("w_avg", torch.zeros(3))
    norm = next(m for m in G.modules() if isinstance(m, nn.BatchNorm2d))
    averaged = AveragedGenerator(G, D, decay=0.9)
    for iteration, value in ((1, 0.0), (2, 4.0)):
        norm.running_mean.fill_(value)
        norm.num_batches_tracked.fill_(iteration)
        G.w_avg.fill_(value)
        averaged.update(iteration)
    averaged.hand_over()
    assert float(norm.running_mean.mean()) == pytest.approx(2.0)
    assert int(norm.num_batches_tracked) == 2
    assert float(G.w_avg.mean()) == pytest.approx(4.0)


def test_frozen_layers_and_those_that_g_shares_with_d_are_left_alone():
    G, D = mlp_pair()
    shared = nn.Linear(2, 2)
    G, D = nn.Sequential(G, shared), nn.Sequential(copy.deepcopy(shared), D)
    D[0] = shared
    G[0][0].weight.requires_grad_(False)
    assert len(AveragedGenerator(G, D, 0.9).tensors) == len(list(G.parameters())) - 3


def warmed(**settings):
    G, D = mlp_pair()
    first, found = {}, []

    def generate(G, z):
        if not first:
            first.update({key: value.clone() for key, value in G.state_dict().items()})
        return G(z)

    def ended(report):
        found.append(dict(first))
        first.clear()

    config = short(**{"iterations": 6, **settings})
    result = warm_start(
        *(G, D, vectors()),
        config=config,
        adapter=hooks(generate=generate),
        callback=ended,
        progress=False,
    )
    return G, D, result, found


def test_the_warm_up_hands_over_the_mean_of_its_iterations():
    last = warmed(iterations=6, averaging=0.0)[0].state_dict()
    G, _, _, found = warmed(iterations=6, averaging=0.9)
    assert len(found) == 6
    left = [*found[1:], last]  # what an iteration finds the one before has left
    for key, tensor in G.state_dict().items():
        assert torch.allclose(tensor, torch.stack([state[key] for state in left]).mean(0), atol=1e-6)


def test_d_and_the_iterations_know_nothing_of_it():
    with_it, without = warmed(handover="none"), warmed(averaging=0.0, handover="none")
    assert state_bits(with_it[0]) != state_bits(without[0])
    assert state_bits(with_it[1]) == state_bits(without[1])
    assert [row.real for row in with_it[2].history] == [row.real for row in without[2].history]


def test_running_statistics_of_a_real_warm_up_are_a_mean_too():
    G, D = conv_pair()
    last_g, last_d = copy.deepcopy((G, D))
    warm_start(G, D, images(), config=short(iterations=6, handover="logistic"), adapter=hooks(), progress=False)
    config = short(iterations=6, handover="logistic", averaging=0.0)
    warm_start(last_g, last_d, images(), config=config, adapter=hooks(), progress=False)
    norm, last = (next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)) for net in (G, last_g))
    assert not torch.equal(norm.running_mean, last.running_mean)
    assert int(norm.num_batches_tracked) == int(last.num_batches_tracked)
