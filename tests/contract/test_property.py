"""Whatever the networks, the wrappers and the failure: nothing but numbers changes."""

from __future__ import annotations

import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    WEIGHT_NORMS,
    Counting,
    Fuse,
    Fused,
    FusedLoader,
    Injected,
    Z,
    assert_warmed,
    hooks,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot, bits
from torch import nn
from torch.utils.data import DataLoader

from coopinit_plugin import Adapter, inspect


@st.composite
def pairs(draw):
    """G and D of random layers, with random flags, gradients and traces of use."""
    images_ = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))
    width = 4

    def block(index: int, conv: bool) -> list[nn.Module]:
        layer = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Linear(width, width)
        kind = draw(st.sampled_from(["plain", "plain", *WEIGHT_NORMS, "no bias"]))
        if kind in WEIGHT_NORMS:
            WEIGHT_NORMS[kind](layer)
        elif kind == "no bias":
            layer.bias = None
        extra = draw(st.sampled_from(["none", "norm", "dropout", "count", "in place"]))
        return [
            layer,
            {
                "none": lambda: nn.Tanh(),
                "norm": lambda: nn.BatchNorm2d(width) if conv else nn.BatchNorm1d(width),
                "dropout": lambda: nn.Dropout(0.3),
                "count": Counting,
                "in place": lambda: nn.LeakyReLU(0.2, inplace=True),
            }[extra](),
        ]

    def body(conv: bool) -> list[nn.Module]:
        layers = [module for index in range(draw(st.integers(1, 3))) for module in block(index, conv)]
        if draw(st.booleans()):
            layers.append(layers[0])  # the same layer twice
        elif draw(st.booleans()):
            tied = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Linear(width, width)
            first = next((m for m in layers if type(m) is type(tied) and "weight" in m._parameters), tied)
            tied.weight = first.weight
            layers.append(tied)
        return layers

    if images_:
        G = nn.Sequential(
            nn.Unflatten(1, (Z, 1, 1)), nn.ConvTranspose2d(Z, width, 3), *body(True), nn.Conv2d(width, 2, 1)
        )
        D = nn.Sequential(nn.Conv2d(2, width, 1), *body(True), nn.Flatten(), nn.Linear(width * 9, 1))
        generator = torch.Generator().manual_seed(1)
        data = [torch.randn(32, 2, 3, 3, generator=generator) for _ in range(3)]
    else:
        G = nn.Sequential(nn.Linear(Z, width), *body(False), nn.Linear(width, 2))
        D = nn.Sequential(nn.Linear(2, width), *body(False), nn.Linear(width, 1))
        data = vectors(3)
    for module in (G, D):
        for child in module.modules():
            child.training = draw(st.booleans())
        for parameter in module.parameters():
            parameter.requires_grad_(draw(st.integers(0, 3)) > 0)
    if draw(st.booleans()):
        traces = D(G(torch.randn(4, Z))).sum()
        if traces.requires_grad:
            traces.backward()
    return G, D, data


FAILURES = st.tuples(
    st.sampled_from([None, "loader", "G", "D", "callback", "write", "Ctrl-C"]),
    st.integers(1, 12),
    st.sampled_from([Injected, KeyboardInterrupt]),
)


@given(pair=pairs(), failure=FAILURES, own=st.booleans())
def test_hygiene_holds_for_any_networks_and_any_failure(pair, failure, own):
    G, D, data = pair
    place, at, error = failure
    fuse = Fuse(at, error)
    loader = DataLoader(torch.cat(data), 32, shuffle=True, generator=torch.Generator() if own else None)
    given = {}
    if place == "loader":
        loader = FusedLoader(data, fuse)
    elif place == "G":
        G = nn.Sequential(G, Fused(fuse))
    elif place == "D":
        D = nn.Sequential(Fused(fuse), D)
    elif place == "callback":
        given["callback"] = lambda step: fuse.light()

    mine = {t.data_ptr() for m in (G, D) for t in (*m.parameters(), *m.buffers())}
    original = torch.Tensor.copy_
    pressed = []

    def copy_(tensor, *arguments, **options):
        written = original(tensor, *arguments, **options)
        if tensor.data_ptr() in mine:
            if place == "write":
                fuse.light()
            elif not pressed:
                pressed.append(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
        return written

    frozen = {
        id(p): bits(p)
        for m in (G, D)
        for p in m.parameters()
        if not p.requires_grad and any(q.requires_grad for q in m.parameters())
    }
    head = {id(p) for p in list(D.parameters())[-2:]}  # scaled and shifted at the hand-over
    before = Snapshot(G, D, loader=loader)
    with pytest.MonkeyPatch.context() as patch:
        if place in ("write", "Ctrl-C"):
            patch.setattr(torch.Tensor, "copy_", copy_)
        result = caught = None
        try:
            result = warm(G, D, loader, **given)
        except BaseException as raised:
            caught = raised
    if caught is not None:
        expected = KeyboardInterrupt if place == "Ctrl-C" else error
        explained = place in ("G", "D") and isinstance(caught.__cause__, expected)  # by the look at how they are called
        assert isinstance(caught, expected) or explained, repr(caught)
        assert fuse.lit >= at or pressed
        before.assert_unchanged()
    else:
        assert place != "Ctrl-C"
        assert fuse.lit < at or place is None
        before.assert_only_values_changed()
        assert_warmed(result, G, D)
        for p in (*G.parameters(), *D.parameters()):
            assert torch.isfinite(p).all()
            if id(p) in frozen and id(p) not in head:
                assert bits(p) == frozen[id(p)]


def test_the_loaders_own_tensors_stay_where_d_begins_in_place():
    G, D = mlp_pair()
    D = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), D)
    data = vectors()
    before = [batch.clone() for batch in data]
    warm(G, D, data, adapter=Adapter(latent=hooks().latent))
    inspect(G, D, data)
    assert all(torch.equal(now, was) for now, was in zip(data, before, strict=True))
