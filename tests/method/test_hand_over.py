"""The one word for the loss, the hand-over alone, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from networks import conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot
from torch import nn

from coopinit_plugin import CoopInitError, WarmStartConfig, warm_start


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_d_that_ends_not_finite_is_refused_in_words_and_nothing_is_changed(value):
    G, D = mlp_pair()
    before, calls = Snapshot(G, D), itertools.count()

    def spoil(D: nn.Module) -> None:
        if next(calls):  # the first call proves that it may be called
            with torch.no_grad():
                D[0].weight.fill_(value)

    config = WarmStartConfig(iterations=1, handover="logistic")
    with pytest.raises(CoopInitError, match=r"left weights that are not finite.*Your networks are untouched"):
        warm_start(G, D, vectors(), config=config, adapter=hooks(after_d_step=spoil), progress=False)
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        *(("bce", "logistic"), ("NS", "logistic"), ("mse", "least_squares"), ("lsgan", "least_squares")),
        *(
            ("wgan-gp", "wasserstein"),
            ("WGAN GP", "wasserstein"),
            ("hinge", "hinge"),
            ("None", "none"),
            ("AUTO", "auto"),
        ),
    ],
)
def test_the_words_that_people_type_are_understood(word, ours):
    assert WarmStartConfig(handover=word).handover == ours
    result = warm_start(*mlp_pair(), vectors(), handover=word, config=short(), adapter=hooks(), progress=False)
    assert result.config.handover == ours


def test_the_word_is_said_once():
    given = {"adapter": hooks(), "progress": False}
    with pytest.raises(CoopInitError, match=r"handover='hinge' was given, config has 'logistic'.*one of the two"):
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
