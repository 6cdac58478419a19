"""FID by torch-fidelity, if the user has it; here a stand-in, for its network comes from the internet."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from coopinit_plugin.trial.fid import fid


@pytest.fixture
def asked(monkeypatch):
    """What the function was asked for; it gives the squared distance between the mean levels."""
    calls = []

    def calculate_metrics(**given):
        calls.append(given)
        means = [
            torch.stack([images[i].float() for i in range(len(images))]).mean() for images in map(given.get, INPUTS)
        ]
        return {"frechet_inception_distance": float((means[0] - means[1]) ** 2)}

    monkeypatch.setitem(sys.modules, "torch_fidelity", types.SimpleNamespace(calculate_metrics=calculate_metrics))
    return calls


INPUTS = ("input1", "input2")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_range_are_given_as_levels_of_the_real_ones_range(asked, channels):
    real = torch.linspace(-1, 1, 4 * channels * 64).reshape(4, channels, 8, 8)
    fake = torch.full((5, channels, 8, 8), 2.0)
    assert fid(real, real) == 0
    assert fid(real, fake) == pytest.approx(127.5**2, rel=1e-3)
    assert asked[-1]["fid"] is True
    image = asked[-1]["input2"][4]
    assert (image.shape, image.dtype, int(image.min())) == ((3, 8, 8), torch.uint8, 255)
    with pytest.raises(IndexError):
        asked[-1]["input2"][5]


@pytest.mark.parametrize("x", [torch.zeros(4, 8), torch.zeros(4, 2, 8, 8), {"a": torch.zeros(4, 3, 8, 8)}])
def test_what_is_no_image_has_none(asked, x):
    assert fid(x, x) is None
    assert not asked


def test_without_the_package_and_if_it_fails_there_is_none_and_the_failure_is_said(monkeypatch, caplog):
    x = torch.zeros(4, 3, 8, 8)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert fid(x, x) is None
    assert not caplog.messages

    def offline(**given):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "torch_fidelity", types.SimpleNamespace(calculate_metrics=offline))
    assert fid(x, x) is None
    assert caplog.messages == ["No FID: torch-fidelity failed (OSError: no route to host)."]
