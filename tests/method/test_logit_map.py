"""The hand-over: the affine map of D's logits under which the loss that follows is smallest."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from networks import Z, hooks, mlp_pair, short, vectors
from torch import nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits, softplus

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, infer_sign, warm_start
from coopinit_plugin.calling.adapter import following_loss
from coopinit_plugin.method.logit_map import LOSSES, Affine, critic_scale, line_search, unit_scale

SMALLEST, WIDEST = 0.05, 12.0  # standard deviations that the logits may get
FURTHEST = 4.0  # how far from 0 their means may lie


def gaussians(real=(1.0, 1.0), fake=(-1.0, 1.0), n=256) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, std) each, as exactly as n quantiles can have them: no sampling noise."""
    normal = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return real[0] + real[1] * normal, fake[0] + fake[1] * normal.flip(0)


def mapped(affine: Affine, f: torch.Tensor) -> torch.Tensor:
    return affine.scale * (f + affine.shift)


def spread(real, fake) -> float:
    return float((real.std(correction=0) + fake.std(correction=0)) / 2)


def brute_force(loss, real, fake) -> float:
    """The smallest loss on a dense grid of maps, written as slope and offset."""
    least = math.inf
    for std in torch.logspace(math.log10(SMALLEST), math.log10(WIDEST), 80):
        slope = min(float(std) / spread(real, fake), 2 * FURTHEST / abs(float(real.mean() - fake.mean())))
        middle = slope * float(real.mean() + fake.mean()) / 2
        for offset in torch.linspace(-1.5, 1.5, 61):
            bias = -middle + float(offset) * max(float(std), 1.0)
            least = min(least, float(loss(slope * real + bias, slope * fake + bias).mean()))
    return least


CLOUDS = {
    "apart": gaussians((1.0, 0.5), (-1.0, 0.5)),
    "touching": gaussians((0.5, 1.0), (-0.5, 1.0)),
    "small and far from 0": gaussians((7.03, 0.02), (7.0, 0.02)),
    "of two widths": gaussians((0.2, 0.1), (-0.1, 0.3)),
    "large": gaussians((300.0, 200.0), (-100.0, 150.0)),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("kind", ["logistic", "hinge", "least_squares", "relativistic"])
def test_no_map_is_better(kind, cloud):
    real, fake = CLOUDS[cloud]
    loss = LOSSES[kind]
    found = line_search(loss, real, fake)
    reached = float(loss(mapped(found, real), mapped(found, fake)).mean())
    assert reached <= brute_force(loss, real, fake) * 1.002 + 1e-6
    assert SMALLEST * 0.999 <= found.scale * spread(real, fake) <= WIDEST * 1.001


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (0.02, 0.03), (30.0, 25.0)])
def test_the_logistic_optimum_of_two_gaussians_is_their_log_likelihood_ratio(mean, std):
    """log N(f; m, s²) / N(f; −m, s²) = 2m/s²·f, about the middle of the two means."""
    real, fake = gaussians((4 + mean, std), (4 - mean, std))
    found = line_search(LOSSES["logistic"], real, fake)
    assert found.scale == pytest.approx(2 * mean / std**2, rel=0.1)  # flat around the best
    assert mapped(found, torch.tensor(4.0)) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("mean", [0.5, 2.0, 4.0])
def test_least_squares_is_a_regression_on_one_and_zero(mean):
    real, fake = gaussians((3 + mean, 1.0), (3 - mean, 1.0))
    found = line_search(LOSSES["least_squares"], real, fake)
    f = torch.cat([real, fake])
    targets = torch.cat([torch.ones(256), torch.zeros(256)]).double()
    slope = float(((f - f.mean()) * (targets - targets.mean())).mean() / f.var(correction=0))
    slope = max(slope, SMALLEST)
    assert found.scale == pytest.approx(slope, rel=0.1)
    assert mapped(found, torch.tensor(3.0)) == pytest.approx(0.5, abs=0.02)


def test_least_squares_leaves_logits_of_std_one_half_about_one_half():
    real, fake = gaussians((0.08, 0.02), (-0.08, 0.02))
    found = line_search(LOSSES["least_squares"], real, fake)
    logits = torch.cat([mapped(found, real), mapped(found, fake)])
    assert float(logits.std()) == pytest.approx(0.5, abs=0.05)
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)


def test_logits_told_apart_are_scaled_to_the_widest_and_no_further():
    real, fake = CLOUDS["apart"]
    for kind in ("logistic", "relativistic"):
        assert line_search(LOSSES[kind], real * 9, fake * 9).scale * spread(real, fake) * 9 <= WIDEST * 1.001


def test_the_answer_does_not_depend_on_where_the_logits_were():
    real, fake = CLOUDS["touching"]
    one = line_search(LOSSES["hinge"], real, fake)
    two = line_search(LOSSES["hinge"], real * 1e-3 + 50, fake * 1e-3 + 50)
    assert mapped(one, real)[::25].tolist() == pytest.approx(mapped(two, real * 1e-3 + 50)[::25].tolist(), abs=1e-2)


def test_a_wasserstein_loss_has_no_best_scale():
    for cloud in CLOUDS.values():
        found = line_search(lambda real, fake: fake.mean() - real.mean(), *cloud)
        assert found == unit_scale(*cloud)
        assert spread(mapped(found, cloud[0]), mapped(found, cloud[1])) == pytest.approx(1.0)
        assert float(mapped(found, torch.cat(cloud)).mean()) == pytest.approx(0.0, abs=1e-6)


def test_a_wasserstein_loss_with_a_penalty_has_one():
    real, fake = CLOUDS["touching"]

    def penalised(real, fake):
        return fake.mean() - real.mean() + 0.5 * (real.square().mean() + fake.square().mean())

    found = line_search(penalised, real, fake)
    assert found != unit_scale(real, fake)
    assert float(penalised(mapped(found, real), mapped(found, fake))) <= brute_force(penalised, real, fake) + 1e-3


@pytest.mark.parametrize("kind", ["logistic", "hinge", "relativistic"])
def test_a_penalty_on_the_gradient_keeps_the_logits_flat(kind):
    real, fake = CLOUDS["apart"]
    loss = LOSSES[kind]
    scales = []
    for penalty in (0.0, 0.02, 0.5):
        found = line_search(loss, real, fake, penalty=penalty)
        reached = float(loss(mapped(found, real), mapped(found, fake))) + penalty * found.scale**2
        best = min(
            float(loss(scale * real, scale * fake)) + penalty * scale**2  # the middle of both is 0
            for scale in torch.linspace(0.05, FURTHEST, 2000).tolist()  # their means are 1 and -1
        )
        assert reached <= best * 1.002
        scales.append(found.scale)
    assert scales[0] > 1.4 * scales[1] > 2.8 * scales[2]


def test_what_cannot_move_does_not():
    real, fake = gaussians((2.0, 0.1), (1.5, 0.1))
    loss = LOSSES["logistic"]
    assert line_search(loss, real, fake, shiftable=False).shift == 0
    assert line_search(loss, real, fake, scalable=False).scale == 1
    assert line_search(loss, real, fake, scalable=False, shiftable=False) == Affine(1.0, 0.0)
    shifted = line_search(loss, real, fake, scalable=False)
    best = min(
        float(loss(real + shift, fake + shift)) for shift in torch.linspace(-4, 4, 2001, dtype=torch.float64).tolist()
    )
    assert float(loss(mapped(shifted, real), mapped(shifted, fake))) <= best + 0.01


def test_scores_that_tell_nothing_do_no_harm():
    same = torch.full((64,), 0.25, dtype=torch.float64)
    for kind in LOSSES:
        found = line_search(LOSSES[kind], same, same)
        assert math.isfinite(found.scale)
        assert math.isfinite(found.shift)
    assert math.isfinite(unit_scale(same, same).scale)


# --- the user's own loss


def bce_loss(real, fake):
    criterion = nn.BCELoss()
    return criterion(real, torch.ones_like(real)) + criterion(fake, torch.zeros_like(fake))


OWN_LOGISTIC = {
    "BCEWithLogitsLoss": lambda real, fake: (
        binary_cross_entropy_with_logits(real, torch.ones_like(real))
        + binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    ),
    "BCELoss": bce_loss,
    "binary_cross_entropy": lambda real, fake: (
        binary_cross_entropy(real, torch.ones_like(real)) + binary_cross_entropy(fake, torch.zeros_like(fake))
    ),
    "logarithms of probabilities": lambda real, fake: -(torch.log(real) + torch.log(1 - fake)).mean(),
    "clamped logarithms": lambda real, fake: -(real.log().clamp(min=-100) + (1 - fake).log().clamp(min=-100)).mean(),
    "one loss a sample": lambda real, fake: softplus(-real) + softplus(fake),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("name", OWN_LOGISTIC)
def test_the_users_own_logistic_loss_gives_the_logistic_hand_over(name, cloud):
    adapter = Adapter(d_loss=OWN_LOGISTIC[name])
    kind, loss = following_loss("auto", adapter)
    assert kind == "d_loss"
    real, fake = CLOUDS[cloud]
    expected = LOSSES["logistic"]
    found = line_search(loss, real, fake)
    reached = float(expected(mapped(found, real), mapped(found, fake)))
    best = line_search(expected, real, fake)
    assert reached <= float(expected(mapped(best, real), mapped(best, fake))) * 1.01 + 1e-6


def test_a_loss_for_which_real_is_low_sees_ds_own_numbers():
    real, fake = CLOUDS["touching"]

    def upside_down(f_real, f_fake):
        return torch.relu(1 + f_real).mean() + torch.relu(1 - f_fake).mean()

    assert infer_sign(upside_down) is False
    _, loss = following_loss("auto", Adapter(d_loss=upside_down, real_is_high=False))
    assert float(loss(real, fake)) == pytest.approx(float(LOSSES["hinge"](real, fake)))
    assert line_search(loss, real, fake) == line_search(LOSSES["hinge"], real, fake)


@pytest.mark.parametrize("name", OWN_LOGISTIC)
def test_the_sign_is_told_by_the_loss(name):
    loss = OWN_LOGISTIC[name]
    assert infer_sign(loss) is True
    assert infer_sign(lambda real, fake: loss(fake, real)) is False


def test_the_sign_of_other_losses():
    for kind in LOSSES:
        assert infer_sign(LOSSES[kind]) is True
    assert infer_sign(lambda real, fake: fake.mean() - real.mean()) is True
    assert infer_sign(lambda real, fake: real.mean() - fake.mean()) is False


def test_an_error_in_the_users_loss_is_told():
    with pytest.raises(CoopInitError, match=r"d_loss failed.*IndexError: no such thing"):
        infer_sign(lambda real, fake: (_ for _ in ()).throw(IndexError("no such thing")))


# --- which loss follows


@pytest.mark.parametrize(
    ("asked", "adapter", "kind"),
    [
        ("auto", Adapter(), "unit"),
        ("auto", Adapter(ends_in_sigmoid=True), "logistic"),
        ("auto", Adapter(ends_in_sigmoid=True, d_loss=LOSSES["hinge"]), "d_loss"),
        ("none", Adapter(d_loss=LOSSES["hinge"]), "none"),
        ("hinge", Adapter(ends_in_sigmoid=True), "hinge"),
        ("least_squares", Adapter(d_loss=LOSSES["hinge"]), "least_squares"),
        ("wasserstein", Adapter(), "wasserstein"),
    ],
)
def test_which_loss_follows(asked, adapter, kind):
    found, loss = following_loss(asked, adapter)
    assert found == kind
    if kind in LOSSES:
        assert loss is LOSSES[kind]


# --- a critic with a gradient penalty


@pytest.mark.parametrize("gap", [3.0, 0.1, -1.0])
def test_critic_scale_minimises_the_penalised_loss(gap):
    real, fake = gaussians((gap, 0.5), (0.0, 0.5))
    norms = torch.rand(1000, dtype=torch.float64) * 0.2 + 0.05
    found = critic_scale(real, fake, norms)

    def loss(scale):
        return -scale * max(gap, 0.0) + 10 * float((scale * norms - 1).square().mean())

    scales = torch.linspace(0.01, 60, 6001, dtype=torch.float64).tolist()
    assert found.scale == pytest.approx(min(scales, key=loss), abs=0.02)
    assert mapped(found, torch.tensor(gap / 2)) == pytest.approx(0.0, abs=1e-9)


# --- the whole hand-over

KINDS = ("logistic", "hinge", "least_squares", "relativistic", "wasserstein", "auto")


@pytest.mark.parametrize(("kind", "real_is_high"), list(itertools.product(KINDS, (True, False))))
def test_only_an_affine_map_lies_between_with_and_without_hand_over(kind, real_is_high):
    G, D = mlp_pair()
    adapter = hooks(real_is_high=real_is_high)
    without_g, without_d = copy.deepcopy((G, D))
    warm_start(without_g, without_d, vectors(), config=short(handover="none"), adapter=adapter, progress=False)
    told = warm_start(G, D, vectors(), config=short(handover=kind), adapter=adapter, progress=False).summary
    for one, two in zip(G.parameters(), without_g.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(D[0].weight, without_d[0].weight)
    assert torch.equal(D[0].bias, without_d[0].bias)
    x = torch.randn(50, 2) * 5
    sign = 1 if real_is_high else -1
    with torch.no_grad():
        f, plain = sign * D(x), sign * without_d(x)
    assert torch.allclose(f, told["handover_scale"] * (plain + told["handover_shift"]), rtol=1e-4, atol=1e-4)
    assert told["handover_scale"] != 1


def test_the_logits_in_the_summary_are_those_of_the_discriminator_given_back():
    G, D = mlp_pair()
    data = vectors(32)  # 1024 samples: all that the hand-over looks at
    told = warm_start(G, D, data, config=short(handover="logistic", iterations=32), adapter=hooks(), progress=False)
    with torch.no_grad():
        f = D(torch.cat(data))
    assert told.summary["logit_real_mean"] == pytest.approx(float(f.mean()), rel=1e-3, abs=1e-4)
    assert told.summary["logit_real_std"] == pytest.approx(float(f.std(correction=0)), rel=1e-3)


def test_the_penalty_is_r1_on_real_samples():
    def warm(**given):
        G, D = mlp_pair()
        data = vectors(32)
        result = warm_start(G, D, data, config=short(handover="logistic", **given), adapter=hooks(), progress=False)
        x = data[0].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(D(x).sum(), x)
        return float(gradient.square().sum(1).mean()), result.summary["handover_scale"]

    steep, scale = warm()
    flat, smaller = warm(r1=100.0)
    assert smaller < scale / 2
    assert flat == pytest.approx(steep * (smaller / scale) ** 2, rel=1e-3)


def test_on_a_patch_map_the_penalty_is_on_the_sum_of_the_positions():
    def scale(positions: int, r1: float) -> float:
        G, D = mlp_pair()
        adapter = hooks(score=lambda D, x, z, batch: D(x).reshape(-1, 1, 1, 1).expand(-1, 1, 2, positions // 2))
        config = short(handover="logistic", r1=r1)
        return warm_start(G, D, vectors(32), config=config, adapter=adapter, progress=False).summary["handover_scale"]

    assert scale(8, 0.02) == pytest.approx(scale(4, 0.08), rel=1e-3)
    assert scale(8, 0.02) < 0.9 * scale(4, 0.02)


def test_hand_over_none_leaves_everything():
    told = warm_start(*mlp_pair(), vectors(), config=short(handover="none"), adapter=hooks(), progress=False).summary
    assert (told["handover"], told["handover_moved"]) == ("none", "")
    assert (told["handover_scale"], told["handover_shift"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("given", "asked"), [({}, True), ({"handover": "hinge"}, False), ({"handover": "none"}, False)]
)
def test_a_loss_that_is_not_known_is_asked_for(given, asked, caplog):
    warm_start(*mlp_pair(), vectors(), config=short(**given), adapter=hooks(), progress=False)
    assert ('warm_start(G, D, loader, handover="logistic")' in caplog.text) == asked
    assert ("whether D is high on real" in caplog.text) == (given != {"handover": "hinge"})


def test_a_last_layer_that_admits_nothing_is_told(caplog):
    G, D = mlp_pair()
    D[2] = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(8, 1, bias=False))
    D[0] = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(2, 8, bias=False))
    told = warm_start(G, D, vectors(), config=short(handover="hinge"), adapter=hooks(), progress=False).summary
    assert told["handover_moved"] == ""
    assert "No layer of D's alone was found" in caplog.text


def test_a_patch_maps_scores_are_fitted_position_by_position_as_the_users_loss_sees_them():
    """Positions that differ wildly but average out: a scale fitted to the averages would send them to the skies."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(2, 8)
            self.out = nn.Linear(1, 1)
            self.register_buffer("unlike", torch.tensor([30.0, -30.0] * 4))

        def forward(self, x):
            return self.out((self.inside(x) + self.unlike)[..., None])  # (N, 8, 1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        G, D = mlp_pair()[0], Patches()
    data = vectors(32)
    told = warm_start(G, D, data, config=short(handover="logistic"), adapter=hooks(), progress=False).summary
    with torch.no_grad():
        f = D(torch.cat(data))
    assert told["logit_real_std"] == pytest.approx(float(f.std(correction=0)), rel=1e-2)
    assert 0.04 < float(f.std()) < 13


def test_a_d_that_is_never_wrong_says_so_with_98_percent():
    real, fake = torch.randn(64, dtype=torch.float64) + 100, torch.randn(64, dtype=torch.float64) - 100
    found = line_search(LOSSES["logistic"], real, fake)
    logits = (found.scale * (fake + found.shift)).float().requires_grad_()
    p = torch.sigmoid(logits)
    assert float(p.detach().mean()) == pytest.approx(0.02, abs=0.005)
    torch.nn.functional.binary_cross_entropy(p, torch.ones_like(p)).backward()
    assert float(logits.grad.abs().min()) > 0.5 / 64


def test_the_hand_over_leaves_layers_alone_that_g_shares(caplog):
    """Else it would change G's samples, after the stop has judged them."""
    D = mlp_pair()[1]
    G = nn.Sequential(nn.Linear(Z, 8), D[2], nn.Linear(1, 2))
    told = warm_start(G, D, vectors(), config=short(handover="hinge"), adapter=hooks(), progress=False).summary
    assert told["handover_moved"] == ""
    assert "or G's layer, too" in caplog.text


def test_batches_of_one_sample_are_judged_together():
    """By one logit a hidden bias passes for a shift; the last layer has none, and spectral norm undoes every scale."""
    torch.manual_seed(0)
    normed = torch.nn.utils.parametrizations.spectral_norm
    G = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
    D = nn.Sequential(normed(nn.Linear(6, 8)), nn.LeakyReLU(0.2), normed(nn.Linear(8, 8)), nn.LeakyReLU(0.2))
    D.append(normed(nn.Linear(8, 1, bias=False)))
    far = [20 * torch.randn(1, 6) + 40 for _ in range(200)]
    config = WarmStartConfig(iterations=40, handover="least_squares")
    assert warm_start(G, D, far, config=config, progress=False).summary["handover_moved"] == ""
