"""bf16, fp16, sharded weights: what runs in which precision, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from networks import Z, conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot, state_bits
from torch import nn
from torch.utils.data import DataLoader

from coopinit_plugin import CoopInitError, inspect, warm_start
from coopinit_plugin.method.iteration import cooperate


def warm(G, D, loader, *, adapter=None, **given):
    config = given.pop("config", short())
    return warm_start(G, D, loader, config=config, adapter=adapter or hooks(), progress=False, **given)


# --- mixed precision


def test_under_bf16_every_layer_runs_in_it_and_everything_between_in_single_precision(monkeypatch):
    layers, scores, samples = set(), set(), set()

    def watch(module, given, out):
        layers.add((type(module).__name__, out.dtype))

    G, D = mlp_pair()
    for layer in (*G, *D):
        layer.register_forward_hook(watch)

    def observed(pair, *rest):
        watched = replace(
            pair, logits=lambda *given: (scores.add((given[0].dtype, (f := pair.logits(*given)).dtype)), f)[1]
        )
        fake, found = cooperate(watched, *rest)
        samples.add((fake.dtype, found.real.dtype))
        return fake, found

    monkeypatch.setattr("coopinit_plugin.method.iteration.cooperate", observed)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)

    single = torch.float32
    warm(G, D, vectors(), accelerator=accelerator, callback=lambda step: layers_of(step, layers))
    assert scores == {(single, single)}  # x of the chain, f of the chain and of both losses
    assert samples == {(single, single)}


def layers_of(step, layers):
    """From the second iteration on, only what the warm-up itself runs has been seen."""
    if step.iteration > 1:
        assert {dtype for _, dtype in layers} == {torch.bfloat16}
    layers.clear()


def test_bf16_changes_the_weights_by_rounding_only():
    single, rounded = mlp_pair(), mlp_pair()
    warm(*single, vectors(), config=short(iterations=10))
    warm(*rounded, vectors(), config=short(iterations=10), accelerator=Accelerator(mixed_precision="bf16", cpu=True))
    for ours, theirs in zip(single, rounded, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert not torch.equal(a, b)
            assert torch.allclose(a, b, atol=0.02, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_are_warmed_up_in_single_and_rounded_at_the_end(dtype):
    half = [net.to(dtype) for net in conv_pair()]
    rounded = [net.to(dtype).float() for net in conv_pair()]
    loader = DataLoader(torch.cat(images()), 32)
    before = Snapshot(*half)
    adapter = hooks(latent=lambda n, device, batch: torch.randn(n, Z).to(dtype).to(batch.dtype))
    warm(*half, loader, adapter=adapter, config=short(handover="logistic"))
    before.assert_only_values_changed()
    warm(*rounded, loader, adapter=adapter, config=short(handover="logistic"))
    for ours, theirs in zip(half, rounded, strict=True):
        assert state_bits(ours) == state_bits(theirs.to(dtype))


def test_nothing_given_half_precision_is_inferred_as_well():
    G, D = (net.to(torch.bfloat16) for net in conv_pair())
    G = nn.Sequential(nn.Linear(Z, Z, dtype=torch.bfloat16), G)
    assert "latent" in str(inspect(G, D, images()))
    warm_start(G, D, [x.to(torch.bfloat16) for x in images()], config=short(), progress=False)


def test_fp16_autocast_is_refused_with_the_reason(monkeypatch):
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "mixed_precision", property(lambda self: "fp16"))
    refused(r"precision 'fp16'.*in fp16 the chain's gradients underflow.*bf16", accelerator=accelerator)


def refused(words, G=None, **given):
    G, D = G or mlp_pair()[0], mlp_pair()[1]
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=words) as caught:
        warm(G, D, vectors(), **given)
    before.assert_unchanged()
    return caught


# --- engines that shard the weights


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "MEGATRON_LM"])
def test_an_accelerator_that_shards_is_refused_with_the_way_around(kind, monkeypatch):
    from accelerate.utils import DistributedType

    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "distributed_type", property(lambda self: DistributedType[kind]))
    refused(f"runs {kind}.*plain process.*load_into your networks before sharding", accelerator=accelerator)


def test_networks_that_are_sharded_already_are_refused(tmp_path):
    from torch.distributed.fsdp import fully_shard

    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        G = fully_shard(mlp_pair()[0], mesh=mesh)
        with pytest.raises(CoopInitError, match=r"generator \(FSDP.*\) is sharded.*shard after that"):
            warm(G, mlp_pair()[1], vectors())
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
