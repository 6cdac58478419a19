"""On a GPU: the same promises, where the networks, the random state and the memory are the device's."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from snapshot import state_bits
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import coopinit_plugin
from coopinit_plugin import Adapter, CoopInitError, WarmStart, WarmStartConfig, warm_start
from coopinit_plugin.host import checkpoint
from tests.benchmarks.networks import CASES, dcgan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SHORT = WarmStartConfig(iterations=6)


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    """Accelerate may see the device, as in a user's process."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


def pair(device: str = "cuda"):
    torch.manual_seed(0)
    G, D = dcgan(16, width=16, z=8)
    return G.to(device), D.to(device)


def loader(device: str = "cpu"):
    return list((torch.rand(4, 16, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1).to(device))


def finite(*nets: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for net in nets for tensor in net.state_dict().values())


@pytest.mark.parametrize("batches_on", ["cpu", "cuda"])
def test_the_networks_stay_on_their_device_and_learn(batches_on):
    G, D = pair()
    before = state_bits(G, D)
    tensors = [(p, p.data_ptr()) for net in (G, D) for p in net.parameters()]
    result = warm_start(G, D, loader(batches_on), config=SHORT, progress=False)
    assert before != state_bits(G, D)
    assert all(p.data_ptr() == where and p.device.type == "cuda" for p, where in tensors)
    assert all(value.device.type == "cpu" for value in result.generator_state.values())
    assert finite(G, D)


def test_networks_on_the_cpu_are_warmed_up_on_the_gpu_and_stay_where_they_are():
    G, D = pair("cpu")
    seen = []
    warm_start(
        G,
        D,
        loader(),
        config=SHORT,
        adapter=Adapter(score=lambda D, x, z, batch: seen.append(x.device.type) or D(x)),
        progress=False,
    )
    assert set(seen[1:]) >= {"cuda"}
    assert next(G.parameters()).device.type == "cpu"


def test_the_same_seed_gives_the_same_start_bit_for_bit_with_deterministic_convolutions():
    """Others add up in an order of their own there."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    was = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        found = []
        for _ in range(2):
            G, D = pair()
            warm_start(G, D, loader(), config=SHORT, progress=False)
            found.append(state_bits(G, D))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = was
    assert found[0] == found[1]


def test_random_state_of_the_device_is_as_it_was():
    G, D = pair()
    torch.cuda.manual_seed(7)
    wanted = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(7)
    warm_start(G, D, loader(), config=SHORT, progress=False)
    assert torch.equal(wanted, torch.rand(3, device="cuda"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_all_as_it_was(error):
    G, D = pair()
    before, state = state_bits(G, D), torch.cuda.get_rng_state()

    def fails(report):
        if report.iteration == 3:
            raise error("stop")

    with pytest.raises(error):
        warm_start(G, D, loader(), config=SHORT, callback=fails, progress=False)
    assert before == state_bits(G, D)
    assert torch.equal(state, torch.cuda.get_rng_state())


def test_the_memory_is_free_again():
    G, D = pair()
    config = WarmStartConfig(iterations=3)
    warm_start(G, D, loader(), config=config, progress=False)  # cuBLAS and cuDNN take their workspaces once
    held = torch.cuda.memory_allocated()
    result = warm_start(G, D, loader(), config=config, progress=False)
    assert torch.cuda.memory_allocated() == held
    assert result.summary["iterations"] == 3


def test_out_of_memory_leaves_the_networks_and_no_memory_behind():
    G, D = pair()
    before, held = state_bits(G, D), torch.cuda.memory_allocated()

    def greedy(D, x, z, batch):
        return D(x) + torch.zeros(2**42, device="cuda")[0]

    with pytest.raises((CoopInitError, torch.OutOfMemoryError), match="out of memory"):
        warm_start(G, D, loader(), config=SHORT, adapter=Adapter(score=greedy), progress=False)
    assert before == state_bits(G, D)
    gc.collect()
    assert torch.cuda.memory_allocated() == held


def test_bf16_by_the_users_accelerator():
    from accelerate import Accelerator

    G, D = pair()
    accelerator = Accelerator(mixed_precision="bf16")
    wrapped = accelerator.prepare(G), accelerator.prepare(D)
    result = warm_start(*wrapped, loader(), config=SHORT, accelerator=accelerator, progress=False)
    assert finite(G, D)
    assert result.summary["iterations"] == 6
    assert {p.dtype for p in G.parameters()} == {torch.float32}


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """To the same weights within rounding: convolutions on the device may add up in another order."""
    G, D = pair()
    whole = warm_start(G, D, loader(), config=SHORT, progress=False)

    def fails(report):
        if report.iteration == 4:
            raise KeyboardInterrupt

    again = pair()
    torch.manual_seed(3)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # after every iteration
    with pytest.raises(KeyboardInterrupt):
        warm_start(*again, loader(), config=SHORT, output_dir=tmp_path, callback=fails, progress=False)
    assert checkpoint.Checkpoints(tmp_path).exists
    resumed = warm_start(*again, loader(), config=SHORT, output_dir=tmp_path, resume=True, progress=False)
    assert len(resumed.history) == 6
    for name, value in whole.generator_state.items():
        torch.testing.assert_close(resumed.generator_state[name], value, rtol=1e-2, atol=1e-3)


def test_the_result_is_saved_and_loaded_back_into_networks_on_the_device(tmp_path):
    G, D = pair()
    warm_start(G, D, loader(), config=SHORT, progress=False).save_pretrained(tmp_path)
    fresh = pair()
    WarmStart.from_pretrained(tmp_path).load_into(*fresh)
    assert state_bits(G, D) == state_bits(*fresh)
    assert next(fresh[0].parameters()).device.type == "cuda"


@pytest.mark.parametrize("handover", ["logistic", "hinge", "least_squares", "wasserstein", "relativistic"])
def test_spectral_norm_and_every_hand_over(handover):
    G, D = pair()
    for layer in list(D):
        if isinstance(layer, nn.Conv2d):
            spectral_norm(layer)
    D.to("cuda")
    config = WarmStartConfig(iterations=4, handover=handover)
    result = warm_start(G, D, loader(), config=config, progress=False)
    assert result.summary["handover"]
    assert finite(G, D)


def test_a_loader_with_pinned_memory_and_workers():
    from torch.utils.data import DataLoader, TensorDataset

    G, D = pair()
    data = DataLoader(
        TensorDataset(torch.cat(loader()), torch.zeros(64)), batch_size=16, shuffle=True, num_workers=2, pin_memory=True
    )
    assert warm_start(G, D, data, config=SHORT, progress=False).summary["iterations"] == 6


def test_compiled_networks():
    G, D = pair()
    result = warm_start(torch.compile(G), D, loader(), config=WarmStartConfig(iterations=4), progress=False)
    assert result.summary["iterations"] == 4
    assert "_orig_mod" not in str(list(result.generator_state))


def test_the_stylegan2_like_pair_and_its_automatic_stop():
    case = CASES["StyleGAN2-like 64²"]
    G, D = case.pair("cuda")
    before = copy.deepcopy(G.state_dict())
    result = warm_start(G, D, [case.data()[0]], config=WarmStartConfig(max_iterations=20), progress=False)
    assert result.summary["iterations"] == 20
    assert any(not torch.equal(before[name], value) for name, value in G.state_dict().items())


def test_inspect_tells_of_networks_on_the_device():
    told = str(coopinit_plugin.inspect(*pair(), loader()))
    assert "latent" in told


def test_a_mask_on_the_cpu_and_its_resumed_run(tmp_path, monkeypatch):
    adapter = Adapter(mask=torch.ones(1, 1, 16, 16))

    def fails(report):
        if report.iteration == 4:
            raise KeyboardInterrupt

    again = pair()
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    given = {"config": SHORT, "adapter": adapter, "output_dir": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        warm_start(*again, loader(), callback=fails, **given)
    assert len(warm_start(*again, loader(), resume=True, **given).history) == 6
