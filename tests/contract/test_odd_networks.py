"""Networks that ``copy.deepcopy`` refuses, and what comes back of them."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
from networks import (
    assert_warmed,
    conv_pair,
    images,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot, state_bits
from torch.nn.utils import parametrizations


def test_a_d_in_the_middle_of_training_with_spectral_norm_hooks_works():
    G, D = mlp_pair()
    torch.nn.utils.spectral_norm(D[0])
    torch.nn.utils.spectral_norm(D[2])
    with torch.enable_grad():
        D(vectors()[0]).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(D)
    before = Snapshot(G, D)
    result = warm(G, D, vectors())
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    with torch.no_grad():
        D(vectors()[0])  # as ever: the weight of the last pass is no leaf of a graph any more
    copied = copy.deepcopy(D)
    assert state_bits(copied) == state_bits(D)


def test_warmed_networks_can_be_copied_and_saved(tmp_path):
    G, D = conv_pair()
    torch.nn.utils.spectral_norm(D[0])
    parametrizations.spectral_norm(D[2])
    parametrizations.weight_norm(G[1])
    warm(G, D, images())
    for module in (G, D):
        assert state_bits(copy.deepcopy(module)) == state_bits(module)
        torch.save(module.state_dict(), tmp_path / "state.pt")
        safetensors.torch.save_model(module, str(tmp_path / "state.safetensors"))
