"""After a warm-up only numbers have changed."""

from __future__ import annotations

import pytest
import torch
from networks import (
    Counting,
    Z,
    assert_warmed,
    conv_pair,
    hooks,
    images,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot, bits, state_bits
from torch import nn


@pytest.mark.parametrize(("make", "data"), [(mlp_pair, vectors), (conv_pair, images)])
def test_only_the_numbers_change(make, data):
    G, D = make()
    D(data()[0]).sum().backward()  # gradients of the user's own
    before, state = Snapshot(G, D), state_bits(G, D)
    result = warm(G, D, data())
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    for old, new in zip(state, state_bits(G, D), strict=True):
        changed = {key for key in old if old[key] != new[key]}
        assert changed == set(old)  # every weight and buffer was trained


def test_flags_of_every_submodule_and_parameter_stay():
    G, D = conv_pair()
    G.eval()
    G[2].train()
    D[3].eval()
    D[0].requires_grad_(False)
    G[1].weight.requires_grad_(False)
    before, frozen = Snapshot(G, D), [bits(D[0].weight), bits(D[0].bias), bits(G[1].weight)]
    warm(G, D, images())
    before.assert_only_values_changed()
    assert [bits(D[0].weight), bits(D[0].bias), bits(G[1].weight)] == frozen


def test_networks_that_arrive_frozen_altogether_are_trained_and_stay_frozen():
    G, D = mlp_pair()
    G.requires_grad_(False)
    D.requires_grad_(False)
    before, state = Snapshot(G, D), state_bits(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    assert all(set(old.values()).isdisjoint(new.values()) for old, new in zip(state, state_bits(G, D), strict=True))


def test_optimizers_made_before_go_on():
    G, D = mlp_pair()
    adam_g, adam_d = torch.optim.Adam(G.parameters(), lr=0.1), torch.optim.Adam(D.parameters(), lr=0.1)
    warm(G, D, vectors())
    warmed = state_bits(G, D)
    D(G(torch.randn(8, Z))).mean().backward()
    adam_g.step()
    adam_d.step()
    for old, new in zip(warmed, state_bits(G, D), strict=True):
        assert all(old[key] != new[key] for key in old if key != "2.bias")


def test_hooks_stay_and_go_on_working():
    G, D = mlp_pair()
    calls = []
    D[0].register_forward_hook(lambda *_: calls.append("forward"))
    D[2].register_full_backward_hook(lambda *_: calls.append("backward"))
    G.register_forward_pre_hook(lambda *_: calls.append("before G"))
    D[0].weight.register_hook(lambda gradient: calls.append("weight"))
    before = Snapshot(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    calls.clear()
    D(G(torch.randn(8, Z))).mean().backward()
    assert calls == ["before G", "forward", "backward", "weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_stays(dtype):
    G, D = (module.to(dtype) for module in mlp_pair())
    before = Snapshot(G, D)
    adapter = hooks(latent=lambda n, device, batch: torch.randn(n, Z, dtype=dtype))
    result = warm(G, D, [x.to(dtype) for x in vectors()], adapter=adapter)
    before.assert_only_values_changed()
    assert_warmed(result, G, D)


def test_memory_format_stays():
    G, D = (module.to(memory_format=torch.channels_last) for module in conv_pair())
    assert not D[0].weight.is_contiguous()
    before = Snapshot(G, D)
    result = warm(G, D, images())
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    assert result.discriminator_state["0.weight"].is_contiguous()


def test_tied_weights_stay_tied_also_between_g_and_d():
    G, D = mlp_pair(data=8)
    D[0].weight = G[2].weight  # (8, 8), of both
    before = Snapshot(G, D)
    warm(G, D, vectors(data=8))
    before.assert_only_values_changed()
    assert D[0].weight is G[2].weight


def test_buffers_that_are_not_persistent_stay():
    G, D = mlp_pair()
    G, D = nn.Sequential(G, Counting()), nn.Sequential(Counting(), D)
    D(vectors()[0])
    before = Snapshot(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    assert (float(G[1].calls), float(D[0].calls)) == (0.0, 1.0)
