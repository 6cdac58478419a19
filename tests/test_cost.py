"""What an iteration costs, counted instead of timed: forwards, operations, reads from the device, tensors alive."""

from __future__ import annotations

import collections
import gc
import itertools
import sys

import pytest
import torch
from networks import Z, conv_pair, hooks, images, mlp_pair, vectors
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from coopinit_plugin import Adapter, WarmStartConfig, warm_start
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.first_look import REPETITIONS
from coopinit_plugin.method.balance import step_size
from coopinit_plugin.method.energy_mode import likelihood_mode
from coopinit_plugin.method.iteration import Settings, cooperate
from coopinit_plugin.method.langevin import langevin
from coopinit_plugin.method.memory import Memory
from coopinit_plugin.method.stopping import Plateau


class Operations(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def operations(run) -> int:
    with Operations() as counted:
        run()
    return counted.seen.total()


@pytest.mark.parametrize(("cap", "most"), [(0.25, 5), (None, 2)])
def test_a_step_costs_ds_gradient_one_noise_and_the_drift(cap, most):
    """Noise and drift are two operations; the cap of the drift is a norm, a clamp and a view more."""
    D, x = conv_pair(norm=False)[1].requires_grad_(False), images(1, 8)[0]

    def f(x):
        return D(x).flatten(1).mean(1)

    def chain(steps):
        return operations(lambda: langevin(f, x, steps=steps, drift=1.0, noise=0.1, scale=[1.0], cap=cap))

    inputs = x.clone().requires_grad_()
    gradient = operations(lambda: torch.autograd.grad(score := f(inputs), inputs, torch.ones_like(score)))
    assert chain(6) - chain(5) <= gradient + most


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("norm", [False, True])
def test_an_iteration_runs_g_once_and_d_once_a_step_and_twice_for_the_likelihood(steps, norm):
    """With BatchNorm once more, without a gradient, for its running statistics."""
    G, D = conv_pair(norm=norm)
    likelihood_mode(D)
    calls: collections.Counter[str] = collections.Counter()
    G.register_forward_pre_hook(lambda *_: calls.update(["G"]))
    D.register_forward_pre_hook(lambda *_: calls.update(["D" if torch.is_grad_enabled() else "D without gradient"]))
    adams = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
    step, settings, pair = step_size("balanced", steps), Settings(0.06, 0.1, [1.0]), bound(G, D, hooks())
    memory = Memory(1)
    x = images(1, 8)[0]
    cooperate(pair, memory, (x, torch.randn(8, Z), x), step, settings, *adams)  # looks for the first step size, too
    calls.clear()
    cooperate(pair, memory, (x, torch.randn(8, Z), x), step, settings, *adams)
    assert calls == {"G": 1, "D": steps + 2} | ({"D without gradient": 1} if norm else {})


def test_an_iteration_reads_nothing_from_the_device_and_the_loop_reads_once(monkeypatch):
    """A read makes the host wait for the device: one an iteration, of all statistics together.

    Adam's own counters of steps are kept on the host, whatever the device.
    """
    reads: collections.Counter[str] = collections.Counter()

    def counted(name):
        plain = getattr(torch.Tensor, name)

        def read(self, *args, **kwargs):
            if "optim" not in sys._getframe(1).f_code.co_filename:
                reads.update([name])
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy"):
        counted(name)
    counts = []

    def callback(report):
        counts.append(reads.total())

    warm_start(
        *mlp_pair(),
        vectors(),
        config=WarmStartConfig(iterations=20, handover="none"),
        adapter=hooks(),
        callback=callback,
        progress=False,
    )
    assert [b - a for a, b in itertools.pairwise(counts[5:])] == [1] * 14


def test_200_iterations_leave_no_more_tensors_alive_than_20():
    alive = {}

    def callback(report):
        if report.iteration in (20, 200):
            gc.collect()
            alive[report.iteration] = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    config = WarmStartConfig(iterations=200, handover="none")
    warm_start(*mlp_pair(), vectors(), config=config, adapter=hooks(), callback=callback, progress=False)
    assert alive[200] <= alive[20] + 2 * 16  # projections of the samples that wait for the next reading


class Held:
    """What a graph has saved, counted as long as the graph lives."""

    def __init__(self, saved: torch.Tensor, account: SavedBytes) -> None:
        self.saved, self.account = saved, account
        account.add(saved.numel())

    def __del__(self) -> None:
        self.account.add(-self.saved.numel())


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """The most numbers that graphs hold for their backward passes at a time, weights apart."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__(lambda saved: saved if id(saved) in weights else Held(saved, self), self.unpacked)
        weights = {id(p) for net in networks for p in net.parameters()}
        self.now = self.most = 0

    @staticmethod
    def unpacked(held: torch.Tensor | Held) -> torch.Tensor:
        return held.saved if isinstance(held, Held) else held

    def add(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("norm", [False, True])
def test_an_iteration_holds_no_more_for_its_backward_passes_than_an_adversarial_step(steps, norm):
    """One D's graph at a time beside G's, however long the chain is, and less of it where D is frozen."""
    x, z = images(1, 8)[0], torch.randn(8, Z)
    G, D = conv_pair(norm=norm)
    adversarial = SavedBytes(G, D)
    with adversarial:
        fake = G(z)
        D(x).mean().backward()
        D(fake.detach()).mean().backward()
        D(fake).mean().backward()
        del fake
    G, D = conv_pair(norm=norm)
    likelihood_mode(D)
    adams = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
    cooperative = SavedBytes(G, D)
    with cooperative:
        cooperate(
            bound(G, D, hooks()), Memory(4), (x, z, x), step_size("balanced", steps), Settings(0.06, 0.1, [1.0]), *adams
        )
    assert 0 < cooperative.most <= adversarial.most
    assert cooperative.now == adversarial.now == 0


@pytest.mark.parametrize(("iterations", "most"), [(6, 3.5), ("auto", 4.5)])
def test_a_warm_up_holds_no_more_copies_of_the_weights_than_it_needs(iterations, most, monkeypatch):
    """Both networks, two Adams, G averaged; the best moment only where it may be gone back to; no gradients."""
    monkeypatch.setattr(Plateau, "at_best", property(lambda self: True, lambda self, value: None))
    G, D = mlp_pair(hidden=20_000)
    weights = sum(p.numel() for net in (G, D) for p in net.parameters())
    G_share = sum(p.numel() for p in G.parameters()) / weights
    held = []

    def numbers() -> int:
        plain = (torch.Tensor, nn.Parameter)  # the fake ones that a compiler leaves behind have no memory
        tensors = [thing for thing in gc.get_objects() if type(thing) in plain]
        tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({storage._cdata: storage.nbytes() for storage in storages}.values()) // 4

    gc.collect()
    before = numbers()
    config = WarmStartConfig(iterations=iterations, max_iterations=6, handover="none")
    warm_start(
        *(G, D),
        vectors(size=8),
        config=config,
        adapter=hooks(),
        callback=lambda report: held.append((numbers() - before) / weights),
        progress=False,
    )
    assert held[-1] <= most - 0.5 + G_share + 0.2  # samples and their projections


@pytest.mark.parametrize(("batch", "drawn"), [(32, 32), (4, 32), (2, 64)])
def test_few_passes_go_before_the_first_iteration_and_after_the_last(batch, drawn):
    """A look, a proof, the cost's unit, running statistics; then up to a thousand samples for the hand-over."""
    G, D = conv_pair()
    unit = 1 + REPETITIONS
    calls: collections.Counter[str] = collections.Counter()
    for name, net in (("G", G), ("D", D)):
        net.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))  # its copy has it, too
    seen = []

    def callback(report):
        seen.append(collections.Counter(calls))

    config = WarmStartConfig(iterations=2, langevin_steps=1, handover="logistic")
    adapter = Adapter(latent=hooks().latent)
    warm_start(G, D, images(80, batch), config=config, callback=callback, progress=False, adapter=adapter)
    begun = collections.Counter(G=2 + 1 + unit + 1, D=9 + 3 + 3 * unit + 4)  # with those of the first iteration
    assert seen[0] <= begun
    judged = -(-8 // batch)  # batches by which the last layers are found and proved
    assert calls - seen[-1] <= collections.Counter(G=drawn + 2 + 8, D=2 * drawn + (5 + 3) * judged)


def test_the_chain_under_spectral_norm_works_out_each_weight_once(monkeypatch):
    D = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 8)), nn.Tanh(), nn.Linear(8, 1))
    worked_out = []
    parametrization = D[0].parametrizations.weight[0]
    plain = parametrization.forward
    monkeypatch.setattr(parametrization, "forward", lambda weight: (worked_out.append(1), plain(weight))[1])
    likelihood_mode(D)
    G = mlp_pair()[0]
    adams = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
    step, settings, pair = step_size("balanced", 7), Settings(0.06, 0.1, [1.0]), bound(G, D, hooks())
    step.size = 1.0
    before = D[0].parametrizations.weight.original.clone()
    cooperate(pair, Memory(4), (vectors(1, 8)[0], torch.randn(8, Z), None), step, settings, *adams)
    assert len(worked_out) == 1 + 2  # for the chain, for refined samples, for real ones
    assert not torch.equal(D[0].parametrizations.weight.original, before)  # and it still learns


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_chain_leaves_no_weight_in_torchs_cache(error):
    """The cache is torch's, and global: what it kept of our frozen copy must not reach the user's networks."""
    G, D = mlp_pair()
    nn.utils.parametrizations.spectral_norm(D[0])
    kept = []

    def score(D, x, z, batch):
        f = D(x)
        if parametrize._cache:
            kept.append(len(parametrize._cache))
            raise error("in the chain")
        return f

    with pytest.raises((error, CoopInitError)):
        warm_start(G, D, vectors(), config=WarmStartConfig(iterations=2), adapter=hooks(score=score), progress=False)
    assert kept == [1]  # the error came while the cache was at work
    assert not parametrize._cache
    assert not parametrize._cache_enabled
