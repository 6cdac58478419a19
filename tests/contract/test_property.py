"""Whatever the networks, the wrappers and the failure: nothing but numbers changes."""

from __future__ import annotations

import functools
import signal
import types
import weakref

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

from coopinit_plugin import Adapter, CoopInitError, inspect


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
        extra = draw(st.sampled_from(["none", "norm", "dropout", "count", "in place", "blur"]))
        return [
            layer,
            {
                "none": lambda: nn.Tanh(),
                "norm": lambda: nn.BatchNorm2d(width) if conv else nn.BatchNorm1d(width),
                "dropout": lambda: nn.Dropout(0.3),
                "count": Counting,
                "blur": lambda: Blur(conv, persistent=draw(st.booleans())),
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
    if draw(st.booleans()):
        D = nn.Sequential(D[0], G[2], *D[1:]) if images_ else nn.Sequential(D[0], G[1], *D[1:])  # of both networks
    for module in (G, D):
        if draw(st.integers(0, 7)) == 0:  # refused
            first = next(child for child in module.modules() if "weight" in child._parameters)
            in_its_memory, repeated = first.weight.data.view(-1), torch.zeros(1).expand(3)
            first.register_buffer("refused", in_its_memory if draw(st.booleans()) else repeated)
        for child in module.modules():
            child.training = draw(st.booleans())
        for parameter in module.parameters():
            parameter.requires_grad_(draw(st.integers(0, 3)) > 0)
    if draw(st.booleans()):
        traces = D(G(torch.randn(4, Z))).sum()
        if traces.requires_grad:
            traces.backward()
    return G, D, data


class Blur(nn.Module):
    """A buffer that may not be saved with the network."""

    def __init__(self, conv: bool, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((4,), 0.9), persistent=persistent)
        self.shape = (4, 1, 1) if conv else (4,)

    def forward(self, x):
        return x * self.scale.view(self.shape)


def plain_forward(module):
    return lambda *given: type(module).forward(module, *given)


def kept_features(module, _, output):
    module.seen["last"] = output.detach()


def hooked(module):
    module.seen = {}
    module.register_forward_hook(lambda m, given, output, owner=module: kept_features(owner, given, output))


def counted(module):
    module.calls = 0

    def count(*_):
        module.calls += 1

    module.register_forward_hook(count)


def weak(module):
    module.me = weakref.ref(module)
    module.forward = lambda *given: type(module).forward(module.me(), *given)


def rewrap(module, wrapped):
    module.forward = wrapped


WRAPPED = {  # each hangs on a module a function that holds the module itself: refused, if it is of any matter
    "lambda": lambda m: rewrap(m, plain_forward(m)),
    "method": lambda m: rewrap(m, types.MethodType(lambda self, *given, own=m.forward: own(*given), m)),
    "partial": lambda m: rewrap(m, functools.partial(plain_forward(m))),
    "compiled": lambda m: rewrap(m, torch.compile(m.forward, backend="eager")),
    "autocast": lambda m: rewrap(m, torch.autocast("cpu", enabled=False)(m.forward)),
    "list": lambda m: setattr(m, "functions", [(plain_forward(m),)]),
    "features": hooked,
    "count": counted,
    "weak": weak,
}


FAILURES = st.tuples(
    st.sampled_from([None, "loader", "G", "D", "callback", "write", "Ctrl-C"]),
    st.integers(1, 12),
    st.sampled_from([Injected, KeyboardInterrupt]),
)


WRAPS = st.lists(
    st.tuples(st.sampled_from(["compiled", *sorted(WRAPPED)]), st.booleans(), st.integers(0, 20)), max_size=1
)


@given(pair=pairs(), failure=FAILURES, own=st.booleans(), wraps=WRAPS)
def test_hygiene_holds_for_any_networks_and_any_failure(pair, failure, own, wraps):
    G, D, data = pair
    for kind, in_g, index in wraps:
        children = list((G if in_g else D).modules())
        WRAPPED[kind](children[index % len(children)])
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

    trained = [m for m in (G, D) if any(p.requires_grad for p in m.parameters())]
    moved = {id(p) for m in (G, D) for p in m.parameters() if p.requires_grad or m not in trained}
    frozen = {id(p): bits(p) for m in trained for p in m.parameters() if id(p) not in moved}
    head = {id(p) for p in list(D.parameters())[-2:]}  # scaled and shifted at the hand-over
    norms = [
        (norm, bits(norm.running_mean), bits(norm.running_var))
        for m in (G, D)
        for norm in m.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and m.training and not norm.training
    ]
    before = Snapshot(G, D, loader=loader)
    with pytest.MonkeyPatch.context() as patch:
        if place in ("write", "Ctrl-C"):
            patch.setattr(torch.Tensor, "copy_", copy_)
        result = caught = None
        try:
            result = warm(G, D, loader, **given)
        except BaseException as raised:
            caught = raised
    if isinstance(caught, CoopInitError) and "cannot be copied and written to" in str(caught):
        assert any(name.endswith("refused") for m in (G, D) for name, _ in m.named_buffers())
        before.assert_unchanged()
    elif isinstance(caught, CoopInitError) and "holds the original" in str(caught):
        assert wraps, caught
        before.assert_unchanged()
    elif caught is not None:
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
        for norm, mean, variance in norms:
            assert (bits(norm.running_mean), bits(norm.running_var)) == (mean, variance)
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
