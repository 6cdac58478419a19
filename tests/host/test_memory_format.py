"""D's convolutions in the layout in which they run fastest, where D works so; the user's own stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import Lambda, conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot
from torch import nn

from coopinit_plugin import warm_start
from coopinit_plugin.host.memory_format import lay_out

TOGETHER, APART = torch.channels_last, torch.contiguous_format

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no CPU convolutions to lay out")


def laid_out(D, x) -> bool:
    """Whether D's wide convolutions are in channels_last now."""
    D.eval()
    lay_out(D, lambda: D(x).flatten(1).mean(1), x)
    weights = [p for p in D.parameters() if p.ndim == 4 and 1 not in p.shape and p.shape[2:] != (1, 1)]
    found = {p.is_contiguous(memory_format=TOGETHER) and not p.is_contiguous() for p in weights}
    assert len(found) == 1
    return found.pop()


def after_features(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.LeakyReLU(), last, nn.Linear(6 * 16, 1))


def test_a_convolutional_d_is_laid_out_and_is_the_same_function():
    x, D = images(1, 8)[0], conv_pair()[1]
    expected = copy.deepcopy(D).eval()(x)
    assert laid_out(D, x)
    assert torch.allclose(D(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "last",
    [
        Lambda(lambda h: h.view(len(h), -1)),  # raises: the features are not in that order in memory
        Lambda(lambda h: h.as_strided((len(h), 96), (96, 1))),  # reads them in another order
    ],
    ids=["view", "memory order"],
)
def test_a_d_that_needs_its_own_layout_keeps_it_and_is_warmed_up(last):
    D, x = after_features(last), images(1, 8)[0]
    state = copy.deepcopy(D.state_dict())
    assert not laid_out(D, x)
    assert all(torch.equal(value, D.state_dict()[key]) for key, value in state.items())
    result = warm_start(conv_pair()[0], D, images(), config=short(), adapter=hooks(), progress=False)
    assert not torch.equal(result.discriminator_state["0.weight"], state["0.weight"])


class Strided(nn.Module):
    """A residual block's 1×1 convolution of stride 2, as a layer or called."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 6, 3, 2, 1)
        self.skip = nn.Conv2d(2, 6, 1, 2)
        self.weight = nn.Parameter(torch.randn(6, 2, 1, 1)) if called else None

    def forward(self, x):
        skip = self.skip(x) if self.weight is None else nn.functional.conv2d(x, self.weight, stride=2)
        return (self.body(x) + skip).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("called", [False, True])
def test_a_convolution_that_steps_over_pixels_is_not_laid_out(called):
    """So laid out its weights' gradient corrupts the process's memory."""
    assert not laid_out(Strided(called), images(1, 8)[0])


def test_features_flattened_by_reshape_are_taken():
    assert laid_out(after_features(nn.Flatten()), images(1, 8)[0])


def test_a_d_without_2d_convolutions_is_left_alone():
    D = mlp_pair()[1]
    score = [0]
    lay_out(D, lambda: score.append(1), vectors()[0])
    assert score == [0]


@pytest.mark.parametrize("layout", [TOGETHER, APART])
def test_the_users_weights_stay_in_their_layout(layout):
    G, D = (net.to(memory_format=layout) for net in conv_pair())
    before, strides = Snapshot(G, D), [p.stride() for p in D.parameters()]
    result = warm_start(G, D, images(), config=short(), adapter=hooks(), progress=False)
    before.assert_only_values_changed()
    assert [p.stride() for p in D.parameters()] == strides
    assert all(value.is_contiguous() for value in result.discriminator_state.values())
