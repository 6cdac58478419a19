"""Cases that every process runs; each notes what it saw, and the test compares the notes of all processes.

Run by a launcher as ``python -m launched.cases FOLDER CASE ...``.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed
from accelerate import Accelerator, DataLoaderConfiguration
from networks import (
    Fuse,
    Fused,
    FusedLoader,
    Lambda,
    Z,
    conv_pair,
    grid,
    hooks,
    images,
    mlp_pair,
    short,
    simple_pair,
    vectors,
)
from snapshot import Snapshot, state_bits
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, warm_start


def rank() -> int:
    """Which process this is, also where no launcher says so."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else int(os.environ.get("RANK", 0))


def digest(*modules) -> str:
    return hashlib.sha256(repr(state_bits(*modules)).encode()).hexdigest()


def warm(G, D, loader, *, adapter=None, **given):
    config = given.pop("config", short())
    return warm_start(G, D, loader, config=config, adapter=adapter or hooks(), progress=False, **given)


FROM_BATCH = {"real": lambda batch: batch[0], "latent": lambda n, device, batch: batch[1]}


def sharded():
    """A shuffled DataLoader without a thought for processes; networks that differ between them before."""
    G, D = conv_pair(seed=rank())
    seen, latents = [], []

    def real(batch):
        seen.append([hashlib.sha1(row.numpy().tobytes()).hexdigest() for row in batch])
        return batch

    def latent(n, device, batch):
        z = torch.randn(n, Z, device=device)
        latents.append(float(z.sum()))
        return z

    loader = DataLoader(torch.cat(images(8, 8)), 8, shuffle=True)
    before, grouped = Snapshot(G, D, loader=loader), torch.distributed.is_initialized()
    result = warm(
        G, D, loader, adapter=hooks(real=real, latent=latent), config=short(iterations=4, handover="logistic")
    )
    before.assert_only_values_changed()
    assert torch.distributed.is_initialized() == grouped
    epoch = [batch for batch, _ in itertools.groupby(seen)][: 8 // torch_processes()]  # the first was looked at before
    rows = [row for batch in epoch for row in batch]
    told = {key: value for key, value in result.summary.items() if key not in ("seconds", "cost_in_steps")}
    return {
        "digest": digest(G, D),
        "rows": rows,
        "latents": latents,
        "summary": told,
        "seconds": result.summary["seconds"],
    }


def whole(norm: bool = False, processes: int = 1, iterations: int = 12):
    """Half a batch each in two processes, or the whole batch in one; the chain without noise."""
    G, D = conv_pair(norm=False) if not norm else (conv_pair(norm=False)[0], conv_pair()[1])
    generator = torch.Generator().manual_seed(5)
    x = torch.cat(images(8, 32))
    dataset = TensorDataset(x, torch.randn(len(x), Z, generator=generator))
    loader = DataLoader(dataset, 32 // processes)
    config = WarmStartConfig(iterations=iterations, noise=0.0, handover="logistic")
    result = warm(G, D, loader, adapter=hooks(**FROM_BATCH), config=config)
    weights = [value for state in (result.generator_state, result.discriminator_state) for value in state.values()]
    return {
        "weights": [value.flatten().tolist() for value in weights],
        "step_size": [row.step_size for row in result.history],
        "distance": result.summary["distance_last"],
        "scale": result.summary["handover_scale"],
    }


def halves():
    return {name: whole(norm, torch_processes()) for name, norm in (("plain", False), ("BatchNorm", True))}


def torch_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 2))


def traffic():
    """Every byte that leaves a process, by the number of iterations."""
    sent: list[tuple[str, int]] = []
    originals = {name: getattr(torch.distributed, name) for name in ("all_reduce", "all_gather", "broadcast")}
    gathers = ("all_gather_into_tensor", "_all_gather_base")
    originals.update({name: getattr(torch.distributed, name) for name in gathers if hasattr(torch.distributed, name)})

    def counting(name, original):
        def call(*arguments, **options):
            value = arguments[1] if "gather" in name else arguments[0]
            sent.append((name, value.numel() * value.element_size()))
            return original(*arguments, **options)

        return call

    def run(iterations, net):
        sent.clear()
        for name, original in originals.items():
            setattr(torch.distributed, name, counting(name, original))
        try:
            G, D = net()
            warm(G, D, DataLoader(torch.cat(images(8, 8)), 8), config=short(iterations=iterations, handover="none"))
        finally:
            for name, original in originals.items():
                setattr(torch.distributed, name, original)
        return sum(size for _, size in sent), sum(p.numel() * 4 for m in (G, D) for p in m.parameters())

    told = {}
    for name, net in (("plain", lambda: conv_pair(norm=False)), ("BatchNorm", conv_pair)):
        (few, gradients), (many, _) = run(2, net), run(7, net)
        told[name] = {"an iteration": (many - few) / 5, "gradients": gradients}
    return told


def company():
    """A D with too little to say, whose copies join in."""
    G, D = simple_pair()
    loader = DataLoader(torch.cat(grid()), 64 // torch_processes())
    config = WarmStartConfig(max_iterations=80, handover="hinge")
    result = warm_start(G, D, loader, config=config, progress=False)
    return {"energies": result.summary["energies"], "digest": digest(G, D)}


def stops():
    """The main process's callback, and the time budget, end all at the same iteration."""
    callback = (lambda step: False if step.iteration == 2 else None) if rank() == 0 else None
    G, D = mlp_pair()
    by_callback = warm(G, D, DataLoader(torch.cat(vectors()), 8), config=short(iterations=9), callback=callback)
    slow = nn.Sequential(mlp_pair()[0], Lambda(lambda x: (time.sleep(0.03 * (1 + 2 * rank())), x)[1]))
    config = short(iterations=10_000, max_seconds=1.5)
    by_time = warm(slow, mlp_pair()[1], DataLoader(torch.cat(vectors()), 8), config=config)
    return [(result.summary["stopped_by"], result.summary["iterations"]) for result in (by_callback, by_time)]


def failures():
    """One process fails, each time elsewhere: all end, networks untouched, and can go on."""
    told = {}
    last = torch_processes() - 1
    for place, who, at, error in (
        ("loader", last, 1, ValueError),
        ("loader", 0, 3, ValueError),
        ("G", last, 3, ValueError),
        ("D", 0, 12, ValueError),
        ("D", last, 7, KeyboardInterrupt),
        ("callback", 0, 2, ValueError),
        ("write", 0, 1, ValueError),
    ):
        fuse = Fuse(at if rank() == who else None, error)
        G, D = mlp_pair()
        given, loader = {}, vectors(4, 8)
        if place == "loader":
            loader = FusedLoader(vectors(4, 8), fuse)
        elif place == "G":
            G = nn.Sequential(G, Fused(fuse))
        elif place == "D":
            D = nn.Sequential(Fused(fuse), D)
        elif place == "callback":
            given["callback"] = lambda step, fuse=fuse: fuse.light()
        elif place == "write":
            given["output_dir"] = "/dev/null/init"
        before, began = Snapshot(G, D), time.monotonic()
        try:
            warm(G, D, loader, **given)
            message = "no error"
        except BaseException as caught:
            message = f"{type(caught).__name__}: {caught}"
        assert message != "no error", place
        before.assert_unchanged()
        assert time.monotonic() - began < 20
        told[f"{place} of {who} at {at}"] = message
    G, D = mlp_pair()
    warm(G, D, vectors(4, 8))
    told["afterwards"] = digest(G, D)
    return told


def uneven():
    """Each process has its own iterable, of its own length."""
    G, D = mlp_pair()
    own = vectors(2 + 3 * rank(), 8, seed=rank())
    warm(G, D, own, config=short(iterations=9))
    return {"digest": digest(G, D)}


def unshared():
    """What Accelerate cannot shard: a list and an iterator are taken as they are in each process."""
    seen = []

    def real(batch):
        seen.append(float(batch[0, 0]))
        return batch

    G, D = mlp_pair()
    batches = [torch.full((8, 2), float(k)) + 0.1 * torch.randn(8, 2) for k in range(5)]
    batches = [x - x[0, 0] + k for k, x in enumerate(batches)]
    warm(G, D, batches, adapter=hooks(real=real), config=short(iterations=6, handover="none"))
    order = list(seen)
    seen.clear()
    warm(G, D, itertools.cycle(batches), adapter=hooks(real=real), config=short(iterations=6, handover="none"))
    return {"order": order, "iterator": list(seen), "digest": digest(G, D)}


def distributed_sampler():
    """The user's own DistributedSampler is not sharded again."""
    dataset = torch.arange(64.0).view(32, 2)
    seen = []

    def real(batch):
        seen.append(int(batch[0, 0]) // 2)
        return (batch - 32) / 16

    sampler = DistributedSampler(dataset, torch_processes(), rank(), shuffle=False)
    G, D = mlp_pair()
    warm(G, D, DataLoader(dataset, 4, sampler=sampler), adapter=hooks(real=real))
    return seen[:4]


def wrapped():
    """The user's own Accelerator in bf16, its prepared networks, DDP and optimizers: as before, and go on.

    The last case of a launch: a second process group of the user's would find the addresses of the first.
    """
    uneven_ends = DataLoaderConfiguration(even_batches=False)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True, dataloader_config=uneven_ends)
    plain = conv_pair()
    loader = DataLoader(torch.cat(images(2 * torch_processes() + 1, 8)), 8, shuffle=True)
    adams = [torch.optim.Adam(net.parameters(), 1e-3) for net in plain]
    G, D, adam_g, adam_d, loader = accelerator.prepare(*plain, *adams, loader)
    assert isinstance(G, nn.parallel.DistributedDataParallel)
    compiled = torch.compile(D, backend="eager")
    told = {"batches": len(list(loader))}
    before = Snapshot(G, D, loader=loader, accelerator=accelerator)
    references = list(accelerator.gradient_state.dataloader_references)
    warm(G, compiled, loader, accelerator=accelerator, config=short(iterations=9, handover="logistic"))
    before.assert_only_values_changed()
    told["given"] = digest(*plain)
    warm(G, nn.DataParallel(copy.deepcopy(plain[1])), loader)  # not given, but there
    before.assert_only_values_changed()
    assert accelerator.gradient_state.dataloader_references == references
    assert torch.distributed.is_initialized()
    for batch in loader:
        # apart: DDP with BatchNorm allowed no two passes before one backward until torch mended it
        accelerator.backward(D(G(torch.randn(len(batch), Z))).mean())
        accelerator.backward(D(batch).square().mean())
        adam_g.step()
        adam_d.step()
        break
    told["adversarial"] = digest(*[list_of(net) for net in plain])
    accelerator.end_training()
    assert not torch.distributed.is_initialized()
    return told


def list_of(net):
    """The parameters alone: each process has its own running statistics in the user's loop."""
    return nn.ParameterList(net.parameters())


def halved():
    """Parameters in bf16 and half, data in either."""
    told = {}
    for dtype in (torch.bfloat16, torch.float16):
        G, D = (net.to(dtype) for net in conv_pair())
        before = Snapshot(G, D)
        warm(G, D, DataLoader(torch.cat(images(8, 8)).to(dtype), 8))
        before.assert_only_values_changed()
        told[str(dtype)] = digest(G, D)
    return told


def inferred():
    """Nothing given: the look, the stop and the hand-over of the default settings."""
    G, D = conv_pair()
    G = nn.Sequential(nn.Linear(Z, Z), G)
    loader = DataLoader(TensorDataset(torch.cat(images(8, 64)), torch.zeros(512).long()), 64, shuffle=True)
    config = WarmStartConfig(max_iterations=40)
    result = warm_start(G, D, loader, config=config, progress=False)
    return {
        "digest": digest(G, D),
        "summary": [result.summary[key] for key in ("stopped_by", "iterations", "logit_real_std")],
    }


def sizes():
    """Batches of different sizes are refused in all processes."""
    try:
        warm(*mlp_pair(), vectors(2, 8 + rank()))
    except CoopInitError as error:
        return str(error)
    return "no error"


def settings():
    """Settings that differ between the processes are refused in all of them."""
    try:
        warm(*mlp_pair(), vectors(2, 8), config=short(seed=rank()))
    except CoopInitError as error:
        return str(error).partition(", here")[0]
    return "no error"


def adapters():
    """Hooks that call the networks' own methods, which a DDP wrapper would hide."""

    class Styled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mapping, self.synthesis = nn.Linear(Z, 4), nn.Linear(4, 2)

    adapter = Adapter(
        latent=lambda n, device, batch: torch.randn(n, Z), generate=lambda G, z: G.synthesis(torch.relu(G.mapping(z)))
    )
    G = Styled()
    started = digest(G)
    D = mlp_pair()[1]
    warm_start(G, D, DataLoader(torch.cat(vectors()), 8), config=short(), adapter=adapter, progress=False)
    assert digest(G) != started
    return digest(G, D)


def run(folder: str, *names: str) -> None:
    """Run the cases and leave their notes."""
    torch.set_num_threads(1)
    notes = {}
    for name in names:
        torch.manual_seed(0)
        notes[name] = globals()[name]()
    path = Path(folder) / f"{rank()}.json"
    path.write_text(json.dumps(notes))


if __name__ == "__main__":
    run(*sys.argv[1:])
