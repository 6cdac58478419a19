"""Every convention of the zoo: found out, warmed up, saved, loaded, and trained on."""

from __future__ import annotations

import copy
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.utils._pytree import tree_leaves

import coopinit_plugin
from coopinit_plugin import Adapter, WarmStart, WarmStartConfig, infer_sign
from coopinit_plugin.calling.adapter import fresh
from coopinit_plugin.host.networks import unwrap
from coopinit_plugin.method.pair import per_sample

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo import ZOO

torch.set_num_threads(1)
CONFIG = WarmStartConfig(iterations=2, langevin_steps=2)


@contextmanager
def counted(*classes):
    """How often a module of each class is called."""
    counts = dict.fromkeys(classes, 0)
    call = nn.Module.__call__

    def counting(self, *args, **kwargs):
        if type(self) in counts:
            counts[type(self)] += 1
        return call(self, *args, **kwargs)

    nn.Module.__call__ = counting
    try:
        yield counts
    finally:
        nn.Module.__call__ = call


def facts(module):
    """All that inspect and warm_start must leave alone, but for values that the warm-up sets."""
    inside = unwrap(module)
    return {
        "flags": [(name, parameter.requires_grad) for name, parameter in inside.named_parameters()],
        "modes": [(name, child.training) for name, child in inside.named_modules()],
        "tensors": [id(tensor) for tensor in inside.parameters()],
        "gradients": [parameter.grad is None for parameter in inside.parameters()],
        "hooks": [(len(child._forward_hooks), len(child._forward_pre_hooks)) for child in inside.modules()],
        "keys": list(inside.state_dict()),
    }


def values(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def randomness():
    return torch.get_rng_state().tolist(), random.getstate()


def made(entry, seed=0):
    torch.manual_seed(seed)
    return entry.make()


@pytest.mark.parametrize(("group", "entry"), ZOO, ids=[f"{group}: {entry.name}" for group, entry in ZOO])
def test_convention(group, entry, tmp_path):
    G, D, loader = made(entry)
    plain_g, plain_d = unwrap(G), unwrap(D)
    before = facts(G), facts(D), randomness()
    cold = values(plain_g), values(plain_d)

    # inspect: right, in three passes, and nothing is changed
    classes = (type(plain_g), type(plain_d))
    if nn.Sequential in classes:  # counted by a class of its own, as Sequentials stand in Sequentials
        for module in (plain_g, plain_d):
            if type(module) is nn.Sequential:
                module.__class__ = type(
                    f"Top{len(module)}", (nn.Sequential,), {"__reduce_ex__": nn.Module.__reduce_ex__}
                )
        classes = (type(plain_g), type(plain_d))
    with counted(*classes) as counts:
        found = coopinit_plugin.inspect(G, D, loader, adapter=Adapter(**entry.adapter) if entry.adapter else None)
    assert max(counts.values()) <= 3
    assert (facts(G), facts(D), randomness()) == before
    assert same(values(plain_g), cold[0])
    assert same(values(plain_d), cold[1])
    table = str(found)
    for words in entry.shows:
        assert words in table
    assert found.real_is_high is entry.high
    assert infer_sign(entry.d_loss) is entry.high
    truth_of_data_and_score(entry, found, plain_g, plain_d, loader)

    # warm_start: all but the values stays, the weights are saved and fit a fresh pair
    result = coopinit_plugin.warm_start(
        G, D, loader, config=CONFIG, adapter=Adapter(**entry.adapter) if entry.adapter else None, progress=False
    )
    assert (facts(G), facts(D)) == before[:2]
    assert not same(values(plain_g), cold[0])
    assert all(torch.isfinite(value).all() for value in values(plain_d).values() if value.is_floating_point())
    for name, module in (("g", plain_g), ("d", plain_d)):
        save_model(copy.deepcopy(module), str(tmp_path / f"{name}.safetensors"))
    result.save_pretrained(tmp_path / "init")
    other_g, other_d, _ = made(entry, seed=1)
    WarmStart.from_pretrained(tmp_path / "init").load_into(other_g, other_d)
    assert same(values(unwrap(other_g)), values(plain_g))
    assert same(values(unwrap(other_d)), values(plain_d))
    three_adversarial_steps(entry, found, unwrap(other_g), unwrap(other_d), loader)


def truth_of_data_and_score(entry, found, G, D, loader):
    batch = next(iter(loader))
    x, mine = entry.real(batch), found.real(batch)
    assert all(torch.equal(a, b) for a, b in zip(tree_leaves(x), tree_leaves(mine), strict=True))
    z = found.latent(8, torch.device("cpu"), batch)
    leaves = [z] if isinstance(z, torch.Tensor) else tree_leaves(z)
    assert sorted(tuple(leaf.shape) for leaf in leaves) == sorted(entry.latent)
    G, D = copy.deepcopy(G), copy.deepcopy(D).eval()
    fake = found.generate(G, fresh(z))
    assert [leaf.shape for leaf in tree_leaves(fake)] == [leaf.shape for leaf in tree_leaves(x)]
    expected = per_sample(entry.logit(D, copy.deepcopy(x), batch), 8)
    score = per_sample(found.score(D, copy.deepcopy(x), z, batch), 8)
    assert torch.allclose(score, expected, atol=1e-6)


def three_adversarial_steps(entry, found, G, D, loader):
    """The user's own loop, on the loaded weights."""
    for module in (G, D):
        module.requires_grad_(True).train()
    optimizers = [torch.optim.SGD(module.parameters(), lr=1e-3) for module in (G, D)]
    stream = iter(loader)
    batch = next(stream)
    for _ in range(3):
        x = copy.deepcopy(found.real(batch))
        z = found.latent(tree_leaves(x)[0].shape[0], torch.device("cpu"), batch)
        fake = found.generate(G, fresh(z))
        f_real = found.score(D, x, z, batch)
        f_fake = found.score(D, torch.utils._pytree.tree_map(lambda leaf: leaf.detach().clone(), fake), z, batch)
        step(optimizers[1], entry.d_loss(f_real, f_fake), D)
        f_fake = found.score(D, torch.utils._pytree.tree_map(lambda leaf: leaf * 1, fake), z, batch)
        step(optimizers[0], entry.d_loss(f_fake, f_fake.detach()), G)
        for module in (G, D):  # buffers that keep the graph are the user's to detach
            for buffer in module.buffers():
                buffer.detach_()


def step(optimizer, loss, module):
    optimizer.zero_grad()
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    optimizer.step()


def test_size_of_the_zoo():
    assert len(ZOO) >= 40
    assert len({entry.name for _, entry in ZOO}) == len(ZOO)
