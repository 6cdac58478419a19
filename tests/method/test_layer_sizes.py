"""D's layers as large as they were, wherever that leaves its logits as they are; elsewhere untouched, bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import WEIGHT_NORMS
from snapshot import Snapshot
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, warm_start
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.layer_sizes import ALIKE, layer_sizes, set_sizes

INPUTS, WIDTH = 6, 8
X = torch.randn(32, INPUTS, generator=torch.Generator().manual_seed(0))


def body(*between: nn.Module, wrap=lambda layer: layer) -> nn.Sequential:
    """Two layers with `between` behind the first one, and a last layer."""
    return nn.Sequential(
        wrap(nn.Linear(INPUTS, WIDTH)),
        *between,
        nn.LeakyReLU(0.2),
        wrap(nn.Linear(WIDTH, WIDTH)),
        nn.ReLU(),
        nn.Linear(WIDTH, 1),
    )


class Residual(nn.Module):
    """x + B relu(A x): A's size is free, the block's is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, INPUTS), nn.Linear(INPUTS, 1)

    def forward(self, x):
        return self.head(torch.relu(x + self.b(torch.relu(self.a(x)))))


def logits(D: nn.Module) -> torch.Tensor:
    return D(X).flatten()


def grown(D: nn.Module, by: float = 2.5) -> list[float]:
    """The sizes of D before its layers grew."""
    D.train()
    with torch.no_grad():
        for _ in range(20):
            D(X)  # running statistics, singular vectors
    D.eval()
    sizes = layer_sizes(D)
    with torch.no_grad():
        for parameter in D.parameters():
            parameter.mul_(by)
        D.train()
        for _ in range(100):
            D(X)
    D.eval()
    return sizes


FREE = {
    "no normalisation": body,
    "BatchNorm": lambda: body(nn.BatchNorm1d(WIDTH)),
    "LayerNorm": lambda: body(nn.LayerNorm(WIDTH)),
    "spectral norm": lambda: body(wrap=parametrizations.spectral_norm),
    "old spectral norm": lambda: body(wrap=torch.nn.utils.spectral_norm),
}


@pytest.mark.parametrize("name", FREE)
def test_layers_get_their_size_and_the_logits_stay(name):
    torch.manual_seed(0)
    D = FREE[name]()
    sizes = grown(D)
    with torch.no_grad():
        before = logits(D)
        changed = set_sizes(D, sizes, [lambda: logits(D)])
        moved = logits(D) - before
    assert changed == 2
    assert float(moved.abs().max()) <= 2 * ALIKE * float(before.std())
    assert layer_sizes(D)[:2] == pytest.approx(sizes[:2], rel=1e-3)


@pytest.mark.parametrize(
    "D",
    [
        nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)),
        nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, 1), nn.Sigmoid()),
        nn.Linear(INPUTS, 1),
        Residual(),
    ],
    ids=["tanh", "sigmoid", "one layer", "residual block"],
)
def test_where_no_layer_can_make_up_for_it_nothing_is_changed(D):
    sizes = grown(D, by=1.5)
    before = Snapshot(D)
    assert set_sizes(D, sizes, [lambda: logits(D)]) == 0
    before.assert_unchanged()


def test_what_has_hardly_grown_stays_as_it_is():
    D = body()
    sizes = layer_sizes(D)
    with torch.no_grad():
        D[0].weight.mul_(1.09)
    before = Snapshot(D)
    assert set_sizes(D, sizes, [lambda: logits(D)]) == 0
    before.assert_unchanged()


def test_a_layer_that_started_at_zero_or_is_frozen_stays_as_it_is():
    D = body()
    sizes = layer_sizes(D)
    with torch.no_grad():
        D[0].weight.mul_(3)
        D[2].weight.mul_(3)
    D[0].weight.requires_grad_(False)
    before = Snapshot(D)
    assert set_sizes(D, [0.0, sizes[2]], [lambda: logits(D)]) == 0
    before.assert_unchanged()


@st.composite
def stacks(draw):
    """Layers, activations and norms in any order."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        layer = nn.Linear(INPUTS, INPUTS, bias=draw(st.booleans()))
        kind = draw(st.sampled_from(["plain", "plain", *WEIGHT_NORMS]))
        layers.append(WEIGHT_NORMS[kind](layer) if kind in WEIGHT_NORMS else layer)
        norm = draw(st.sampled_from([nn.Identity, nn.Identity, nn.BatchNorm1d, nn.LayerNorm]))
        layers.append(norm() if norm is nn.Identity else norm(INPUTS))
        layers.append(draw(st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.SiLU, nn.Identity]))())
    return nn.Sequential(*layers, nn.Linear(INPUTS, 1))


@given(D=stacks(), by=st.floats(0.3, 4.0), seed=st.integers(0, 100))
def test_whatever_d_is_its_logits_move_by_no_more_than_is_allowed(D, by, seed):
    torch.manual_seed(seed)
    sizes = grown(D, by)
    with torch.no_grad():
        before = logits(D)
        changed = set_sizes(D, sizes, [lambda: logits(D)])
        moved = logits(D) - before
    allowed = changed * ALIKE * float(before.std(correction=0))
    assert float(moved.abs().max()) <= allowed * 1.01 + 1e-6
    assert all(not module._forward_hooks for module in D)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_last_layer_keeps_what_is_left_over_unless_it_is_normalised(normalised):
    wrap = parametrizations.spectral_norm if normalised else (lambda layer: layer)
    D = body(wrap=wrap)
    D[-1] = wrap(nn.Linear(WIDTH, 1))
    sizes = grown(D)
    set_sizes(D, sizes, [lambda: logits(D)])
    share = layer_sizes(D)[2] / sizes[2]
    assert share == pytest.approx(1.0, rel=1e-3) if normalised else share > 2.5


class Unseen(nn.Module):
    """Layers whose call no hook sees: run by `forward`, as in old wrappers for spectral norm, and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.spectral_norm(nn.Linear(INPUTS, WIDTH))
        self.rest = nn.ParameterList([nn.Parameter(torch.randn(WIDTH, WIDTH) / 3), nn.Parameter(torch.randn(1, WIDTH))])

    def forward(self, x):
        hidden = torch.tanh(nn.Linear.forward(self.first, x))
        return torch.tanh(hidden @ self.rest[0].T) @ self.rest[1].T


def test_layers_whose_call_cannot_be_seen_get_their_size_where_they_are_normalised_themselves():
    torch.manual_seed(0)
    D = Unseen()
    sizes = grown(D)
    with torch.no_grad():
        before = logits(D)
        assert set_sizes(D, sizes, [lambda: logits(D)]) == 1
        torch.testing.assert_close(logits(D), before)
    matrices = [name for name, parameter in D.named_parameters() if parameter.ndim > 1]
    share = dict(zip(matrices, (now / size for now, size in zip(layer_sizes(D), sizes, strict=True)), strict=True))
    assert share.pop("first.parametrizations.weight.original") == pytest.approx(1.0, rel=1e-3)
    assert list(share.values()) == pytest.approx([2.5, 2.5], rel=1e-3)


@pytest.mark.parametrize("handover", ["logistic", "none"])
def test_a_warm_up_of_a_d_whose_layers_cannot_be_seen_goes_through(handover):
    torch.manual_seed(0)
    G, D = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, INPUTS)), Unseen()
    config = WarmStartConfig(iterations=2, handover=handover)
    result = warm_start(G, D, [torch.randn(32, INPUTS) for _ in range(4)], config=config, progress=False)
    assert result.summary["layers_resized"] == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches_are_judged_together(batch):
    """A single logit has no standard deviation, so that nothing would be proved by it."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, INPUTS))
    D = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
    config = WarmStartConfig(iterations=60, lr_discriminator=1e-2, handover="logistic")
    data = [torch.randn(batch, INPUTS) for _ in range(50)]
    sizes = layer_sizes(D)
    result = warm_start(G, D, data, config=config, progress=False)
    assert max(now / size for now, size in zip(layer_sizes(D), sizes, strict=True)) > 1.2
    assert result.summary["layers_resized"] == 0


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_where_all_logits_are_the_same_nothing_is_proved_and_nothing_changed(shift):
    D = body()
    sizes = grown(D)
    with torch.no_grad():
        D[0].weight.mul_(1e-12)
        D[-1].bias.add_(shift)
    before = Snapshot(D)
    assert set_sizes(D, [1.0, *sizes[1:]], [lambda: logits(D)]) == 0
    before.assert_unchanged()


def test_logits_must_not_be_shifted_which_no_hand_over_could_undo_without_a_last_bias():
    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, 1, bias=False)
            self.offset = nn.Embedding(1, WIDTH)

        def forward(self, x):
            offset = self.offset(torch.zeros(len(x), dtype=torch.long))
            return self.head(torch.relu(self.body(x) + 10)) + self.head(offset)

    D = Offset()
    sizes = layer_sizes(D)
    with torch.no_grad():
        D.offset.weight.mul_(3)
    before = Snapshot(D)
    assert set_sizes(D, sizes, [lambda: logits(D)]) == 0
    before.assert_unchanged()


def test_with_batch_norm_the_logits_on_the_batchs_own_statistics_count_too():
    """Where the running statistics are not those of the data, one of the two would move."""
    torch.manual_seed(0)
    D = body(nn.BatchNorm1d(WIDTH, eps=0.5))
    sizes = grown(D)
    with torch.no_grad():
        D[1].running_var.mul_(1e-2)

    def on_own_statistics() -> torch.Tensor:
        with kept(training(D[1]), buffers(D[1])):
            D[1].train()
            return logits(D)

    with torch.no_grad():
        before = on_own_statistics()
        set_sizes(D, sizes, [lambda: logits(D), on_own_statistics])
        moved = on_own_statistics() - before
    assert float(moved.abs().max()) <= 2 * ALIKE * float(before.std())


def test_under_batch_norm_a_layer_goes_as_far_as_epsilon_lets_it():
    """Two batches of other statistics: no weight of the norm makes up for a dominant ε in both."""
    torch.manual_seed(0)
    D = body(nn.BatchNorm1d(WIDTH, eps=0.05))
    with torch.no_grad():
        D[0].weight.mul_(0.3)
    sizes = grown(D, by=6.0)
    big = layer_sizes(D)[0]

    def on(samples: torch.Tensor) -> torch.Tensor:
        with kept(training(D[1]), buffers(D[1])):
            D[1].train()
            return D(samples).flatten()

    calls = [lambda: logits(D), lambda: on(X), lambda: on(X * torch.linspace(0.2, 1.0, INPUTS))]
    with torch.no_grad():
        before = [f() for f in calls]
        assert set_sizes(D, sizes, calls) >= 1
        moved = [float((f() - old).abs().max() / old.std(correction=0)) for f, old in zip(calls, before, strict=True)]
    assert sizes[0] * 1.1 < layer_sizes(D)[0] < 0.9 * big
    assert max(moved) <= 2 * ALIKE  # of this layer and the next


def test_after_a_warm_up_they_have_their_size():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, INPUTS))
    D = body()
    sizes = layer_sizes(D)
    config = WarmStartConfig(iterations=60, lr_discriminator=3e-2, handover="logistic")
    result = warm_start(G, D, [torch.randn(32, INPUTS) for _ in range(4)], config=config, progress=False)
    assert result.summary["layers_resized"] >= 1
    assert layer_sizes(D)[:2] == pytest.approx(sizes[:2], rel=0.11)


def test_without_a_hand_over_d_stays_as_the_warm_up_made_it():
    torch.manual_seed(0)
    G, D = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, INPUTS)), body()
    sizes = layer_sizes(D)
    config = WarmStartConfig(iterations=60, lr_discriminator=3e-2, handover="none")
    result = warm_start(G, D, [torch.randn(32, INPUTS) for _ in range(4)], config=config, progress=False)
    assert result.summary["layers_resized"] == 0
    assert any(abs(now / size - 1) > 0.11 for now, size in zip(layer_sizes(D)[:2], sizes[:2], strict=True))


def test_layers_that_g_shares_stay_as_they_are():
    torch.manual_seed(0)
    D = body()
    G = nn.Sequential(nn.Linear(4, INPUTS), D[0], nn.ReLU(), nn.Linear(WIDTH, INPUTS))
    config = WarmStartConfig(iterations=60, lr_discriminator=1e-2, handover="logistic")
    result = warm_start(G, D, [torch.randn(32, INPUTS) for _ in range(4)], config=config, progress=False)
    assert result.summary["layers_resized"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_d_that_ends_not_finite_is_refused_in_words_and_nothing_is_changed(value):
    torch.manual_seed(0)
    G, D = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, INPUTS)), body()
    data = [torch.randn(32, INPUTS) for _ in range(4)]
    before, calls = Snapshot(G, D), itertools.count()

    def spoil(D: nn.Module) -> None:
        if next(calls):  # the first call proves that it may be called
            with torch.no_grad():
                D[0].weight.fill_(value)

    config = WarmStartConfig(iterations=1, handover="logistic")
    with pytest.raises(CoopInitError, match=r"The warm-up left D's 0\.weight not finite.*Your networks are untouched"):
        warm_start(G, D, data, config=config, adapter=Adapter(after_d_step=spoil), progress=False)
    before.assert_unchanged()


def test_sizes_are_the_largest_singular_values_whatever_their_scale():
    for scale in (1e-25, 1.0, 1e25):
        layer = nn.Linear(INPUTS, WIDTH)
        with torch.no_grad():
            layer.weight.mul_(scale)
        assert layer_sizes(layer) == pytest.approx(
            [float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))], rel=1e-5
        )
