"""What the hand-over does to G, the one word for the loss, and the hand-over alone."""

from __future__ import annotations

import pytest
import torch
from networks import conv_pair, hooks, images, mlp_pair, short, vectors
from torch import nn

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, warm_start
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.method.hand_over import SLOWER, STEADY, follows_a_source, slowed_generator
from coopinit_plugin.method.layer_sizes import layer_sizes
from coopinit_plugin.method.stopping import GOAL


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize(("distance", "share"), [(None, 0.0), (0.1, 1.0), (2 * GOAL, 0.25), (9.0, 0.0)])
@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gs_layers_before_a_norm_get_larger_and_its_samples_stay(training, penalised, distance, share):
    slower = max(1.0, share * (STEADY if penalised else SLOWER))
    G = normed()
    G(torch.randn(64, 3))  # running statistics
    z = torch.randn(64, 3)
    sizes = layer_sizes(G)
    with torch.no_grad():
        before = G.train(training)(z)
        assert slowed_generator(bound(G, mlp_pair()[1], hooks()), z, None, sizes, distance, penalised) == (slower > 1)
        assert torch.allclose(G.train(training)(z), before, atol=1e-2)
    assert layer_sizes(G) == pytest.approx([slower * sizes[0], sizes[1]], rel=1e-3)


def test_a_g_without_norms_and_frozen_parameters_stay_as_they_are():
    G = mlp_pair()[0]
    values = [p.clone() for p in G.parameters()]
    z = torch.randn(64, 3)
    assert slowed_generator(bound(G, mlp_pair()[1], hooks()), z, None, layer_sizes(G), 0.1, False) == 0
    assert all(map(torch.equal, values, G.parameters()))
    frozen = normed()
    frozen[0].bias.requires_grad_(False)
    assert slowed_generator(bound(frozen, mlp_pair()[1], hooks()), z, None, layer_sizes(frozen), 0.1, False) == 0


@pytest.mark.parametrize(("source", "slowed"), [(True, 0), (False, 1)])
def test_a_g_that_translates_keeps_its_speed(source, slowed):
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
    assert result.summary["layers_slowed"] == slowed


def test_labels_and_codes_beside_the_noise_are_no_source():
    noise, again = torch.randn(4, 8, 1, 1), torch.randn(4, 8, 1, 1)
    labels, one_hot, image = torch.arange(4), torch.eye(4), torch.randn(4, 1, 8, 8)
    for beside in (labels, one_hot, "a word", None):
        assert not follows_a_source((noise, beside), (again, beside))
    assert follows_a_source((noise, image), (again, image))
    assert not follows_a_source([noise], [again, noise])  # as mixing regularisation draws them


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        *(("bce", "logistic"), ("NS", "logistic"), ("mse", "least_squares"), ("lsgan", "least_squares")),
        *(("wgan-gp", "wasserstein"), ("WGAN GP", "wasserstein"), ("hinge", "hinge"), ("none", "none")),
    ],
)
def test_the_words_that_people_type_are_understood(word, ours):
    assert WarmStartConfig(handover=word).handover == ours
    result = warm_start(*mlp_pair(), vectors(), handover=word, config=short(), adapter=hooks(), progress=False)
    assert result.config.handover == ours


def test_the_word_is_said_once():
    given = {"adapter": hooks(), "progress": False}
    with pytest.raises(CoopInitError, match=r"handover='hinge' was given, but config=.*'logistic'.*one of the two"):
        warm_start(*mlp_pair(), vectors(), handover="hinge", config=short(handover="logistic"), **given)
    warm_start(*mlp_pair(), vectors(), handover="bce", config=short(handover="logistic"), **given)
    with pytest.raises(CoopInitError, match="did you mean 'hinge'"):
        warm_start(*mlp_pair(), vectors(), handover="hing", **given)


@pytest.mark.parametrize(("make", "data", "last"), [(mlp_pair, vectors, "2."), (conv_pair, images, "5.0.")])
def test_the_hand_over_alone_moves_scale_and_shift_of_ds_output(make, data, last, tmp_path):
    G, D = make()
    before_g, before_d = ({k: v.clone() for k, v in net.state_dict().items()} for net in (G, D))
    result = warm_start(G, D, data(), handover="hinge", config=WarmStartConfig(iterations=0), progress=False)
    assert [k for k, v in G.state_dict().items() if not torch.equal(v, before_g[k])] == []
    changed = {k for k, v in D.state_dict().items() if not torch.equal(v, before_d[k])}
    assert changed == {f"{last}weight", f"{last}bias"}
    assert (result.history, result.summary["iterations"]) == ([], 0)
    result.save_pretrained(tmp_path / "init")
