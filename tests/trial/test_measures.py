"""The measures: right at the ends of their scales, for data of any shape."""

from __future__ import annotations

import math

import pytest
import torch

from coopinit_plugin import CoopInitError
from coopinit_plugin.trial.measures import Measures, PrincipalComponents, fidelity
from examples.helpers.digits import StackedDigits
from examples.study.networks import images

REAL = torch.randn(800, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.2, 2, 4)


def test_real_samples_are_like_real_ones():
    found = Measures(REAL[:400])(REAL[400:])
    assert found.distance < 0.2
    assert found.energy < 0.01
    assert found.diversity > 0.8
    assert min(found.precision, found.recall, found.coverage) > 0.8


def test_one_sample_over_and_over_is_not_diverse():
    found = Measures(REAL[:400])(REAL[:1].expand(200, -1, -1, -1))
    assert found.diversity < 0.1
    assert found.recall < 0.01
    assert found.coverage < 0.2


def test_lost_modes_show_in_the_diversity_and_far_samples_in_the_energy():
    centres = 5 * torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    real = centres[torch.arange(800) % 20] + 0.1 * torch.randn(800, 8)
    measures = Measures(real[:400])
    lost = measures(real[400:][torch.arange(400) % 20 < 2])
    assert lost.diversity < 0.5 * measures(real[400:]).diversity
    far = measures(real[400:] + 100)
    assert far.energy > 0.9
    assert far.precision == far.coverage == 0


def test_samples_near_the_mean_are_not_among_the_data():
    """Nearly every real sample has the mean in its neighbourhood in many dimensions."""
    real = torch.randn(800, 64, generator=torch.Generator().manual_seed(2))
    found = Measures(real[:400])(0.1 * real[400:])
    assert found.density > 3
    assert found.precision == found.recall == 0
    assert found.diversity < 0.05


def test_stacked_digits_are_ordered_as_by_their_modes():
    real = StackedDigits(1536).images
    measures = Measures(real[:512])
    torch.manual_seed(0)
    untrained = images(8, "none", 0.5, 0.5, False)[0](torch.randn(512, 64, 1, 1)).detach()
    few = [real[512:][torch.randint(modes, (512,))] for modes in (200, 50, 10, 1)]
    found = [measures(x) for x in (real[1024:], *few)]
    for name in ("diversity", "coverage"):
        values = [getattr(measured, name) for measured in found]
        assert values[0] > 0.95, name
        assert values == sorted(values, reverse=True), name
        assert values[2] < 0.5, name
        assert values[-1] < 0.05, name
        assert getattr(measures(untrained), name) < 0.25, name
    assert found[0].precision > 0.9
    assert measures(untrained).precision < 0.05
    assert measures(untrained).diversity < 0.05


def test_few_samples_are_measured_against_as_many_real_ones():
    measures = Measures(REAL[:400])
    assert measures(REAL[400:464]).diversity > 0.85
    assert measures(REAL[400:464]).distance < 2 * measures(REAL[400:]).distance + 0.2


def test_nests_and_single_numbers():
    nest = {"a": REAL, "b": [REAL[:, 0, 0]]}
    half = {"a": REAL[:400], "b": [REAL[:400, 0, 0]]}
    assert Measures(half)({"a": nest["a"][400:], "b": [nest["b"][0][400:]]}).energy < 0.01
    assert Measures(REAL[:400, 0, 0, :1])(REAL[400:, 0, 0, :1]).coverage > 0.8


def test_samples_that_are_not_finite_measure_nan():
    broken = REAL[:32].clone()
    broken[3] = math.inf
    assert all(math.isnan(value) for value in vars(Measures(REAL[:400])(broken)).values())


def test_wide_data_are_seen_through_some_of_their_elements():
    wide = torch.randn(96, 40_000, generator=torch.Generator().manual_seed(0))
    measures = Measures(wide[:64])
    assert measures(wide[64:]).energy < 0.05
    assert measures(wide[64:] + 1).distance > 0.8


def test_features_take_the_place_of_the_components():
    only_first = Measures(REAL[:400], features=lambda x: x[:, 0, 0])
    changed = REAL[400:].clone()
    changed[:, 1:] = 0
    assert only_first(changed).diversity > 0.8
    assert Measures(REAL[:400])(changed).diversity < 0.4


@pytest.mark.parametrize("features", [lambda x: x[:5].flatten(1), lambda x: x.mean(), lambda x: None])
def test_features_of_the_wrong_length_are_refused(features):
    with pytest.raises(CoopInitError, match=r"features gave .*expected one row of numbers a sample, \(400, d\)"):
        Measures(REAL[:400], features)


def test_too_few_real_samples_are_refused():
    with pytest.raises(CoopInitError, match=r"10 real samples.*expected at least 16"):
        Measures(REAL[:10])


def test_the_components_are_the_leading_ones():
    line = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([3.0, 4.0]) + 0.01 * torch.randn(50, 2)
    along = PrincipalComponents(line, 1)(line)[:, 0]
    torch.testing.assert_close(along.abs(), 5 * torch.linspace(-1, 1, 50).abs(), atol=0.1, rtol=0)


def test_measures_and_fidelity_agree():
    real, fake = torch.randn(300, 2), 0.7 * torch.randn(300, 2) + 0.3
    found = Measures(real, features=lambda x: x)(fake)
    for name, value in fidelity(real, fake).items():
        assert getattr(found, name) == pytest.approx(value, abs=0.01), name
