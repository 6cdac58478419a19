"""DDP, DataParallel, ``torch.compile`` and averaged copies are seen through, and stay."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from networks import (
    Z,
    assert_warmed,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot, bits, state_bits
from torch import nn

from coopinit_plugin import CoopInitError


def wrapped(kind, module):
    if kind == "DataParallel":
        return nn.DataParallel(module)
    if kind == "compile":
        return torch.compile(module, backend="eager")
    if kind == "compile of DataParallel":
        return torch.compile(nn.DataParallel(module), backend="eager")
    if kind == "compile in place":
        module.compile(backend="eager")
        return module
    return Accelerator(cpu=True, mixed_precision=kind).prepare(module)


@pytest.mark.parametrize(
    "kind", ["DataParallel", "compile", "compile of DataParallel", "compile in place", "bf16", "no"]
)
@pytest.mark.parametrize("used", [False, True])
def test_wrappers_are_seen_through(kind, used):
    plain_g, plain_d = mlp_pair()
    expected = warm(*copy.deepcopy((plain_g, plain_d)), vectors())
    G, D = wrapped(kind, plain_g), wrapped(kind, plain_d)
    if used and kind != "bf16":
        D(G(torch.randn(2, Z))).sum().backward()
    AcceleratorState._reset_state(reset_partial_state=True)
    before = Snapshot(G, D)
    result = warm(G, D, vectors())
    before.assert_only_values_changed()
    assert result.generator_state.keys() == plain_g.state_dict().keys()
    assert_warmed(result, plain_g, plain_d)
    assert state_bits(plain_g, plain_d) == [
        {key: bits(value) for key, value in state.items()}
        for state in (expected.generator_state, expected.discriminator_state)
    ]
    with torch.no_grad():  # the wrapper runs the warm weights
        z = torch.randn(2, Z)
        reference = mlp_pair()[0]
        reference.load_state_dict(result.generator_state)
        assert torch.allclose(G(z).float(), reference(z), atol=0.05)


def test_a_compiled_layer_inside_a_network_is_followed_like_any_other():
    plain_g, plain_d = mlp_pair()
    G, D = copy.deepcopy((plain_g, plain_d))
    expected = warm(plain_g, plain_d, vectors())
    first = next(name for name, _ in G.named_children())
    setattr(G, first, torch.compile(getattr(G, first), backend="eager"))
    result = warm(G, D, vectors())
    assert [*result.generator_state] == [*G.state_dict()]
    got, wanted = result.generator_state.values(), expected.generator_state.values()
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_averaged_copies_get_gs_weights():
    G, D = mlp_pair()
    averaged = [copy.deepcopy(G).eval().requires_grad_(False), nn.DataParallel(copy.deepcopy(G))]
    before = Snapshot(G, D, *averaged)
    result = warm(G, D, vectors(), ema=averaged)
    before.assert_only_values_changed()
    assert_warmed(result, averaged[0], D)
    assert_warmed(result, averaged[1].module, D)


def test_an_averaged_copy_that_does_not_fit_changes_nothing():
    G, D = mlp_pair()
    other = nn.Linear(2, 2)
    before = Snapshot(G, D, other)
    with pytest.raises(CoopInitError, match=r"ema\[1\].*Linear"):
        warm(G, D, vectors(), ema=[copy.deepcopy(G), other])
    before.assert_unchanged()
