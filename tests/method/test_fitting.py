"""The map written into D: with what the loop does after a step, with a D that draws noise, rounds, or is inverted."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from networks import hooks, mlp_pair, vectors
from torch import nn
from torch.nn.functional import dropout, linear, normalize

from coopinit_plugin import WarmStartConfig, warm_start

X = torch.cat(vectors(4))
ITERATIONS = 15


def warm(D: nn.Module, kind: str = "logistic", iterations: int = ITERATIONS, **given) -> tuple[nn.Module, dict]:
    config = WarmStartConfig(iterations=iterations, lr_discriminator=5e-3, handover=kind)
    G = mlp_pair()[0]
    return G, warm_start(G, D, vectors(), config=config, adapter=hooks(**given), progress=False).summary


def gap(G: nn.Module, D: nn.Module) -> float:
    with torch.no_grad():
        return float(D(X).mean() - D(G(torch.randn(128, 3, generator=torch.Generator().manual_seed(0)))).mean())


# --- what the loop does after each step of D


@torch.no_grad()
def spectral(D: nn.Module) -> None:
    for p in D.parameters():
        if p.ndim > 1:
            p.div_(max(1.0, float(torch.linalg.matrix_norm(p, 2))))


@torch.no_grad()
def unit_rows(D: nn.Module) -> None:
    for p in D.parameters():
        if p.ndim > 1:
            p.copy_(normalize(p, dim=1))


@torch.no_grad()
def high_only(D: nn.Module) -> None:
    D[2].weight.clamp_(min=0)


def clip(limit: float):
    def clipped(D: nn.Module) -> None:
        for p in D.parameters():
            p.data.clamp_(-limit, limit)

    return clipped


STEPS = {
    **{f"clip {c}": clip(c) for c in (0.01, 0.1, 0.5, 2.0)},
    "spectral": spectral,
    "unit rows": unit_rows,
    "high only": high_only,
}


@pytest.mark.parametrize("kind", ["wasserstein", "logistic", "least_squares"])
@pytest.mark.parametrize("step", STEPS)
def test_d_comes_back_as_the_loops_next_step_leaves_it(step, kind, caplog):
    D = mlp_pair()[1]
    G, told = warm(D, kind, after_d_step=STEPS[step])
    weights = [p.detach().clone() for p in D.parameters()]
    before = gap(G, D)
    STEPS[step](D)
    assert gap(G, D) == pytest.approx(before, rel=1e-3, abs=1e-6)
    for old, new in zip(weights, D.parameters(), strict=True):
        torch.testing.assert_close(new.data, old, rtol=1e-5, atol=1e-7)
    assert told["logit_real_mean"] - told["logit_fake_mean"] == pytest.approx(before, rel=0.5, abs=0.3 * abs(before))
    if step == "clip 0.01":
        assert (
            "adapter.after_d_step (or what follows D's last layer) takes back what would suit the loss" in caplog.text
        )


def test_a_limit_is_used_as_far_as_it_goes(caplog):
    D = mlp_pair()[1]
    _, told = warm(D, "wasserstein", after_d_step=lambda D: D[2].weight.data.clamp_(-0.5, 0.5))
    assert told["handover_scale"] > 1.05
    assert 0.45 < float(D[2].weight.detach().abs().max()) <= 0.5
    assert "the most that it leaves, and not by " in caplog.text


def test_a_step_that_stays_out_of_the_way_changes_nothing():
    plain, other = mlp_pair()[1], mlp_pair()[1]
    _, told = warm(plain)
    _, same = warm(other, after_d_step=clip(1e6))
    assert told == {**same, "seconds": told["seconds"], "cost_in_steps": told["cost_in_steps"]}
    assert all(map(torch.equal, plain.parameters(), other.parameters()))


# --- a score that differs between two calls; low precision


class Noisy(nn.Module):
    """D, with `change` before it."""

    def __init__(self, change) -> None:
        super().__init__()
        self.net, self.change = mlp_pair()[1], change

    def forward(self, x):
        return self.net(self.change(x))


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class OwnSource(Noisy):
    """Noise from a generator that D owns."""

    def __init__(self) -> None:
        super().__init__(lambda x: x + 0.1 * torch.randn(x.shape, generator=self.source))
        self.source = torch.Generator().manual_seed(1)

    def __deepcopy__(self, memo):
        copied = OwnSource()
        copied.load_state_dict(self.state_dict())
        return copied


class PowerIteration(nn.Module):
    """A spectral norm that turns its vector in every forward, in evaluation mode, too."""

    def __init__(self, layer: nn.Linear, trained: bool) -> None:
        super().__init__()
        self.layer = layer
        u = normalize(torch.randn(len(layer.weight)), dim=0)
        if trained:
            self.u = nn.Parameter(u, requires_grad=False)
        else:
            self.register_buffer("u", u)

    def forward(self, x):
        weight = self.layer.weight
        with torch.no_grad():
            v = normalize(weight.T @ self.u, dim=0)
            self.u.copy_(normalize(weight @ v, dim=0))
            u = self.u.clone()
        return linear(x, weight / (u @ weight @ v), self.layer.bias)


class Half(nn.Module):
    """D under autocast of its own."""

    def __init__(self, dtype: torch.dtype, *, head: bool = False) -> None:
        super().__init__()
        self.net, self.dtype, self.head = mlp_pair()[1], dtype, head

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            f = self.net[:2](x) if self.head else self.net(x)
        return self.net[2](f.float()) if self.head else f.float()


def with_power_iteration(trained: bool) -> nn.Module:
    body, act, last = mlp_pair()[1]
    torch.manual_seed(0)
    return nn.Sequential(PowerIteration(body, trained), act, last)


SERVED = {
    "instance noise": lambda: Noisy(lambda x: x + 0.1 * torch.randn_like(x)),
    "numpy": lambda: Noisy(lambda x: x * float(numpy.random.choice([0.9, 1.1]))),
    "python": lambda: Noisy(lambda x: -x if random.random() < 0.3 else x),
    "dropout": lambda: Noisy(lambda x: dropout(x, 0.3, training=True)),
    "own source": OwnSource,
    "power iteration on a buffer": lambda: with_power_iteration(False),
    "power iteration on a parameter": lambda: with_power_iteration(True),
    "bfloat16": lambda: Half(torch.bfloat16),
    "float16": lambda: Half(torch.float16),
    "bfloat16 and a plain head": lambda: Half(torch.bfloat16, head=True),
    "bfloat16 and noise": lambda: nn.Sequential(Noise(), Half(torch.bfloat16)),
}


@pytest.mark.parametrize("name", SERVED)
def test_scale_and_shift_are_found(name, caplog):
    D = SERVED[name]()
    _, told = warm(D, iterations=40)
    assert told["handover_moved"] == "scale and shift"
    assert told["handover_scale"] != 1
    assert "No layer" not in caplog.text
    assert "differs between" not in caplog.text


def test_a_score_that_changes_with_every_call_is_named_as_the_cause(caplog):
    calls = iter(range(10**9))
    D = Noisy(lambda x: x * (1 + next(calls) % 7))
    _, told = warm(D)
    assert (told["handover_moved"], told["handover_scale"]) == ("", 1.0)
    assert "D's score of the same samples differs between two calls with the same random state" in caplog.text
    assert "adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)" in caplog.text
    assert "spectral norm" not in caplog.text


def test_low_precision_is_named_where_nothing_was_found(caplog):
    D = Half(torch.bfloat16)
    for index in (0, 2):
        D.net[index].register_parameter("bias", None)
        nn.utils.parametrizations.spectral_norm(D.net[index])
    assert warm(D, iterations=5)[1]["handover_moved"] == ""
    assert "(numbers of low precision inside D, spectral norm and no bias," in caplog.text


# --- an inverted D


def at_the_end(change, iterations: int):
    """`after_d_step` that changes D in the last iteration only."""
    calls = iter(range(1, 10**9))

    def step(D: nn.Module) -> None:
        if next(calls) == 1 + iterations:  # the first call is the proof before the first iteration
            change(D)

    return step


@torch.no_grad()
def invert(D: nn.Module) -> None:
    for parameter in D[2].parameters():
        parameter.neg_()


@pytest.mark.parametrize("kind", ["logistic", "hinge", "least_squares", "relativistic", "wasserstein", "auto"])
def test_an_inverted_d_is_turned_round_and_it_is_said(kind, caplog):
    D, inverted = mlp_pair()[1], mlp_pair()[1]
    G, told = warm(D, kind, after_d_step=lambda D: None)
    assert told["handover_scale"] > 0
    assert "turned round" not in caplog.text
    G, turned = warm(inverted, kind, after_d_step=at_the_end(invert, ITERATIONS))
    assert turned["handover_scale"] == pytest.approx(-told["handover_scale"], rel=1e-3)
    assert turned["logit_real_mean"] > turned["logit_fake_mean"]
    assert gap(G, inverted) == pytest.approx(gap(G, D), rel=1e-2)
    assert "After the warm-up D scored real samples below generated ones (means" in caplog.text
    assert "its last layer was turned round: real is high now" in caplog.text


@pytest.mark.parametrize("kind", ["hinge", "none"])
def test_an_inverted_d_that_cannot_be_turned_is_told(kind, caplog):
    D = mlp_pair()[1]
    D[2] = nn.utils.parametrizations.spectral_norm(D[2])
    _, told = warm(D, kind, score=lambda D, x, z, batch: D(x) if not D.training else -D(x))
    assert told["logit_real_mean"] < told["logit_fake_mean"]
    assert "D scores real samples below generated ones (means" in caplog.text
    assert "config=WarmStartConfig(iterations=...), or train D alone before G" in caplog.text
