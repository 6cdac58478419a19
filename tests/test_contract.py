"""In place and atomic: after a warm-up only numbers have changed, after a failed one nothing has."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading

import numpy
import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    WEIGHT_NORMS,
    Fuse,
    Fused,
    FusedLoader,
    Lambda,
    Z,
    conv_pair,
    hooks,
    images,
    mlp_pair,
    short,
    vectors,
)
from snapshot import Snapshot, bits, state_bits
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, borrowed, inspect, warm_start, warmup


def warm(G, D, loader, *, adapter=None, **given):
    config = given.pop("config", short())
    return warm_start(G, D, loader, config=config, adapter=adapter or hooks(), progress=False, **given)


def assert_warmed(result, G, D) -> None:
    """The user's networks hold the result's weights, to the bit."""
    assert state_bits(G, D) == [
        {key: bits(value) for key, value in state.items()}
        for state in (result.generator_state, result.discriminator_state)
    ]


# --- only numbers change


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(("make", "data"), [(mlp_pair, vectors), (conv_pair, images)])
def test_only_the_numbers_change(make, data, low_memory):
    G, D = make()
    D(data()[0]).sum().backward()  # gradients of the user's own
    before, state = Snapshot(G, D), state_bits(G, D)
    result = warm(G, D, data(), config=short(low_memory=low_memory))
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    for old, new in zip(state, state_bits(G, D), strict=True):
        changed = {key for key in old if old[key] != new[key]}
        assert changed == set(old)  # every weight and buffer was trained


def test_flags_of_every_submodule_and_parameter_stay():
    G, D = conv_pair()
    G.eval()
    G[2].train()
    D[3].eval()
    D[0].requires_grad_(False)
    G[1].weight.requires_grad_(False)
    before, frozen = Snapshot(G, D), [bits(D[0].weight), bits(D[0].bias), bits(G[1].weight)]
    warm(G, D, images())
    before.assert_only_values_changed()
    assert [bits(D[0].weight), bits(D[0].bias), bits(G[1].weight)] == frozen


def test_networks_that_arrive_frozen_altogether_are_trained_and_stay_frozen():
    G, D = mlp_pair()
    G.requires_grad_(False)
    D.requires_grad_(False)
    before, state = Snapshot(G, D), state_bits(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    assert all(set(old.values()).isdisjoint(new.values()) for old, new in zip(state, state_bits(G, D), strict=True))


def test_optimizers_made_before_go_on():
    G, D = mlp_pair()
    adam_g, adam_d = torch.optim.Adam(G.parameters(), lr=0.1), torch.optim.Adam(D.parameters(), lr=0.1)
    warm(G, D, vectors())
    warmed = state_bits(G, D)
    D(G(torch.randn(8, Z))).mean().backward()
    adam_g.step()
    adam_d.step()
    for old, new in zip(warmed, state_bits(G, D), strict=True):
        assert all(old[key] != new[key] for key in old if key != "2.bias")


def test_hooks_stay_and_go_on_working():
    G, D = mlp_pair()
    calls = []
    D[0].register_forward_hook(lambda *_: calls.append("forward"))
    D[2].register_full_backward_hook(lambda *_: calls.append("backward"))
    G.register_forward_pre_hook(lambda *_: calls.append("before G"))
    D[0].weight.register_hook(lambda gradient: calls.append("weight"))
    before = Snapshot(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    calls.clear()
    D(G(torch.randn(8, Z))).mean().backward()
    assert calls == ["before G", "forward", "backward", "weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_stays(dtype):
    G, D = (module.to(dtype) for module in mlp_pair())
    before = Snapshot(G, D)
    adapter = hooks(latent=lambda n, device, batch: torch.randn(n, Z, dtype=dtype))
    result = warm(G, D, [x.to(dtype) for x in vectors()], adapter=adapter)
    before.assert_only_values_changed()
    assert_warmed(result, G, D)


def test_memory_format_stays():
    G, D = (module.to(memory_format=torch.channels_last) for module in conv_pair())
    assert not D[0].weight.is_contiguous()
    before = Snapshot(G, D)
    result = warm(G, D, images())
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    assert result.discriminator_state["0.weight"].is_contiguous()


def test_tied_weights_stay_tied_also_between_g_and_d():
    G, D = mlp_pair(data=8)
    D[0].weight = G[2].weight  # (8, 8), of both
    before = Snapshot(G, D)
    warm(G, D, vectors(data=8))
    before.assert_only_values_changed()
    assert D[0].weight is G[2].weight


class Counting(nn.Module):
    """Keeps a count of its calls in a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls += 1
        return x


def test_buffers_that_are_not_persistent_stay():
    G, D = mlp_pair()
    G, D = nn.Sequential(G, Counting()), nn.Sequential(Counting(), D)
    D(vectors()[0])
    before = Snapshot(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    assert (float(G[1].calls), float(D[0].calls)) == (0.0, 1.0)


# --- wrappers


def wrapped(kind, module):
    if kind == "DataParallel":
        return nn.DataParallel(module)
    if kind == "compile":
        return torch.compile(module, backend="eager")
    if kind == "compile of DataParallel":
        return torch.compile(nn.DataParallel(module), backend="eager")
    if kind == "compile in place":
        module.compile(backend="eager")
        return module
    return Accelerator(cpu=True, mixed_precision=kind).prepare(module)


@pytest.mark.parametrize(
    "kind", ["DataParallel", "compile", "compile of DataParallel", "compile in place", "bf16", "no"]
)
@pytest.mark.parametrize("used", [False, True])
def test_wrappers_are_seen_through(kind, used):
    plain_g, plain_d = mlp_pair()
    expected = warm(*copy.deepcopy((plain_g, plain_d)), vectors())
    G, D = wrapped(kind, plain_g), wrapped(kind, plain_d)
    if used and kind != "bf16":
        D(G(torch.randn(2, Z))).sum().backward()
    AcceleratorState._reset_state(reset_partial_state=True)
    before = Snapshot(G, D)
    result = warm(G, D, vectors())
    before.assert_only_values_changed()
    assert result.generator_state.keys() == plain_g.state_dict().keys()
    assert_warmed(result, plain_g, plain_d)
    assert state_bits(plain_g, plain_d) == [
        {key: bits(value) for key, value in state.items()}
        for state in (expected.generator_state, expected.discriminator_state)
    ]
    with torch.no_grad():  # the wrapper runs the warm weights
        z = torch.randn(2, Z)
        reference = mlp_pair()[0]
        reference.load_state_dict(result.generator_state)
        assert torch.allclose(G(z).float(), reference(z), atol=0.05)


def test_config_compile_gives_the_same_weights(monkeypatch):
    compiled = []
    original = nn.Module.compile

    def eager(module, *arguments, **options):
        compiled.append(type(module))
        original(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", eager)
    G, D = mlp_pair()
    plain = warm(*copy.deepcopy((G, D)), vectors())
    before = Snapshot(G, D)
    result = warm(G, D, vectors(), config=short(compile=True))
    before.assert_only_values_changed()
    assert compiled == [nn.Sequential]
    assert result.summary["handover_moved"] == "scale and shift"
    for key, value in plain.discriminator_state.items():
        assert torch.allclose(value, result.discriminator_state[key], atol=1e-5)


def ending_in(last):
    """D's of vectors that end in a sigmoid, seen by a hook (a module) or by a torch function mode (a function)."""
    G, D = mlp_pair()
    return G, nn.Sequential(*D, last)


@pytest.mark.parametrize(
    "last", [nn.Identity(), nn.Sigmoid(), Lambda(torch.sigmoid)], ids=["logit", "module", "function"]
)
def test_a_compiled_d_gives_the_same_score_as_a_plain_one(last, monkeypatch):
    """Also where a sigmoid's input is taken by a hook made anew at each call: the graph has to run that one.

    Three graphs, for D without a gradient, in the chain, and as it is trained: none is made again, none is split. Torch
    2.6 makes one for each of the first calls where a function mode is new, until it gives up.
    """
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend="aot_eager", fullgraph=True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, compiled = (
        warm_start(*ending_in(last), vectors(), config=short(iterations=12, compile=compile), progress=False)
        for compile in (False, True)
    )
    assert compiled.summary["handover_moved"] == plain.summary["handover_moved"]
    again = isinstance(last, Lambda) and torch.__version__.startswith("2.6.")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3 or again
    for key, value in plain.discriminator_state.items():
        assert torch.allclose(value, compiled.discriminator_state[key], atol=1e-5)
    assert [row.real for row in compiled.history] == pytest.approx([row.real for row in plain.history], abs=1e-5)


def test_averaged_copies_get_gs_weights():
    G, D = mlp_pair()
    averaged = [copy.deepcopy(G).eval().requires_grad_(False), nn.DataParallel(copy.deepcopy(G))]
    before = Snapshot(G, D, *averaged)
    result = warm(G, D, vectors(), ema=averaged)
    before.assert_only_values_changed()
    assert_warmed(result, averaged[0], D)
    assert_warmed(result, averaged[1].module, D)


def test_an_averaged_copy_that_does_not_fit_changes_nothing():
    G, D = mlp_pair()
    other = nn.Linear(2, 2)
    before = Snapshot(G, D, other)
    with pytest.raises(CoopInitError, match=r"ema\[1\].*Linear"):
        warm(G, D, vectors(), ema=[copy.deepcopy(G), other])
    before.assert_unchanged()


# --- the process around


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


# --- networks that copy.deepcopy refuses


def test_a_d_in_the_middle_of_training_with_spectral_norm_hooks_works():
    G, D = mlp_pair()
    torch.nn.utils.spectral_norm(D[0])
    torch.nn.utils.spectral_norm(D[2])
    with torch.enable_grad():
        D(vectors()[0]).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(D)
    before = Snapshot(G, D)
    result = warm(G, D, vectors())
    before.assert_only_values_changed()
    assert_warmed(result, G, D)
    with torch.no_grad():
        D(vectors()[0])  # as ever: the weight of the last pass is no leaf of a graph any more
    copied = copy.deepcopy(D)
    assert state_bits(copied) == state_bits(D)


def test_warmed_networks_can_be_copied_and_saved(tmp_path):
    G, D = conv_pair()
    torch.nn.utils.spectral_norm(D[0])
    parametrizations.spectral_norm(D[2])
    parametrizations.weight_norm(G[1])
    warm(G, D, images())
    for module in (G, D):
        assert state_bits(copy.deepcopy(module)) == state_bits(module)
        torch.save(module.state_dict(), tmp_path / "state.pt")
        safetensors.torch.save_model(module, str(tmp_path / "state.safetensors"))


# --- callback


def test_callback_sees_every_iteration_and_stops_the_warm_up():
    rows = []

    def callback(step):
        rows.append(step)
        return False if step.iteration == 2 else None

    G, D = mlp_pair()
    before, state = Snapshot(G, D), state_bits(G, D)
    result = warm(G, D, vectors(), callback=callback, config=WarmStartConfig(iterations=50))
    before.assert_only_values_changed()
    assert result.history == rows
    assert [row.iteration for row in rows] == [1, 2]
    assert result.summary["stopped_by"] == "callback"
    assert all(isinstance(value, float) for row in rows for name, value in vars(row).items() if name in NUMBERS)
    assert rows[0].seconds < rows[1].seconds
    assert rows[0].gap == rows[0].real - rows[0].refined
    assert state != state_bits(G, D)
    assert_warmed(result, G, D)


NUMBERS = ("real", "refined", "spread", "step_size", "displacement", "seconds")


def test_a_callback_that_returns_anything_but_false_does_not_stop_it():
    answers = iter([None, 0, True])
    result = warm(*mlp_pair(), vectors(), callback=lambda step: next(answers))
    assert (result.summary["iterations"], result.summary["stopped_by"]) == (3, "iterations")


# --- failures


class Injected(Exception):
    """Raised by the test."""


def fail_in_loader(fuse, G, D):
    return G, D, FusedLoader(vectors(), fuse), {}


def fail_in_generator(fuse, G, D):
    return nn.Sequential(G, Fused(fuse)), D, vectors(), {}


def fail_in_discriminator(fuse, G, D):
    return G, nn.Sequential(D[0], Fused(fuse), *D[1:]), vectors(), {}


def fail_in_callback(fuse, G, D):
    return G, D, vectors(), {"callback": lambda step: fuse.light()}


PLACES = {
    "loader": (fail_in_loader, (1, 2, 4, 20)),
    "G": (fail_in_generator, (1, 2, 4, 6)),
    "D": (fail_in_discriminator, (1, 2, 3, 5, 7, 12, 20)),
    "callback": (fail_in_callback, (1, 3)),
}


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("place", "at"), [(place, at) for place, (_, ats) in PLACES.items() for at in ats])
def test_a_failure_anywhere_changes_nothing(place, at, error, low_memory):
    fuse = Fuse(at, error)
    G, D, loader, given = PLACES[place][0](fuse, *mlp_pair())
    D[0].weight.grad = torch.ones(8, 2)
    before = Snapshot(G, D, loader=loader)
    with pytest.raises((error, CoopInitError) if place in "GD" else error) as caught:
        warm(G, D, loader, config=short(low_memory=low_memory), **given)
    if not isinstance(caught.value, error):  # the search for how to call G and D may explain the failure
        assert isinstance(caught.value.__cause__, error)
        assert error is Injected
    assert fuse.lit >= at
    before.assert_unchanged()


def test_the_fuses_are_placed_where_the_warm_up_passes():
    """Each of the numbers above is reached in a run that does not fail."""
    for place, (build, ats) in PLACES.items():
        fuse = Fuse()
        G, D, loader, given = build(fuse, *mlp_pair())
        warm(G, D, loader, **given)
        assert fuse.lit >= max(ats), place


@pytest.fixture
def writes(monkeypatch):
    """Call a function at the n-th time that a number is written into a network of the user."""

    class Writes:
        def __init__(self) -> None:
            self.count, self.at, self.then, self.watched = 0, None, None, set()

        def watch(self, *modules):
            self.watched = {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}

    found, original = Writes(), torch.Tensor.copy_

    def copy_(tensor, *arguments, **options):
        written = original(tensor, *arguments, **options)
        if tensor.data_ptr() in found.watched:
            found.count += 1
            if found.count == found.at:
                found.then()
        return written

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    return found


def total(*modules):
    return sum(len(module.state_dict()) for module in modules)


def test_low_memory_gives_the_same_weights_and_works_in_the_users_tensors():
    (G, D), (in_place_g, in_place_d) = mlp_pair(), mlp_pair()
    seen = []

    def changed(step):
        seen.append(state_bits(in_place_g, in_place_d) != start)

    start = state_bits(in_place_g, in_place_d)
    warm(G, D, vectors())
    warm(in_place_g, in_place_d, vectors(), config=short(low_memory=True), callback=changed)
    assert state_bits(in_place_g, in_place_d) == state_bits(G, D)
    assert all(seen)


def test_low_memory_restores_averaged_copies_and_what_half_precision_keeps_apart():
    G, D = mlp_pair()
    ema = copy.deepcopy(G)
    D.to(torch.bfloat16)
    ema[0].weight.data = torch.zeros(3, 3)
    before = Snapshot(G, D, ema)
    with pytest.raises(CoopInitError, match=r"ema\[0\]"):
        warm(G, D, vectors(), config=short(low_memory=True), ema=[ema])
    before.assert_unchanged()


class Named(nn.Parameter):
    """A parameter of the user's own kind."""


@pytest.mark.parametrize("at", [1, 5, 8])
def test_low_memory_restores_every_kind_of_parameter(writes, at, monkeypatch):
    G, D = mlp_pair()
    G[0].weight, D[0].weight = Named(G[0].weight.detach()), Named(D[0].weight.detach())
    before = Snapshot(G, D)

    def give_back(*arguments, **options):
        writes.watch(G, D)
        writes.at, writes.then = at, lambda: (_ for _ in ()).throw(Injected("injected"))
        borrowed.give_back(*arguments, **options)

    monkeypatch.setattr(warmup, "give_back", give_back)
    with pytest.raises(Injected):
        warm(G, D, vectors(), config=short(low_memory=True))
    before.assert_unchanged()


@pytest.mark.parametrize("at", [1, 3, 6, 8])
@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt])
def test_a_failure_while_writing_changes_nothing(writes, at, error):
    G, D = mlp_pair()
    writes.watch(G, D)
    writes.at, writes.then = at, lambda: (_ for _ in ()).throw(error("injected"))
    before = Snapshot(G, D)
    with pytest.raises(error):
        warm(G, D, vectors())
    assert writes.count == at + total(G, D)  # all were put back
    before.assert_unchanged()


@pytest.mark.parametrize("at", [1, 4, 8])
def test_ctrl_c_while_writing_changes_nothing(writes, at):
    assert threading.current_thread() is threading.main_thread()
    G, D = mlp_pair()
    writes.watch(G, D)
    writes.at, writes.then = at, lambda: signal.raise_signal(signal.SIGINT)
    before = Snapshot(G, D)
    with pytest.raises(KeyboardInterrupt):
        warm(G, D, vectors())
    before.assert_unchanged()


def test_ctrl_c_while_writing_reaches_the_users_own_handler(writes):
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        G, D = mlp_pair()
        writes.watch(G, D)
        writes.at, writes.then = 2, lambda: signal.raise_signal(signal.SIGINT)
        before = Snapshot(G, D)
        result = warm(G, D, vectors())
        before.assert_only_values_changed()
        assert_warmed(result, G, D)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ignored_interrupts_stay_ignored(writes):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        G, D = mlp_pair()
        writes.watch(G, D)
        writes.at, writes.then = 2, lambda: signal.raise_signal(signal.SIGINT)
        assert_warmed(warm(G, D, vectors()), G, D)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ctrl_c_at_the_very_end_of_the_writing_is_not_lost(monkeypatch):
    original = signal.signal

    def late(number, handler):
        if handler is previous:
            signal.raise_signal(signal.SIGINT)
        return original(number, handler)

    previous = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "signal", late)
    with pytest.raises(KeyboardInterrupt):
        warm(*mlp_pair(), vectors())
    assert signal.getsignal(signal.SIGINT) is previous


def test_ctrl_c_in_the_middle_of_the_warm_up_changes_nothing():
    def callback(step):
        signal.raise_signal(signal.SIGINT)

    G, D = mlp_pair()
    before = Snapshot(G, D)
    with pytest.raises(KeyboardInterrupt):
        warm(G, D, vectors(), callback=callback)
    before.assert_unchanged()


def test_works_in_a_thread():
    G, D = mlp_pair()
    results = []
    thread = threading.Thread(target=lambda: results.append(warm(G, D, vectors())))
    thread.start()
    thread.join()
    assert_warmed(results[0], G, D)


def test_an_output_dir_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    G, D = mlp_pair()
    for output_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        before = Snapshot(G, D)
        with pytest.raises(CoopInitError, match="cannot be written"):
            warm(G, D, vectors(), output_dir=output_dir)
        before.assert_unchanged()
    assert (tmp_path / "file").read_text() == "not a folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resume_takes_the_saved_result(tmp_path):
    G, D = mlp_pair()
    result = warm(G, D, vectors(), output_dir=tmp_path / "init", resume=True)
    other_g, other_d = mlp_pair(seed=1)
    again = warm(other_g, other_d, FusedLoader([], Fuse(1)), output_dir=tmp_path / "init", resume=True)
    assert_warmed(result, other_g, other_d)
    assert again.summary == result.summary


def test_resume_starts_where_the_folder_is_still_empty(tmp_path):
    G, D = mlp_pair()
    result = warm(G, D, vectors(), output_dir=tmp_path, resume=True)
    assert_warmed(result, G, D)
    assert (tmp_path / "config.json").exists()


# --- the property


@st.composite
def pairs(draw):
    """G and D of random layers, with random flags, gradients and traces of use."""
    images_ = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))
    width = 4

    def block(index: int, conv: bool) -> list[nn.Module]:
        layer = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Linear(width, width)
        kind = draw(st.sampled_from(["plain", "plain", *WEIGHT_NORMS, "no bias"]))
        if kind in WEIGHT_NORMS:
            WEIGHT_NORMS[kind](layer)
        elif kind == "no bias":
            layer.bias = None
        extra = draw(st.sampled_from(["none", "norm", "dropout", "count", "in place"]))
        return [
            layer,
            {
                "none": lambda: nn.Tanh(),
                "norm": lambda: nn.BatchNorm2d(width) if conv else nn.BatchNorm1d(width),
                "dropout": lambda: nn.Dropout(0.3),
                "count": Counting,
                "in place": lambda: nn.LeakyReLU(0.2, inplace=True),
            }[extra](),
        ]

    def body(conv: bool) -> list[nn.Module]:
        layers = [module for index in range(draw(st.integers(1, 3))) for module in block(index, conv)]
        if draw(st.booleans()):
            layers.append(layers[0])  # the same layer twice
        elif draw(st.booleans()):
            tied = nn.Conv2d(width, width, 3, padding=1) if conv else nn.Linear(width, width)
            first = next((m for m in layers if type(m) is type(tied) and "weight" in m._parameters), tied)
            tied.weight = first.weight
            layers.append(tied)
        return layers

    if images_:
        G = nn.Sequential(
            nn.Unflatten(1, (Z, 1, 1)), nn.ConvTranspose2d(Z, width, 3), *body(True), nn.Conv2d(width, 2, 1)
        )
        D = nn.Sequential(nn.Conv2d(2, width, 1), *body(True), nn.Flatten(), nn.Linear(width * 9, 1))
        generator = torch.Generator().manual_seed(1)
        data = [torch.randn(32, 2, 3, 3, generator=generator) for _ in range(3)]
    else:
        G = nn.Sequential(nn.Linear(Z, width), *body(False), nn.Linear(width, 2))
        D = nn.Sequential(nn.Linear(2, width), *body(False), nn.Linear(width, 1))
        data = vectors(3)
    for module in (G, D):
        for child in module.modules():
            child.training = draw(st.booleans())
        for parameter in module.parameters():
            parameter.requires_grad_(draw(st.integers(0, 3)) > 0)
    if draw(st.booleans()):
        traces = D(G(torch.randn(4, Z))).sum()
        if traces.requires_grad:
            traces.backward()
    return G, D, data


FAILURES = st.tuples(
    st.sampled_from([None, "loader", "G", "D", "callback", "write", "Ctrl-C"]),
    st.integers(1, 12),
    st.sampled_from([Injected, KeyboardInterrupt]),
)


@given(pair=pairs(), failure=FAILURES, own=st.booleans(), low_memory=st.booleans())
def test_hygiene_holds_for_any_networks_and_any_failure(pair, failure, own, low_memory):
    G, D, data = pair
    place, at, error = failure
    fuse = Fuse(at, error)
    loader = DataLoader(torch.cat(data), 32, shuffle=True, generator=torch.Generator() if own else None)
    given = {}
    if place == "loader":
        loader = FusedLoader(data, fuse)
    elif place == "G":
        G = nn.Sequential(G, Fused(fuse))
    elif place == "D":
        D = nn.Sequential(Fused(fuse), D)
    elif place == "callback":
        given["callback"] = lambda step: fuse.light()

    mine = {t.data_ptr() for m in (G, D) for t in (*m.parameters(), *m.buffers())}
    original = torch.Tensor.copy_
    pressed = []

    def copy_(tensor, *arguments, **options):
        written = original(tensor, *arguments, **options)
        if tensor.data_ptr() in mine:
            if place == "write":
                fuse.light()
            elif not pressed:
                pressed.append(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
        return written

    frozen = {
        id(p): bits(p)
        for m in (G, D)
        for p in m.parameters()
        if not p.requires_grad and any(q.requires_grad for q in m.parameters())
    }
    head = {id(p) for p in list(D.parameters())[-2:]}  # scaled and shifted at the hand-over
    before = Snapshot(G, D, loader=loader)
    with pytest.MonkeyPatch.context() as patch:
        if place in ("write", "Ctrl-C"):
            patch.setattr(torch.Tensor, "copy_", copy_)
        result = caught = None
        try:
            result = warm(G, D, loader, config=short(low_memory=low_memory), **given)
        except BaseException as raised:
            caught = raised
    if caught is not None:
        expected = KeyboardInterrupt if place == "Ctrl-C" else error
        explained = place in ("G", "D") and isinstance(caught.__cause__, expected)  # by the look at how they are called
        assert isinstance(caught, expected) or explained, repr(caught)
        assert fuse.lit >= at or pressed
        before.assert_unchanged()
    else:
        assert place != "Ctrl-C"
        assert fuse.lit < at or place is None
        before.assert_only_values_changed()
        assert_warmed(result, G, D)
        for p in (*G.parameters(), *D.parameters()):
            assert torch.isfinite(p).all()
            if id(p) in frozen and id(p) not in head:
                assert bits(p) == frozen[id(p)]


def test_the_loaders_own_tensors_stay_where_d_begins_in_place():
    G, D = mlp_pair()
    D = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), D)
    data = vectors()
    before = [batch.clone() for batch in data]
    warm(G, D, data, adapter=Adapter(latent=hooks().latent))
    inspect(G, D, data)
    assert all(torch.equal(now, was) for now, was in zip(data, before, strict=True))
