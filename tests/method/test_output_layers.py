"""D's last layers: found whatever they are, and proved by what the logits do afterwards."""

from __future__ import annotations

import pytest
import torch
from networks import Lambda
from snapshot import Snapshot, state_bits
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin.method.logit_map import Affine
from coopinit_plugin.method.output_layers import find_output_layers

WIDTH = 6


def body(*, norm: bool = False) -> nn.Sequential:
    """2×4×4 images to WIDTH features."""
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(5, WIDTH, 2, 2)]
    return nn.Sequential(*layers, nn.BatchNorm2d(WIDTH) if norm else nn.Identity(), nn.Tanh())


class EqualisedLinear(nn.Module):
    """StyleGAN's: the weight is scaled at run time, the bias has a learning rate of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / 0.01)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return nn.functional.linear(x, self.weight * 0.01 / x.shape[1] ** 0.5, self.bias * 0.01)


class TwoScales(nn.Module):
    """Patch scores at two resolutions, averaged with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = body(), body()
        self.head_fine, self.head_coarse = nn.Conv2d(WIDTH, 1, 1), nn.Conv2d(WIDTH, 1, 2)

    def forward(self, x):
        fine = self.head_fine(self.fine(x)).mean((2, 3))
        return fine + 2 * self.head_coarse(self.coarse(x.flip(3))).flatten(1)


class Projection(nn.Module):
    """Miyato & Koyama's conditional D: ψ(φ(x)) + ⟨embedding(y), φ(x)⟩."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear, self.embedding = body(), nn.Linear(WIDTH, 1), nn.Embedding(10, WIDTH)

    def forward(self, x):
        h = self.body(x).sum((2, 3))
        y = (x.flatten(1).sum(1).abs() * 3).long() % 10
        return self.linear(h) + (self.embedding(y) * h).sum(1, keepdim=True)


class OwnParameters(nn.Module):
    """The last layer is no module but two parameters of D itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.w, self.bias = nn.Parameter(torch.randn(WIDTH * 4)), nn.Parameter(torch.randn(()))

    def forward(self, x):
        return self.body(x).flatten(1) @ self.w + self.bias


def linear(*, bias: bool = True) -> nn.Linear:
    return nn.Linear(WIDTH * 4, 1, bias=bias)


def of(*tail: nn.Module, norm: bool = False):
    return nn.Sequential(body(norm=norm), *tail)


CASES = {
    "linear": (lambda: of(nn.Flatten(), linear()), True, True),
    "BatchNorm before": (lambda: of(nn.Flatten(), linear(), norm=True), True, True),
    "conv": (lambda: of(nn.Conv2d(WIDTH, 1, 2)), True, True),
    "patch map": (lambda: of(nn.Conv2d(WIDTH, 1, 1)), True, True),
    "no bias": (lambda: of(nn.Flatten(), linear(bias=False)), True, False),
    "flatten and mean after": (
        lambda: of(nn.Conv2d(WIDTH, 3, 1), nn.Flatten(), Lambda(lambda f: f.mean(1))),
        True,
        True,
    ),
    "one map, flatten and mean after": (
        lambda: of(nn.Conv2d(WIDTH, 1, 1), nn.Flatten(), Lambda(lambda f: f.mean(1))),
        True,
        True,
    ),
    "identity after": (lambda: of(nn.Flatten(), linear(), nn.Identity()), True, True),
    "negated after": (lambda: of(nn.Flatten(), linear(), Lambda(lambda f: -f)), True, True),
    "equalised learning rate": (lambda: of(nn.Flatten(), EqualisedLinear(WIDTH * 4, 1)), True, True),
    "weight norm": (lambda: of(nn.Flatten(), parametrizations.weight_norm(linear())), True, True),
    "weight norm without bias": (
        lambda: of(nn.Flatten(), parametrizations.weight_norm(linear(bias=False))),
        True,
        False,
    ),
    "old weight norm": (lambda: of(nn.Flatten(), torch.nn.utils.weight_norm(linear())), True, True),
    "spectral norm": (lambda: of(nn.Flatten(), parametrizations.spectral_norm(linear())), False, True),
    "spectral norm without bias": (
        lambda: of(nn.Flatten(), parametrizations.spectral_norm(linear(bias=False))),
        False,
        False,
    ),
    "old spectral norm": (lambda: of(nn.Flatten(), torch.nn.utils.spectral_norm(linear())), False, True),
    "old spectral norm without bias": (
        lambda: of(nn.Flatten(), torch.nn.utils.spectral_norm(linear(bias=False))),
        False,
        False,
    ),
    "two scales": (TwoScales, True, True),
    "projection": (Projection, True, True),
    "the same head twice": (
        lambda: nn.Sequential(
            body(), nn.Flatten(), (head := nn.Linear(WIDTH * 4, WIDTH * 4)), nn.Tanh(), head, nn.Tanh(), linear()
        ),
        True,
        True,
    ),
    "D is one layer": (lambda: nn.Linear(32, 1), True, True),
    "D's own parameters": (OwnParameters, True, True),
    "tanh at the end": (lambda: of(nn.Flatten(), linear(), nn.Tanh()), False, False),
    "nothing to scale": (lambda: of(nn.Flatten(), linear(), nn.LayerNorm(1)), False, True),
}


def ready(name: str) -> nn.Module:
    torch.manual_seed(3)
    D = CASES[name][0]()
    if name != "D is one layer":
        with torch.no_grad():
            D(torch.randn(16, 2, 4, 4))  # BatchNorm's and spectral norm's buffers have seen something
    return D.double().eval()


def scores(D: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return D(x.flatten(1) if isinstance(D, nn.Linear) else x).reshape(len(x), -1).mean(1)


@pytest.mark.parametrize("name", CASES)
def test_afterwards_the_logit_is_scaled_and_shifted_on_new_data(name):
    D = ready(name)
    _, scalable, shiftable = CASES[name]
    x, new = torch.randn(16, 2, 4, 4).double(), torch.randn(64, 2, 4, 4).double() * 2
    before = state_bits(D)
    found = find_output_layers(D, lambda: scores(D, x))
    assert state_bits(D) == before
    assert (bool(found.scaled), found.shifted is not None) == (scalable, shiftable)
    with torch.no_grad():
        old = scores(D, new)
        found.apply(Affine(3.7 if scalable else 1.0, -0.4 if shiftable else 0.0))
        expected = (3.7 if scalable else 1.0) * (old - (0.4 if shiftable else 0.0))
        assert torch.allclose(scores(D, new), expected, rtol=1e-6, atol=1e-6)
    assert all(parameter.requires_grad for parameter in D.parameters())


@pytest.mark.parametrize("name", ["linear", "two scales", "projection", "old weight norm"])
def test_applying_the_inverse_leads_back(name):
    D = ready(name)
    x = torch.randn(16, 2, 4, 4).double()
    found = find_output_layers(D, lambda: scores(D, x))
    with torch.no_grad():
        old = scores(D, x)
        found.apply(Affine(20.0, 1.5))
        found.apply(Affine(1 / 20.0, -1.5 * 20.0))
        assert torch.allclose(scores(D, x), old)


def test_parameters_come_back_exactly_where_multiplying_and_dividing_would_round():
    D = nn.Sequential(nn.Flatten(), nn.Linear(32, 1))  # single precision
    x = torch.randn(16, 2, 4, 4)
    before = Snapshot(D)
    find_output_layers(D, lambda: D(x).flatten())
    before.assert_unchanged()


def test_only_the_last_layer_is_touched_where_it_serves():
    D = ready("linear")
    x = torch.randn(16, 2, 4, 4).double()
    found = find_output_layers(D, lambda: scores(D, x))
    assert {id(p) for p in found.scaled} == {id(D[2].weight), id(D[2].bias)}
    assert found.shifted is D[2].bias
    assert found.per_unit == pytest.approx(1.0)


def test_a_negated_score_is_shifted_the_other_way():
    D = ready("linear")
    x = torch.randn(16, 2, 4, 4).double()
    found = find_output_layers(D, lambda: -scores(D, x))
    assert found.per_unit == pytest.approx(-1.0)
    with torch.no_grad():
        old = -scores(D, x)
        found.apply(Affine(2.0, 0.5))
        assert torch.allclose(-scores(D, x), 2 * (old + 0.5))


def test_a_d_that_gives_one_constant_score_is_left_alone():
    D = nn.Sequential(nn.Flatten(), nn.Linear(32, 1))
    nn.init.zeros_(D[1].weight)
    nn.init.zeros_(D[1].bias)
    x = torch.randn(16, 2, 4, 4)
    before = Snapshot(D)
    found = find_output_layers(D, lambda: D(x).flatten())
    before.assert_unchanged()
    assert found.scaled == []


def test_a_d_that_ends_in_a_relu_is_scaled_but_not_shifted():
    D = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.ReLU())
    torch.nn.init.constant_(D[2].bias, 0.5)
    x = torch.randn(32, 3)
    found = find_output_layers(D, lambda: D(x).flatten())
    assert found.scaled
    assert found.shifted is None


class ByForward(nn.Module):
    """A last layer that is run by its `forward`, as old wrappers for spectral norm do: no hook of it runs."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(3, 8), nn.Linear(8, 1, bias=bias)

    def forward(self, x):
        return self.last.forward(torch.tanh(self.body.forward(x)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_last_layer_that_is_run_by_its_forward_is_found(bias):
    D, x = ByForward(bias), torch.randn(32, 3)
    found = find_output_layers(D, lambda: D(x).flatten())
    assert [id(p) for p in found.scaled] == [id(p) for p in D.last.parameters()]
    assert found.shifted is D.last.bias


def test_layers_of_g_are_left_out():
    D, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), torch.randn(32, 3)
    found = find_output_layers(D, lambda: D(x).flatten(), [D[1].weight])
    assert (found.shifted is D[0].bias, {*found.scaled}.isdisjoint(D[1].parameters())) == (True, True)
    nothing = find_output_layers(D, lambda: D(x).flatten(), [*D.parameters()])
    assert (nothing.scaled, nothing.shifted) == ([], None)
