"""The library's iteration is the textbook's, to rounding, at every step."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import Lambda, Z, conv_pair, hooks, images, mlp_pair, vectors
from reference import Reference
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.method import distance
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.energy_mode import likelihood_mode
from coopinit_plugin.method.iteration import Settings, cooperate
from coopinit_plugin.method.memory import PLACES, Memory

ITERATIONS = 25
PLAIN = Settings(0.06, 0.1, [1.0])


class Two(nn.Module):
    """G of samples with two tensors, an image and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv_pair(norm=False)[0], mlp_pair(data=3)[0]

    def forward(self, z):
        return self.image(z), self.vector(z)


class OfTwo(nn.Module):
    """D of such samples."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv_pair(norm=False)[1], mlp_pair(data=3)[1]

    def forward(self, image, vector):
        return self.image(image) + self.vector(vector) * 3


def dropout():
    G, D = mlp_pair()
    return G, nn.Sequential(D[0], nn.Dropout(0.5), *D[1:], nn.Dropout(0.3))


def in_place():
    G, D = conv_pair(norm=False)
    return G, nn.Sequential(nn.LeakyReLU(0.3, inplace=True), D)


def spectral():
    G, D = mlp_pair()
    parametrizations.spectral_norm(D[0])
    torch.nn.utils.spectral_norm(D[2])
    return G, D


def partly_frozen():
    G, D = mlp_pair()
    D[0].weight.requires_grad_(False)
    G[2].bias.requires_grad_(False)
    return G, D


def two_tensors():
    return Two(), OfTwo()


CASES = {
    "mlp": (mlp_pair, {}),
    "conv without norm": (lambda: conv_pair(norm=False), {}),
    "BatchNorm in both": (conv_pair, {}),
    "dropout in D": (dropout, {}),
    "patch map": (lambda: conv_pair(norm=False, patch=True), {}),
    "two tensors a sample": (two_tensors, {}),
    "D works in place": (in_place, {}),
    "spectral norm": (spectral, {}),
    "partly frozen": (partly_frozen, {}),
    "real is low": (mlp_pair, {"real_is_high": False}),
    "fixed step": (mlp_pair, {"fixed": 0.3}),
    "fixed step, BatchNorm": (conv_pair, {"fixed": 0.05}),
    "many steps": (mlp_pair, {"steps": 7}),
    "no noise": (mlp_pair, {"noise": 0.0}),
    "no regularisation": (mlp_pair, {"l2": 0.0}),
    "capped": (mlp_pair, {"noise": 0.8, "l2": 3.0}),
    "mask": (mlp_pair, {"masks": [torch.tensor([[1.0, 0.0]])]}),
    "clipped weights": (mlp_pair, {"clip": 0.1}),
}


def data_for(D, count=ITERATIONS):
    """(samples as lists of tensors, how the library sees them) in double precision."""
    if isinstance(D, OfTwo):
        pairs = zip(images(count, 8), vectors(count, 8, data=3), strict=True)
        return [[image.double(), vector.double() * 20] for image, vector in pairs]
    first = next(p for p in D.parameters() if p.ndim >= 2)
    return [[x.double()] for x in (images(count, 8) if first.ndim == 4 else vectors(count, 8))]


def assert_close(ours: nn.Module, theirs: nn.Module, where: str) -> None:
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-12, atol=1e-12), (where, name, float((a - b).abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_is_the_textbooks(case):
    make, special = CASES[case]
    special = dict(special)
    G, D = (module.double() for module in make())
    batches = data_for(D)
    sigmas = [float(x.std(correction=0)) for x in batches[0]]
    steps, noise, l2 = special.pop("steps", 2), special.pop("noise", 0.06), special.pop("l2", 0.1)
    ours_g, ours_d = copy.deepcopy((G, D))

    theirs_noise = torch.Generator().manual_seed(5)
    reference = Reference(
        G,
        D,
        sigmas=sigmas,
        steps=steps,
        noise=noise,
        l2=l2,
        randn=lambda shape: torch.randn(shape, generator=theirs_noise, dtype=torch.float64),
        **special,
    )

    ours_noise = torch.Generator().manual_seed(5)

    def draw(mean, std):
        return mean + std * torch.randn(mean.shape, generator=ours_noise, dtype=torch.float64)

    masks, clip = special.get("masks"), special.get("clip")
    several = len(batches[0]) > 1

    def clip_weights(D):
        for p in D.parameters():
            p.data.clamp_(-clip, clip)

    adapter = hooks(
        score=(lambda D, x, z, batch: D(*x)) if several else (lambda D, x, z, batch: D(x)),
        real_is_high=special.get("real_is_high", True),
        mask=None if masks is None else masks[0],
        after_d_step=None if clip is None else clip_weights,
    )
    pair = bound(ours_g, ours_d, adapter)
    ours_g.train()
    likelihood_mode(ours_d)
    step, memory = step_size(special.get("fixed", "balanced"), steps), Memory(PLACES)
    settings = Settings(noise, l2, sigmas, draw)
    adam_g = torch.optim.Adam([p for p in ours_g.parameters() if p.requires_grad], lr=5e-4, betas=(0.5, 0.999))
    adam_d = torch.optim.Adam([p for p in ours_d.parameters() if p.requires_grad], lr=1e-3, betas=(0.5, 0.999))

    started = copy.deepcopy((G.state_dict(), D.state_dict()))
    latents, behind = torch.Generator().manual_seed(9), 0.0
    for iteration, xs in enumerate(batches):
        z = torch.randn(8, Z, generator=latents, dtype=torch.float64)
        x = tuple(xs) if several else xs[0]
        if step.size is None:
            expected = reference.first_step_size(xs, z)
        distance = reference.distance = 0.0 if iteration < 2 else 0.5 * behind**0.5 * iteration
        _, found = cooperate(pair, memory, (x, z, x), step, settings, adam_g, adam_d, behind, distance)
        if reference.a is None:
            assert step.size == pytest.approx(expected, rel=1e-6)  # found in single precision
            reference.a = step.size
        theirs = reference.iterate(xs, z)
        found = found.read()
        behind = found.squared
        assert found._asdict() == pytest.approx(theirs, rel=1e-5, abs=1e-7)
        step.update(found.real - found.refined, found.score_std, found.drift)
        assert step.size == pytest.approx(reference.a, rel=1e-9)
        step.size = reference.a
        assert_close(ours_g, G, f"G at iteration {iteration}")
        assert_close(ours_d, D, f"D at iteration {iteration}")
    for before, module in zip(started, (G, D), strict=True):
        assert all((module.state_dict()[k] != v).any() for k, v in before.items() if k.endswith("0.bias"))
    if case == "capped":
        assert max(reference.taught) > 1  # G lay behind its chains
        assert reference.capped > 8 * ITERATIONS  # the cap was at work in more than half of the steps


@pytest.mark.parametrize("case", ["mlp", "BatchNorm in both", "two tensors a sample", "fixed step", "real is low"])
def test_a_warm_up_is_the_textbooks_loop(case):
    """From the outside: σ of the data, the first look, Adam as configured, batches in order, the balance."""
    make, special = CASES[case]
    G, D = (module.double() for module in make())
    theirs_g, theirs_d = copy.deepcopy((G, D))
    data = data_for(D, count=7)
    latents = torch.randn(7, 8, Z, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    several = len(data[0]) > 1
    loader = [(tuple(xs) if several else xs[0], z) for xs, z in zip(data, latents, strict=True)]

    config = WarmStartConfig(
        iterations=20,
        langevin_steps=3,
        step_size=special.get("fixed", "balanced"),
        noise=0.0,  # so that no random number is drawn
        lr_generator=2e-3,
        lr_discriminator=3e-3,
        betas=(0.4, 0.9),
        energy_l2=0.2,
        handover="none",
        averaging=0.0,
    )
    adapter = hooks(
        real=lambda batch: batch[0],
        latent=lambda n, device, batch: batch[1],
        score=(lambda D, x, z, batch: D(*x)) if several else (lambda D, x, z, batch: D(x)),
        real_is_high=special.get("real_is_high", True),
    )
    result = warm_start(G, D, loader, config=config, adapter=adapter, progress=False)

    sigmas = distance.sigmas(*(tuple(xs) for xs in data))  # in single precision
    for sigma, parts in zip(sigmas, zip(*data, strict=True), strict=True):
        assert sigma == pytest.approx(float(torch.cat(parts).std(correction=0)), rel=1e-6)
    reference = Reference(
        theirs_g,
        theirs_d,
        sigmas=sigmas,
        steps=3,
        noise=0.0,
        l2=0.2,
        lr_generator=2e-3,
        lr_discriminator=3e-3,
        betas=(0.4, 0.9),
        places=32,
        **special,
    )
    reference.first_look(data[0])
    if reference.balanced:
        assert result.history[0].step_size == pytest.approx(reference.first_step_size(data[0], latents[0]), rel=1e-6)
        reference.a = result.history[0].step_size  # found in single precision
    for iteration, row in enumerate(result.history):
        used = reference.a
        reference.distance = (result.history[iteration - 1].distance or 0.0) if iteration else 0.0
        theirs = reference.iterate(data[iteration % 7], latents[iteration % 7])
        assert (row.iteration, row.real, row.refined) == (
            iteration + 1,
            pytest.approx(theirs["real"], rel=1e-4, abs=1e-6),
            pytest.approx(theirs["refined"], rel=1e-4, abs=1e-6),
        )
        assert row.displacement == pytest.approx(theirs["squared"] ** 0.5, rel=1e-4)
        assert row.step_size == pytest.approx(used, rel=1e-6)
    assert len(result.history) == 20
    assert_close(G, theirs_g, "G")
    assert_close(D, theirs_d, "D")


@pytest.mark.parametrize("steps", ["auto", 3])
def test_ds_learning_rate_follows_the_balance_of_the_chain_gs_stays(steps, monkeypatch):
    G, D = mlp_pair()
    seen = []
    plain = cooperate

    def recorded(pair, memory, real, step, settings, adam_g, adam_d, *lag):
        seen.append((step.pace, adam_g.param_groups[0]["lr"], adam_d.param_groups[0]["lr"]))
        return plain(pair, memory, real, step, settings, adam_g, adam_d, *lag)

    monkeypatch.setattr("coopinit_plugin.method.iteration.cooperate", recorded)
    config = WarmStartConfig(iterations=30, lr_generator=1e-4, lr_discriminator=3e-3, langevin_steps=steps)
    warm_start(G, D, vectors(), config=config, progress=False)
    rates = [d for _, _, d in seen]
    assert {g for _, g, _ in seen} == {1e-4}
    if steps == "auto":
        assert rates[0] == 3e-3
        assert rates == [pytest.approx(3e-3 * pace) for pace, _, _ in seen]
        assert 3e-3 < max(rates) <= 6e-3
    else:
        assert rates == [3e-3] * 30


def test_the_chain_sees_d_frozen_and_gives_the_flags_back():
    G, D = mlp_pair()
    D[0].bias.requires_grad_(False)
    flags = [p.requires_grad for p in D.parameters()]
    seen = []
    adapter = hooks(score=lambda D, x, z, batch: (seen.append([p.requires_grad for p in D.parameters()]), D(x))[1])
    likelihood_mode(D)
    adams = torch.optim.Adam(G.parameters()), torch.optim.Adam(p for p in D.parameters() if p.requires_grad)
    x = vectors(size=8)[0]
    cooperate(bound(G, D, adapter), Memory(4), (x, torch.randn(8, Z), x), step_size("balanced"), PLAIN, *adams)
    assert seen[:3] == [[False] * 4] * 3  # first step size, two steps
    assert seen[3:] == [flags] * 2  # refined and real in the likelihood
    assert [p.requires_grad for p in D.parameters()] == flags


def test_g_is_called_once_an_iteration_so_that_its_noise_is_the_same_in_chain_and_teaching():
    calls = []
    G, D = mlp_pair()
    G = nn.Sequential(G, Lambda(lambda x: (calls.append(1), x + torch.randn_like(x))[1]))
    likelihood_mode(D)
    adams = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
    x = vectors(size=8)[0]
    cooperate(bound(G, D, hooks()), Memory(4), (x, torch.randn(8, Z), x), step_size("balanced"), PLAIN, *adams)
    assert calls == [1]


def test_what_the_teaching_leaves_on_a_d_that_g_calls_is_no_part_of_ds_own_gradient():
    x = vectors(size=8)[0]

    def trained(weight):
        G, D = mlp_pair()
        likelihood_mode(D)

        def generate(G, z):  # the same samples whatever the weight, but a path to D's parameters
            g = G(z)
            return g + weight * (D(g) - D(g).detach())

        torch.manual_seed(1)
        adams = torch.optim.Adam(G.parameters()), torch.optim.SGD(D.parameters(), 0.1)
        pair = bound(G, D, hooks(generate=generate))
        cooperate(pair, Memory(4), (x, torch.randn(8, Z), x), step_size("balanced"), PLAIN, *adams)
        return [parameter.detach() for parameter in D.parameters()]

    assert all(map(torch.equal, trained(0.0), trained(100.0)))
