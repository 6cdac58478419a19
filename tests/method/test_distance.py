"""The sliced Wasserstein distance."""

from __future__ import annotations

import math

import pytest
import torch

from coopinit_plugin.method import distance as measures
from coopinit_plugin.method.distance import SlicedWasserstein, among
from examples.helpers.digits import StackedDigits


def distance(measure: SlicedWasserstein, a, b) -> float:
    return float(measure.between(measure.project(a), measure.project(b)))


def test_the_same_samples_in_any_order_are_at_no_distance():
    x = torch.randn(100, 5)
    measure = SlicedWasserstein(x, [1.0])
    assert distance(measure, x, x[torch.randperm(100)]) == pytest.approx(0.0, abs=1e-6)


def test_it_is_symmetric_and_grows():
    a, b = torch.randn(200, 5), torch.randn(200, 5) + 0.5
    measure = SlicedWasserstein(a, [1.0])
    assert distance(measure, a, b) == distance(measure, b, a)
    assert distance(measure, a, b) < distance(measure, a, b + 0.5) < distance(measure, a, b + 2)


def test_a_translation_by_v_is_at_the_length_of_v_over_the_root_of_the_dimension():
    """Mean over directions of ⟨w, v⟩² is ‖v‖²/d."""
    x = torch.randn(64, 40)
    v = torch.randn(40)
    measure = SlicedWasserstein(x, [1.0], directions=4000)
    assert distance(measure, x, x + v) == pytest.approx(float(v.norm()) / math.sqrt(40), rel=0.05)


def test_two_gaussians_in_one_dimension():
    """W₂ of N(0, 1) and N(m, s²) is √(m² + (s − 1)²)."""
    normal = torch.special.ndtri((torch.arange(4000) + 0.5) / 4000)[:, None].float()
    measure = SlicedWasserstein(normal, [1.0])
    assert distance(measure, normal, normal * 3 + 0.7) == pytest.approx(math.sqrt(0.49 + 4), rel=0.01)


@pytest.mark.parametrize("n", [64, 1024])
def test_two_sets_of_real_images_are_about_two_over_the_root_of_their_number_apart(n):
    first, second = StackedDigits(n, seed=1).images, StackedDigits(n, seed=2).images
    assert 1.3 / n**0.5 < distance(SlicedWasserstein(first), first, second) < 2.6 / n**0.5


def test_collapsed_samples_are_far():
    x = torch.randn(500, 10)
    measure = SlicedWasserstein(x, [1.0])
    assert distance(measure, x, torch.randn(500, 10)) < 0.2
    assert distance(measure, x, torch.randn(1, 10).expand(500, 10)) > 0.8


def test_it_is_in_units_of_sigma():
    x, y = torch.randn(50, 4), torch.randn(50, 4)
    assert distance(SlicedWasserstein(x, [1.0]), x, y) == pytest.approx(
        distance(SlicedWasserstein(x * 255, [255.0]), x * 255, y * 255), rel=1e-5
    )


def test_samples_of_several_tensors_count_each_in_its_sigma():
    a, b = torch.randn(50, 3), torch.randn(50, 2, 2)
    nest, flat = {"a": a, "b": (b * 100,)}, torch.cat([a, b.flatten(1)], dim=1)
    assert torch.allclose(
        SlicedWasserstein(nest, [1.0, 100.0]).project(nest), SlicedWasserstein(flat, [1.0]).project(flat), atol=1e-5
    )


def test_the_directions_are_the_same_every_time_and_the_global_generator_is_left_alone():
    x = torch.randn(8, 3)
    state = torch.get_rng_state()
    one, two = SlicedWasserstein(x, [1.0]).project(x), SlicedWasserstein(x, [1.0]).project(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, two)
    assert one.shape == (8, 128)
    assert not torch.equal(one, SlicedWasserstein(x, [1.0], seed=1).project(x))


def test_very_wide_samples_are_seen_in_part(monkeypatch):
    monkeypatch.setattr(measures, "WIDEST", 10)
    x, y = torch.randn(300, 50), torch.randn(300, 50) + 1
    measure = SlicedWasserstein(x, [1.0])
    seen = [int(bool((measure.project(x * (torch.arange(50) != k)) != measure.project(x)).any())) for k in range(50)]
    assert sum(seen) == 10
    assert seen[:10] != [1] * 10  # at random, not the first
    assert distance(measure, x, y) > 0.2


def test_no_graph_is_kept_and_other_precisions_serve():
    x = torch.randn(8, 3, requires_grad=True)
    assert not SlicedWasserstein(x, [1.0]).project(x * 2).requires_grad
    assert SlicedWasserstein(x, [1.0]).project(x.bfloat16()).dtype == torch.float32


# --- the share among the data


def test_samples_of_the_same_kind_lie_among_the_data_as_often_as_real_ones():
    share, of_real = among(torch.randn(1000, 8), torch.randn(1000, 8))
    assert share == pytest.approx(of_real, abs=0.05)
    assert of_real > 0.6


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_samples_between_two_modes_do_not_however_small_the_modes_are(offset):
    modes = torch.randint(2, (1000, 1)) * 2.0 - 1
    real = modes + 0.05 * torch.randn(1000, 8) + offset
    between = 0.2 * torch.randn(1000, 8) + offset
    share, of_real = among(between, real)
    assert (share, of_real > 0.6) == (0, True)
    assert among(real.flip(0), real)[0] > 0.6


def test_a_cloud_about_the_middle_of_the_data_does_not():
    """In many dimensions every point there is nearer to some real sample than that one's real neighbours are."""
    real = torch.randn(1000, 64)
    for blob in (0.1, 0.5):
        share, of_real = among(blob * torch.randn(1000, 64), real)
        assert share < 0.02 < 0.5 < of_real


def test_a_collapse_onto_a_real_sample_does_not():
    real = torch.randn(1000, 8)
    share, of_real = among(real[:1] + 1e-3 * torch.randn(1000, 8), real)
    assert share < 0.02 < 0.6 < of_real


def test_what_is_seen_in_two_epochs_counts_once():
    real, generated = torch.randn(200, 8), torch.randn(200, 8)
    assert among(generated, real.repeat(3, 1)) == among(generated, real)
    assert among(generated, real[:31].repeat(30, 1)) is None
