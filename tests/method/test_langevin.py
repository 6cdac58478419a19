"""The chain: its drift, its noise, its cap, and what it leaves alone."""

from __future__ import annotations

import math
from collections import namedtuple

import pytest
import torch
from networks import mlp_pair
from torch import nn

from coopinit_plugin import CoopInitError
from coopinit_plugin.method.langevin import gradient_rms, langevin

SLOPE = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)


def linear(x):
    """A score whose gradient is SLOPE everywhere."""
    return (x * SLOPE).sum(1)


def refined(*given, **named):
    """The refined samples alone."""
    return langevin(*given, **named)[0]


def points(n: int = 4, width: int = 3) -> torch.Tensor:
    return torch.randn(n, width, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5])
def test_drift_is_a_times_variance_times_gradient(sigma, steps):
    x = points()
    moved = refined(linear, x, steps=steps, drift=0.25, noise=0.0, scale=[sigma])
    assert torch.allclose(moved, x + steps * 0.25 * sigma**2 * SLOPE, rtol=1e-14)


def test_a_chain_in_units_of_sigma_looks_the_same_at_every_scale():
    """Data and chain in metres or in millimetres: the same walk."""
    D = mlp_pair(data=3)[1].double()
    x = points()
    noise = [torch.randn_like(x) for _ in range(5)]

    def walk(unit):
        draws = iter(noise)
        return refined(
            lambda x: D(x / unit),
            x * unit,
            steps=5,
            drift=0.3,
            noise=0.1,
            scale=[1.7 * unit],
            cap=0.05,
            draw=lambda mean, std: mean + std * next(draws),
        )[0]

    assert torch.allclose(walk(1.0), walk(1000.0) / 1000, rtol=1e-10)


def test_noise_is_epsilon_sigma_and_new_in_every_step():
    x = torch.full((20_000, 2), 7.0)
    moved = refined(lambda x: (x * 0).sum(1), x, steps=1, drift=1.0, noise=0.25, scale=[2.0])
    assert float((moved - x).std()) == pytest.approx(0.5, rel=0.02)
    assert float((moved - x).mean()) == pytest.approx(0, abs=0.01)
    moved = refined(lambda x: (x * 0).sum(1), x, steps=9, drift=1.0, noise=0.25, scale=[2.0])
    assert float((moved - x).std()) == pytest.approx(1.5, rel=0.02)  # √9 times as far: independent


def test_each_tensor_has_a_scale_of_its_own():
    a, b = points(), points(width=2)
    stds = []
    moved = refined(
        lambda x: x[0].sum(1) + 2 * x[1].sum(1),
        (a, b),
        steps=1,
        drift=0.1,
        noise=0.5,
        scale=[2.0, 10.0],
        draw=lambda mean, std: (stds.append(std), mean.clone())[1],
    )
    assert stds == [1.0, 5.0]
    assert torch.allclose(moved[0], a + 0.1 * 4)
    assert torch.allclose(moved[1], b + 0.1 * 100 * 2)


def test_the_textbook_step_samples_the_textbook_density():
    """Drift δ²/2·∇f, noise δ: from f = −x²/2 the standard normal, whose variance Euler steps make 1 / (1 − δ²/4)."""
    delta = 0.4
    x = torch.full((4000, 1), 3.0, dtype=torch.float64)
    moved = refined(lambda x: -(x**2).sum(1) / 2, x, steps=150, drift=delta**2 / 2, noise=delta, scale=[1.0])
    assert float(moved.mean()) == pytest.approx(0, abs=0.08)
    assert float(moved.var()) == pytest.approx(1 / (1 - delta**2 / 4), rel=0.08)


def test_the_cap_shortens_long_drifts_only():
    x = points(n=3)
    steep = torch.tensor([[0.01], [1.0], [100.0]], dtype=torch.float64)

    def score(x):
        return (x * steep * SLOPE).sum(1)

    sigma = 2.0
    refined, drift = langevin(score, x, steps=1, drift=1.0, noise=0.0, scale=[sigma], cap=0.3)
    moved = (refined - x) / sigma
    rms = moved.square().mean(1).sqrt()
    assert torch.allclose(moved[0], 0.01 * sigma * SLOPE[0], rtol=1e-12)  # short: as it is
    assert torch.allclose(rms[1:], torch.full((2,), 0.3, dtype=torch.float64), rtol=1e-12)
    assert float(drift) == pytest.approx(float((steep * SLOPE * sigma).square().mean(1).sqrt().mean()))
    direction = SLOPE[0] / SLOPE[0].norm()
    assert torch.allclose(moved[2] / moved[2].norm(), direction, rtol=1e-12)


def test_the_cap_holds_for_a_sample_of_several_tensors_together():
    a, b = points(n=2), torch.randn(2, 2, 5, dtype=torch.float64)
    scale = [2.0, 0.5]

    def score(x):
        return 40 * x[0].sum(1) + 90 * x[1].flatten(1).sum(1) * torch.tensor([1.0, 1e-4])

    new = refined(score, [a, b], steps=1, drift=1.0, noise=0.0, scale=scale, cap=0.1)
    moves = torch.cat([((n - o) / s).flatten(1) for n, o, s in zip(new, (a, b), scale, strict=True)], dim=1)
    assert torch.allclose(moves.square().mean(1).sqrt(), torch.full((2,), 0.1, dtype=torch.float64), rtol=1e-12)
    free = torch.cat([torch.full((2, 3), 40 * 2.0), torch.full((2, 10), 90 * 0.5) * torch.tensor([[1.0], [1e-4]])], 1)
    assert torch.allclose(moves / moves.norm(dim=1, keepdim=True), (free / free.norm(dim=1, keepdim=True)).double())


def test_a_cap_that_is_never_reached_changes_nothing():
    x = points()
    draws = {"steps": 3, "drift": 0.01, "noise": 0.0, "scale": [1.0]}
    assert torch.allclose(refined(linear, x, **draws, cap=50.0), refined(linear, x, **draws), rtol=1e-12)


@pytest.mark.parametrize("cap", [None, 0.25])
def test_a_gradient_of_zero_leaves_the_noise(cap):
    x = points()
    still = refined(lambda x: (x * 0).sum(1), x, steps=2, drift=3.0, noise=0.0, scale=[1.0], cap=cap)
    assert torch.equal(still, x)
    assert torch.equal(refined(linear, x, steps=2, drift=0.0, noise=0.0, scale=[1.0]), x)


@pytest.mark.parametrize("mask", [torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[True, False, True]])])
def test_masked_elements_do_not_move(mask):
    x = points()
    moved = refined(linear, x, steps=4, drift=0.5, noise=0.1, scale=[1.0], mask=mask)
    assert torch.equal(moved[:, 1], x[:, 1])
    assert (moved[:, [0, 2]] != x[:, [0, 2]]).all()


def test_masked_elements_are_where_they_were_when_the_others_step_again():
    """The score sees the masked elements at their place in every step."""
    x, seen = points(), []
    mask = torch.tensor([[1.0, 0.0, 1.0]])

    def score(x):
        seen.append(x.detach()[:, 1].clone())
        return linear(x)

    refined(score, x, steps=3, drift=0.5, noise=0.1, scale=[1.0], mask=mask)
    assert all(torch.equal(column, x[:, 1]) for column in seen)


def test_a_mask_for_each_tensor():
    a, b = points(), points()
    masks = [torch.zeros(1, 3), torch.ones(1, 3)]
    settings = {"steps": 1, "drift": 0.5, "noise": 0.1, "scale": [1.0, 1.0]}
    moved = refined(lambda x: linear(x[0]) + linear(x[1]), [a, b], **settings, mask=masks)
    assert torch.equal(moved[0], a)
    assert (moved[1] != b).all()


def test_containers_are_kept():
    Both = namedtuple("Both", "a b")
    x = {"one": points(), "two": [points(), Both(points(), points())]}

    def score(x):
        return linear(x["one"]) + linear(x["two"][0]) + linear(x["two"][1].a) + linear(x["two"][1].b)

    moved = refined(score, x, steps=2, drift=0.5, noise=0.1, scale=[1.0] * 4)
    assert isinstance(moved["two"][1], Both)
    assert moved["one"].shape == x["one"].shape


def test_the_start_its_graph_and_all_gradients_are_left_alone():
    G, D = mlp_pair()
    for parameter in D.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    z = torch.randn(6, 3)
    g = G(z)
    value, version = g.detach().clone(), g._version
    moved = refined(lambda x: D(x).flatten(), g, steps=3, drift=1.0, noise=0.1, scale=[1.0])
    assert torch.equal(g, value)
    assert g._version == version
    assert (moved.requires_grad, moved.grad_fn, moved.grad) == (False, None, None)
    assert moved.data_ptr() != g.data_ptr()
    assert all((parameter.grad == 5).all() for parameter in D.parameters())
    assert all(parameter.grad is None for parameter in G.parameters())
    g.sum().backward()  # the graph of G(z) serves again
    assert all(parameter.grad is not None for parameter in G.parameters())


def test_no_step_keeps_the_graph_of_the_one_before():
    depth = []

    def score(x):
        depth.append(x.grad_fn)
        return linear(x)

    refined(score, points(), steps=5, drift=1.0, noise=0.1, scale=[1.0], cap=0.25)
    assert depth == [None] * 5


def test_parameters_that_are_frozen_serve():
    D = mlp_pair(data=3)[1].double().requires_grad_(False)
    x = points()
    frozen = refined(lambda x: D(x), x, steps=2, drift=1.0, noise=0.0, scale=[1.0])
    D.requires_grad_(True)
    assert torch.equal(frozen, refined(lambda x: D(x), x, steps=2, drift=1.0, noise=0.0, scale=[1.0]))


def test_a_score_that_ignores_a_tensor_leaves_it_to_the_noise():
    a, b = points(), points()
    moved = refined(lambda x: linear(x[0]), (a, b), steps=2, drift=0.5, noise=0.0, scale=[1.0, 1.0], cap=0.25)
    assert torch.equal(moved[1], b)
    assert (moved[0] != a).all()


def test_one_score_for_the_whole_batch_serves():
    x = points()
    moved = refined(lambda x: linear(x).sum()[None], x, steps=1, drift=0.5, noise=0.0, scale=[1.0])
    assert torch.allclose(moved, x + 0.5 * SLOPE)


def test_scores_of_another_shape_from_call_to_call():
    shapes = iter([(4,), (2, 2), (4, 1)])
    moved = refined(
        lambda x: linear(x).reshape(next(shapes)), x := points(), steps=3, drift=0.5, noise=0.0, scale=[1.0]
    )
    assert torch.allclose(moved, x + 1.5 * SLOPE)


def test_a_score_without_a_gradient_path_says_so():
    for score in (lambda x: linear(x.detach()), lambda x: torch.zeros(4)):
        with pytest.raises(CoopInitError, match=r"no gradient path.*detach.*Adapter\(score="):
            refined(score, points(), steps=1, drift=1.0, noise=0.0, scale=[1.0])


def test_gradient_rms_is_in_sigma():
    a, b = points(), points(width=2)
    expected = math.sqrt((4 * 3 * (2.0 * 3) ** 2 + 4 * 2 * (5.0 * 7) ** 2) / (4 * 5))
    assert gradient_rms(lambda x: 3 * x[0].sum(1) + 7 * x[1].sum(1), [a, b], [2.0, 5.0]) == pytest.approx(expected)
    assert gradient_rms(lambda x: (x * 0).sum(1), a, [1.0]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_in_channels_last_and_other_precisions(dtype):
    x = torch.randn(2, 3, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
    net = nn.Conv2d(3, 1, 3, dtype=dtype)
    moved = refined(lambda x: net(x).mean((1, 2, 3)), x, steps=2, drift=1.0, noise=0.1, scale=[1.0], cap=0.25)
    assert (moved.dtype, moved.shape) == (x.dtype, x.shape)
    assert (moved != x).float().mean() > 0.9
