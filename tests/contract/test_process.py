"""The process around: random generators, workers, environment, Accelerate, modes of autograd."""

from __future__ import annotations

import copy
import os
import random

import numpy
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from networks import (
    Lambda,
    Z,
    assert_warmed,
    conv_pair,
    hooks,
    images,
    mlp_pair,
    short,
    vectors,
    warm,
)
from snapshot import Snapshot, state_bits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def shuffled(own: bool, workers: int = 0) -> DataLoader:
    generator = torch.Generator().manual_seed(3) if own else None
    return DataLoader(TensorDataset(torch.cat(vectors())), 32, shuffle=True, generator=generator, num_workers=workers)


@pytest.mark.parametrize("own", [False, True])
def test_every_random_generator_is_put_back(own):
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    loader = shuffled(own)
    next(iter(loader))
    G, D = mlp_pair()
    G = nn.Sequential(G, Lambda(lambda x: x + 0 * (random.random() + numpy.random.rand() + torch.rand(1))))
    expected = [batch[0] for batch in copy.deepcopy(loader)] if own else None
    before = Snapshot(G, D, loader=loader)
    warm(G, D, loader, adapter=hooks(real=lambda batch: batch[0]))
    before.assert_only_values_changed()
    if own:
        assert all(torch.equal(a, b[0]) for a, b in zip(expected, loader, strict=True))


def test_loader_workers_end_with_the_warm_up():
    import multiprocessing

    loader = shuffled(own=True, workers=1)
    before = Snapshot(loader=loader)
    warm(*mlp_pair(), loader, adapter=hooks(real=lambda batch: batch[0]))
    before.assert_only_values_changed()
    assert multiprocessing.active_children() == []


def test_environment_threads_and_accelerates_singletons_stay():
    os.environ["COOPINIT_TEST"] = "1"
    try:
        before = Snapshot()
        warm(*mlp_pair(), vectors())
        before.assert_only_values_changed()
    finally:
        del os.environ["COOPINIT_TEST"]
    assert (AcceleratorState._shared_state, PartialState._shared_state, GradientState._shared_state) == ({}, {}, {})
    later = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    assert later.mixed_precision == "bf16"
    model = later.prepare(nn.Linear(2, 2))
    assert model(torch.randn(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_users_accelerator_is_as_before(precision):
    accelerator = Accelerator(mixed_precision=precision, cpu=True, gradient_accumulation_steps=3)
    G, D = mlp_pair()
    adam = torch.optim.Adam(D.parameters())
    G, D, adam, loader = accelerator.prepare(G, D, adam, DataLoader(torch.cat(vectors()), 32))
    assert len(accelerator._models) == 2
    before = Snapshot(G, D, accelerator=accelerator)
    warm(G, D, loader, accelerator=accelerator)
    before.assert_only_values_changed()
    with accelerator.accumulate(D):
        accelerator.backward(D(G(torch.randn(8, Z))).mean())
        adam.step()
    assert all(module in (G, D) for module in accelerator._models)


def test_in_mixed_precision_every_pass_sees_the_newest_weights():
    """Autocast keeps the weights it has cast; they must not outlive a step of the optimizer."""
    off = []

    def by_hand(net, x):
        return nn.functional.leaky_relu(x @ net[0].weight.T + net[0].bias, 0.2) @ net[2].weight.T + net[2].bias

    def checked(net, x):
        out = net(x)
        exact = by_hand(net, x.detach())
        off.append(float((out - exact).detach().norm() / exact.detach().norm()))
        return out

    G, D = mlp_pair()
    started = state_bits(G, D)
    adapter = hooks(generate=checked, score=lambda D, x, z, batch: checked(D, x))
    config = short(iterations=8, lr_generator=0.05, lr_discriminator=0.05)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    data = vectors()
    with torch.autocast("cpu", torch.bfloat16):
        warm(G, D, data, accelerator=accelerator, config=config, adapter=adapter)
    assert started != state_bits(G, D)
    assert 1e-5 < max(off) < 0.05  # rounded, and no further off than that


def test_an_accelerator_made_before_but_not_given_goes_on():
    accelerator = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    before = Snapshot(accelerator=accelerator)
    warm(*mlp_pair(), vectors())
    before.assert_only_values_changed()
    assert accelerator.mixed_precision == "bf16"
    assert accelerator.gradient_state.num_steps == 3


def test_works_whatever_mode_it_is_called_in():
    data = vectors()
    plain = warm(*mlp_pair(), data)
    for mode in (
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        G, D = mlp_pair()
        with mode:
            before = Snapshot(G, D)
            result = warm(G, D, data)
            before.assert_only_values_changed()
        assert_warmed(result, G, D)
        assert_warmed(plain, G, D)
        D(G(torch.randn(2, Z))).sum().backward()


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    def run(seed, ambient, loader):
        torch.manual_seed(ambient)
        random.seed(ambient)
        G, D = conv_pair()
        with torch.no_grad():
            D[0].bias.add_(0.25)
        D = nn.Sequential(nn.Dropout(0.2), D)
        warm(G, nn.Sequential(D), loader, config=short(seed=seed, iterations=5))
        return state_bits(G, D)

    assert run(4, 1, images()) == run(4, 2, images())
    assert run(4, 1, images()) != run(5, 1, images())
    dataset = torch.cat(images())
    loaders = [DataLoader(dataset, 32, shuffle=True) for _ in range(2)]
    assert run(4, 1, loaders[0]) == run(4, 2, loaders[1])
    assert run(4, 1, loaders[0]) == run(4, 3, loaders[0])  # and again with the same loader


def test_the_order_of_the_data_is_the_loaders():
    one, two = state_bits(*warmed_on(vectors())), state_bits(*warmed_on(vectors()[::-1]))
    assert one != two


def warmed_on(data):
    G, D = mlp_pair()
    warm(G, D, data)
    return G, D
