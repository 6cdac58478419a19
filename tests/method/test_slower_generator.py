"""G's layers get larger wherever that leaves its samples as they are; elsewhere they stay untouched, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import WEIGHT_NORMS, conv_pair, hooks, images, mlp_pair, vectors
from networks import Z as CONV_Z
from snapshot import Snapshot
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin import Adapter, WarmStartConfig, warm_start
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.method.output_layers import ALIKE
from coopinit_plugin.method.slower_generator import SLOWER, STEADY, follows_a_source, layer_sizes, slowed_generator
from coopinit_plugin.method.stopping import GOAL

INPUTS, WIDTH = 6, 8
Z = torch.randn(32, INPUTS, generator=torch.Generator().manual_seed(0))


def body(*between: nn.Module, wrap=lambda layer: layer) -> nn.Sequential:
    """Two layers with `between` behind the first one, and a last layer."""
    return nn.Sequential(
        *(wrap(nn.Linear(INPUTS, WIDTH)), *between, nn.LeakyReLU(0.2)),
        *(wrap(nn.Linear(WIDTH, WIDTH)), nn.ReLU(), nn.Linear(WIDTH, 2)),
    )


def seen(G: nn.Module) -> nn.Module:
    """G after a few passes: running statistics, singular vectors."""
    G.train()
    with torch.no_grad():
        for _ in range(50):
            G(Z)
    return G


def slow(G: nn.Module, slower: float = 4.0) -> int:
    return slowed(G, GOAL * (SLOWER / slower) ** 0.5)


def slowed(G: nn.Module, distance: float | None, penalised: bool = False) -> int:
    return slowed_generator(bound(G, mlp_pair()[1], hooks()), Z, None, layer_sizes(G), distance, penalised) or 0


def latents() -> torch.Tensor:
    return torch.randn(32, CONV_Z, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def samples_of(G: nn.Module) -> torch.Tensor:
    return G.train()(latents())


@torch.no_grad()
def samples(G: nn.Module) -> list[torch.Tensor]:
    """Those of both modes."""
    return [G.train(mode)(Z) for mode in (True, False)]


FREE = {
    "BatchNorm": lambda: body(nn.BatchNorm1d(WIDTH)),
    "LayerNorm": lambda: body(nn.LayerNorm(WIDTH)),
    "spectral norm": lambda: body(wrap=parametrizations.spectral_norm),
    "old spectral norm": lambda: body(wrap=torch.nn.utils.spectral_norm),
}


@pytest.mark.parametrize("name", FREE)
def test_layers_get_larger_and_the_samples_stay(name):
    torch.manual_seed(0)
    G = seen(FREE[name]())
    G.eval()  # a spectral norm's vectors stand still
    sizes, before = layer_sizes(G), samples(G.eval())[1]
    changed = slow(G)
    assert changed == (2 if "spectral" in name else 1)
    after = samples(G)[1]
    assert float((after - before).abs().max()) <= changed * ALIKE * float(before.std())
    assert layer_sizes(G)[:changed] == pytest.approx([4 * size for size in sizes[:changed]], rel=1e-3)
    assert layer_sizes(G)[changed:] == sizes[changed:]


@pytest.mark.parametrize(("distance", "share"), [(None, 0.0), (0.1, 1.0), (2 * GOAL, 0.25), (9.0, 0.0)])
@pytest.mark.parametrize("penalised", [True, False])
def test_the_farther_the_warm_up_ended_the_less_g_is_slowed(distance, share, penalised):
    torch.manual_seed(0)
    slower = max(1.0, share * (STEADY if penalised else SLOWER))
    G = seen(nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)))
    sizes, before = layer_sizes(G), samples(G)
    assert slowed(G, distance, penalised) == 2 * (slower > 1)
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(samples(G), before, strict=True))
    assert layer_sizes(G)[0] == pytest.approx(slower * sizes[0], rel=1e-3)
    assert (layer_sizes(G)[1] > 1.05 * sizes[1]) == (slower > 1)


def test_the_last_layer_gets_as_large_as_what_it_is_given():
    G = conv_pair()[0]
    before = samples_of(G)
    gain, last = G[2].weight, G[4].weight
    assert slowed_generator(bound(G, conv_pair()[1], hooks()), latents(), None, layer_sizes(G), GOAL, False) == 2
    torch.testing.assert_close(samples_of(G), before, atol=1e-3, rtol=1e-3)
    rms = [float(values.square().mean().sqrt()) for values in (last, gain)]
    assert rms[0] == pytest.approx(rms[1] / 2**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("a tanh, through which no factor passes", [nn.BatchNorm1d(WIDTH), nn.Tanh()]),
        ("a normalisation without gains", [nn.BatchNorm1d(WIDTH, affine=False), nn.ReLU()]),
        ("another layer", [nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.Softplus()]),
    ],
)
def test_behind_other_layers_the_last_one_stays(name, between):
    torch.manual_seed(0)
    G = seen(nn.Sequential(nn.Linear(INPUTS, WIDTH), *between, nn.Linear(WIDTH, 2)))
    last = G[-1].weight.clone()
    assert slow(G) == 1, name
    assert torch.equal(G[-1].weight, last)


def test_a_layer_under_a_frozen_bias_stays_as_it_is():
    G = seen(FREE["BatchNorm"]())
    G[0].bias.requires_grad_(False)
    before = Snapshot(G)
    assert slow(G) == 0
    before.assert_unchanged()


class Residual(nn.Module):
    """x + B relu(A x): what follows A is no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, INPUTS), nn.Linear(INPUTS, 2)

    def forward(self, x):
        return self.head(torch.relu(x + self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    "G",
    [
        body(),
        nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)),
        nn.Linear(INPUTS, 2),
        Residual(),
        nn.Sequential(body(nn.BatchNorm1d(WIDTH)), nn.Linear(2, 2), nn.Hardtanh(5.0, 6.0)),
    ],
    ids=["no normalisation", "tanh", "one layer", "residual block", "samples that are all the same"],
)
def test_if_nothing_makes_up_for_it_or_can_prove_it_nothing_is_changed(G):
    seen(G)
    before = Snapshot(G)
    assert slow(G) == 0
    before.assert_unchanged()


@st.composite
def stacks(draw):
    """Layers, activations and norms in any order."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        layer = nn.Linear(INPUTS, INPUTS, bias=draw(st.booleans()))
        kind = draw(st.sampled_from(["plain", "plain", *WEIGHT_NORMS]))
        layers.append(WEIGHT_NORMS[kind](layer) if kind in WEIGHT_NORMS else layer)
        norm = draw(st.sampled_from([nn.Identity, nn.BatchNorm1d, nn.BatchNorm1d, nn.LayerNorm]))
        layers.append(norm() if norm is nn.Identity else norm(INPUTS))
        layers.append(draw(st.sampled_from([nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.SiLU, nn.Identity]))())
    return nn.Sequential(*layers, nn.Linear(INPUTS, 2))


@given(G=stacks(), by=st.floats(1.5, 64.0), seed=st.integers(0, 100))
def test_whatever_g_is_its_samples_move_by_no_more_than_is_allowed(G, by, seed):
    torch.manual_seed(seed)
    G = seen(G).eval()
    before = samples(G)[1]
    changed = slow(G, by)
    after = samples(G)[1]
    allowed = changed * ALIKE * float(before.std(correction=0))
    assert float((after - before).abs().max()) <= allowed * 1.01 + 1e-6
    assert all(not module._forward_hooks for module in G)


def test_under_batch_norm_a_layer_goes_as_far_as_epsilon_lets_it():
    """A dominant ε: no weight of the norm makes up for it in every batch and in evaluation mode."""
    torch.manual_seed(0)
    G = body(nn.BatchNorm1d(WIDTH, eps=0.05))
    with torch.no_grad():
        G[0].weight.mul_(0.3)
        seen(G)
        G[1].running_var.mul_(0.3)
    size, before = layer_sizes(G)[0], samples(G)
    assert slow(G, 20.0) == 1
    assert 1.1 * size < layer_sizes(G)[0] < 19 * size
    for now, was in zip(samples(G), before, strict=True):
        assert float((now - was).abs().max()) <= ALIKE * float(was.std())


class Unseen(nn.Module):
    """Layers whose call no hook sees: run by `forward`, as in old wrappers for spectral norm, and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.spectral_norm(nn.Linear(INPUTS, WIDTH))
        self.rest = nn.ParameterList([nn.Parameter(torch.randn(WIDTH, WIDTH) / 3), nn.Parameter(torch.randn(2, WIDTH))])

    def forward(self, x):
        hidden = torch.tanh(nn.Linear.forward(self.first, x))
        return torch.tanh(hidden @ self.rest[0].T) @ self.rest[1].T


def test_layers_whose_call_cannot_be_seen_get_larger_if_they_are_normalised_themselves():
    torch.manual_seed(0)
    G = seen(Unseen()).eval()
    sizes, before = layer_sizes(G), samples(G)[1]
    assert slow(G) == 1
    torch.testing.assert_close(samples(G)[1], before, atol=1e-3, rtol=1e-3)
    shares = sorted(now / size for now, size in zip(layer_sizes(G), sizes, strict=True))
    assert shares == pytest.approx([1.0, 1.0, 4.0], rel=1e-3)


@pytest.mark.parametrize(("source", "number"), [(True, 0), (False, 2)])
def test_a_g_that_translates_keeps_its_speed(source, number):
    G = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)
    )
    D = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1))
    pairs = [{"A": torch.randn(16, 1, 8, 8), "B": torch.randn(16, 1, 8, 8)} for _ in range(4)]
    adapter = Adapter(
        real=lambda batch: batch["B"], latent=lambda n, device, batch: batch["A"] if source else torch.randn(n, 1, 8, 8)
    )
    enough = WarmStartConfig(iterations=64)  # for a reading of the distance
    result = warm_start(G, D, pairs, handover="hinge", config=enough, adapter=adapter, progress=False)
    assert result.summary["layers_slowed"] == number


@pytest.mark.parametrize(("given", "told"), [({}, True), ({"r1": 1.0}, False), ({"handover": "wgan"}, False)])
def test_a_g_that_cannot_be_slowed_is_told_of_unless_a_penalty_follows(given, told, caplog):
    G = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 2))
    config = WarmStartConfig(**{"iterations": 128, "handover": "logistic", **given})
    adapter = Adapter(latent=lambda n, device, batch: torch.randn(n, INPUTS))
    warm_start(G, mlp_pair()[1], vectors(4, 64), config=config, adapter=adapter, progress=False)
    assert ("Divide G's learning rate there by 16, or add an R1 penalty" in caplog.text) == told


def test_labels_and_codes_beside_the_noise_are_no_source():
    noise, again = torch.randn(4, 8, 1, 1), torch.randn(4, 8, 1, 1)
    labels, one_hot, image = torch.arange(4), torch.eye(4), torch.randn(4, 1, 8, 8)
    for beside in (labels, one_hot, "a word", None):
        assert not follows_a_source((noise, beside), (again, beside))
    assert follows_a_source((noise, image), (again, image))
    assert not follows_a_source([noise], [again, noise])  # as mixing regularisation draws them


@pytest.mark.parametrize(("handover", "some"), [("none", False), ("logistic", True)])
def test_without_a_hand_over_g_stays_as_the_warm_up_made_it(handover, some):
    config = WarmStartConfig(iterations=64, handover=handover)
    result = warm_start(*conv_pair(), images(8, 64), config=config, adapter=hooks(), progress=False)
    assert (result.summary["layers_slowed"] > 0) == some


def test_layers_that_d_shares_stay_as_they_are():
    torch.manual_seed(0)
    G = FREE["BatchNorm"]()
    D = nn.Sequential(nn.Linear(2, INPUTS), G[0], nn.ReLU(), nn.Linear(WIDTH, 1))
    config = WarmStartConfig(iterations=64, handover="logistic")
    adapter = Adapter(latent=lambda n, device, batch: torch.randn(n, INPUTS))
    result = warm_start(G, D, [torch.randn(32, 2) for _ in range(4)], config=config, adapter=adapter, progress=False)
    assert result.summary["layers_slowed"] == 0


def test_sizes_are_the_largest_singular_values_whatever_their_scale():
    for scale in (1e-25, 1.0, 1e25):
        layer = nn.Linear(INPUTS, WIDTH)
        with torch.no_grad():
            layer.weight.mul_(scale)
        assert layer_sizes(layer) == pytest.approx(
            [float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))], rel=1e-5
        )
