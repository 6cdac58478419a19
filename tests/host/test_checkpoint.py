"""Killed and gone on with: the weights of a run that was never killed, bit for bit, wherever it was killed."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import sys
from pathlib import Path

import numpy
import pytest
import torch
from networks import Lambda, Z, conv_pair, hooks, images, mlp_pair, seeded, short, vectors
from snapshot import Snapshot, bits, state_bits
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from coopinit_plugin import CoopInitError, WarmStart, WarmStartConfig, warm_start
from coopinit_plugin.host import checkpoint
from coopinit_plugin.host.checkpoint import NAME, Checkpoints
from coopinit_plugin.host.engine import leave_group

ITERATIONS = 20  # the distance is read once, after 16
ALWAYS = 1e12  # a checkpoint after every iteration
FORK = multiprocessing.get_context("fork")


def networks():
    """All kinds of state: BatchNorm, spectral norm of both kinds, dropout, buffers, randomness of three libraries."""
    G, D = conv_pair()
    with seeded(7):
        parametrizations.spectral_norm(D[0])
        torch.nn.utils.spectral_norm(D[2])
    noisy = Lambda(lambda x: x + 0.01 * (random.random() + numpy.random.rand() + torch.rand(1)))
    return nn.Sequential(G, nn.Dropout(0.1), noisy), D


def loader(kind: str = "shuffled"):
    dataset = TensorDataset(torch.cat(images(5, 64)))
    if kind == "list":
        return [x[:64] for x in images(3, 64)]
    if kind == "iterator":
        return itertools.cycle(images(3, 64))
    generator = torch.Generator().manual_seed(3) if kind != "global" else None
    return DataLoader(dataset, 64, shuffle=True, generator=generator, num_workers=int(kind == "worker"))


def run(folder, *, kind="shuffled", resume=False, callback=None, config=None):
    G, D = networks()
    config = config or WarmStartConfig(max_iterations=ITERATIONS, handover="logistic")
    adapter = hooks(real=lambda batch: batch if isinstance(batch, torch.Tensor) else batch[0])
    given = {"config": config, "adapter": adapter, "callback": callback, "progress": False}
    result = warm_start(G, D, loader(kind), output_dir=folder, resume=resume, **given)
    return state_bits(G, D), result


@functools.cache
def never_killed(kind="shuffled"):
    return run(None, kind=kind)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def in_process(function, *arguments, ends: int = 0, limit: float = 100) -> None:
    """Run it in a real process, which has to end so."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        pytest.fail("hung")
    assert process.exitcode == ends


def killed(folder, at: int, kind: str, resume: bool) -> None:
    """A warm-up with many checkpoints that is killed after so many iterations."""
    checkpoint.SHARE = ALWAYS
    torch.manual_seed(at)  # the surroundings differ from run to run
    run(folder, kind=kind, resume=resume, callback=lambda step: die() if step.iteration == at else None)


def iterations_in(folder: Path) -> int:
    return len(Checkpoints(folder).read()["history"])


@pytest.mark.parametrize("kind", ["shuffled", "global", "list", "iterator", "worker"])
def test_killed_at_any_iteration_it_ends_with_the_same_bits(kind, tmp_path):
    whole, expected = never_killed(kind)
    reached = []
    for at in (1, 8, 9, 18, ITERATIONS) if kind == "shuffled" else (8, 18):
        in_process(killed, tmp_path, at, kind, at > 8 or kind == "shuffled", ends=-signal.SIGKILL)
        reached.append(iterations_in(tmp_path))
        assert not (tmp_path / "config.json").exists()
    assert reached == ([0, 7, 8, 17, ITERATIONS - 1] if kind == "shuffled" else [7, 17])
    again, result = run(tmp_path, kind=kind, resume=True)
    assert again == whole
    assert [vars(row) | {"seconds": 0} for row in result.history] == [
        vars(row) | {"seconds": 0} for row in expected.history
    ]
    seconds = [row.seconds for row in result.history]
    assert seconds == sorted(seconds)
    assert not (tmp_path / NAME).exists()
    assert run(tmp_path, resume=True)[0] == whole  # finished


def half_a_file(folder, how: str) -> None:
    """Killed in the middle of writing the second checkpoint, or right after it, or at the end of the warm-up."""
    checkpoint.SHARE = ALWAYS
    saved, replaced = torch.save, os.replace
    count = itertools.count(1)

    def save(state, file):
        saved(state, file)
        if next(count) == 2:
            os.truncate(file, os.path.getsize(file) // 2)
            die()

    def replace(source, target):
        replaced(source, target)
        if str(target).endswith(NAME) and next(count) == 2:
            die()

    if how == "half":
        torch.save = save
    elif how == "replaced":
        os.replace = replace
    elif how == "hand-over":
        sys.modules["coopinit_plugin.warmup"].hand_over = die
    elif how == "result":
        Checkpoints.remove = lambda self: die() if self.path.exists() else None
    elif how == "half a result":
        Path.write_text = lambda *_, **__: die()  # of config.json, the last file
    run(folder)


@pytest.mark.parametrize("how", ["half", "replaced", "hand-over", "result", "half a result"])
def test_killed_at_a_bad_moment_it_ends_with_the_same_bits(how, tmp_path):
    whole, _ = never_killed()
    in_process(half_a_file, tmp_path, how, ends=-signal.SIGKILL)
    assert iterations_in(tmp_path) >= 0
    assert run(tmp_path, resume=True)[0] == whole
    assert {path.name for path in tmp_path.iterdir()} == SAVED


SAVED = {
    *("generator.safetensors", "discriminator.safetensors", "samples.safetensors"),
    *("config.json", "README.md", "warm_start.png"),
}


def test_the_best_moment_and_the_readings_come_back(tmp_path, monkeypatch):
    """A warm-up that goes wrong after the interruption returns to the best moment before it."""
    from coopinit_plugin.method import stopping
    from coopinit_plugin.method.distance import SlicedWasserstein

    monkeypatch.setattr(stopping, "EVERY", 4)  # and so nine readings in 36 iterations
    monkeypatch.setattr(stopping, "WINDOW", 256)

    def scripted():
        readings = iter([0.9**k for k in range(8)] + [5.0] * 50)
        monkeypatch.setattr(SlicedWasserstein, "between", staticmethod(lambda a, b: torch.tensor(next(readings))))

    monkeypatch.setattr(checkpoint, "SHARE", ALWAYS)
    config = WarmStartConfig(max_iterations=300, handover="none")

    def stop(step):
        if step.iteration == 35:
            raise KeyboardInterrupt

    scripted()
    whole, expected = run(None, config=config)
    assert expected.summary["stopped_by"] == "worse"
    assert len(expected.history) == 36
    scripted()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config=config, callback=stop)
    assert iterations_in(tmp_path) == 34
    readings = iter([5.0] * 50)
    monkeypatch.setattr(SlicedWasserstein, "between", staticmethod(lambda a, b: torch.tensor(next(readings))))
    again, result = run(tmp_path, config=config, resume=True)
    assert (result.summary["stopped_by"], again) == ("worse", whole)


def pair_of_processes(rank, folder, at, resume, out):
    checkpoint.SHARE = ALWAYS if at > 0 else checkpoint.SHARE
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # else Accelerate sets the threads itself
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store-{at}-{resume}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)

    def callback(step):
        if step.iteration == at:
            die()

    bits_, _ = run(folder / "out" if out else None, resume=resume, callback=callback)
    (folder / f"{at}-{resume}-{rank}").write_text(repr(bits_))
    leave_group()


def of_two(folder, at, resume, out=True) -> list[int]:
    processes = [FORK.Process(target=pair_of_processes, args=(rank, folder, at, resume, out)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    hung = [process.kill() for process in processes if process.is_alive()]
    assert not hung
    return [process.exitcode for process in processes]


def test_two_processes_of_which_one_is_killed_go_on_with_the_same_bits(tmp_path):
    assert of_two(tmp_path, -1, False, out=False) == [0, 0]
    main, other = of_two(tmp_path, 12, False)
    assert main == -signal.SIGKILL
    assert other == 1  # an error, at once
    assert iterations_in(tmp_path / "out") == 11
    assert of_two(tmp_path, -1, True) == [0, 0]
    whole = (tmp_path / "-1-False-0").read_text()
    assert {(tmp_path / f"-1-{resume}-{rank}").read_text() for resume in (False, True) for rank in (0, 1)} == {whole}


# --- what is refused


@pytest.fixture
def begun(tmp_path):
    """A folder with a checkpoint."""

    def stop(step):
        raise KeyboardInterrupt

    G, D = mlp_pair()
    with pytest.raises(KeyboardInterrupt):
        warm_start(G, D, vectors(), config=short(), adapter=hooks(), output_dir=tmp_path, callback=stop, progress=False)
    return tmp_path


def refused(folder, words, *, networks=None, config=None):
    G, D = networks or mlp_pair()
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=words):
        warm_start(
            G,
            D,
            vectors(),
            config=config or short(),
            adapter=hooks(),
            output_dir=folder,
            resume=True,
            progress=False,
        )
    before.assert_unchanged()


def test_a_checkpoint_of_something_else_is_refused(begun):
    refused(begun, r"noise was None and is 0\.1.*resume=False", config=short(noise=0.1))
    refused(begun, r"G\.0\.weight was \[\[8, 3\].*and is \[\[9, 3\].*more", networks=mlp_pair(hidden=9))
    G, D = mlp_pair()
    refused(begun, r"D\.3\.weight was 'not there'", networks=(G, nn.Sequential(*D, nn.Linear(1, 1))))
    state = Checkpoints(begun).read()
    state["identity"]["the number of processes"] = 4
    Checkpoints(begun).write(state)
    refused(begun, "the number of processes was 4 and is 1")


def test_another_time_budget_is_no_other_warm_up(begun):
    result = warm_start(
        *mlp_pair(),
        vectors(),
        config=short(max_seconds=1000),
        adapter=hooks(),
        output_dir=begun,
        resume=True,
        progress=False,
    )
    assert result.summary["iterations"] == 3


def test_a_damaged_checkpoint_is_refused(begun):
    whole = (begun / NAME).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"something else"):
        (begun / NAME).write_bytes(damaged)
        refused(begun, "is no checkpoint of this library and version, or damaged.*resume=False")
    for foreign in ({"x": torch.zeros(1)}, torch.zeros(3), mlp_pair()[0]):
        torch.save(foreign, begun / NAME)
        refused(begun, "is no checkpoint of this library")


@pytest.mark.parametrize("missing", ["identity", "processes", "weights", "ensemble", "scale", "best"])
def test_a_checkpoint_of_another_version_is_refused_in_words(begun, missing):
    state = torch.load(begun / NAME, weights_only=False)
    del state[missing]
    torch.save(state, begun / NAME)
    refused(begun, "no checkpoint of this library and version.*resume=False")


def test_a_loader_with_a_generator_of_its_own_is_another_loader(begun):
    G, D = mlp_pair()
    data = DataLoader(torch.cat([*vectors()]), batch_size=32, shuffle=True, generator=torch.Generator())
    with pytest.raises(CoopInitError, match="the loader's own generators was 0 and is 1"):
        warm_start(G, D, data, config=short(), adapter=hooks(), output_dir=begun, resume=True, progress=False)


def test_what_is_no_folder_is_refused_in_words(begun):
    (begun / NAME).unlink()
    (begun / NAME).mkdir()
    with pytest.raises(CoopInitError, match=r"cannot be written .*networks are untouched"):
        warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), output_dir=begun, progress=False)


def test_a_result_that_cannot_be_saved_is_refused_in_words_and_can_be_gone_on_with(begun, monkeypatch):
    def full(*given, **how):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coopinit_plugin.result.warm_start._write_tensors", full)
    refused(begun, r"cannot be written \(\[Errno 28\] No space left on device\)")
    monkeypatch.undo()
    assert (begun / NAME).exists()


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_checkpoint_runs_no_code(begun, monkeypatch):
    monkeypatch.chdir(begun)
    torch.save({"identity": Harmful()}, begun / NAME)
    refused(begun, "is no checkpoint of this library")
    (begun / NAME).write_bytes(pickle.dumps(Harmful()))
    refused(begun, "is no checkpoint of this library")
    assert not (begun / "harmed").exists()


def test_a_finished_warm_up_of_other_settings_is_refused(tmp_path):
    warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), output_dir=tmp_path, progress=False)
    refused(tmp_path, "iterations was 3 and is 4", config=short(iterations=4))


def test_without_resume_it_begins_anew(begun):
    before = (begun / NAME).read_bytes()
    result = warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), output_dir=begun, progress=False)
    fresh = warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), progress=False)
    assert before
    assert not (begun / NAME).exists()
    assert all(bits(result.generator_state[key]) == bits(value) for key, value in fresh.generator_state.items())
    assert WarmStart.from_pretrained(begun).summary["iterations"] == 3


class Named(nn.Parameter):
    """A parameter of the user's own kind."""


def test_any_nest_comes_back_and_tied_tensors_share_their_memory(tmp_path):
    one = torch.arange(6.0).view(2, 3).t()
    nest = {"a": [one, (1, None, "x", one)], 3: {True: float("inf")}, "b": torch.zeros((), dtype=torch.int64), "c": {}}
    arrays = numpy.arange(3.0), numpy.array(["a", "bc"]), numpy.float64(0.1), numpy.int64(3), numpy.str_("y")
    named = {"named": Named(torch.ones(2)), "numpy": arrays}
    files = Checkpoints(tmp_path)
    files.write({"identity": {}, "scale": 1.0, **nest, **named})
    found = files.read()
    assert torch.equal(found["a"][0], one)
    assert found["a"][1][3].data_ptr() == found["a"][0].data_ptr()
    assert found["a"][1][:3] == (1, None, "x")
    assert (found[3], found["b"].dtype, found["c"]) == ({True: float("inf")}, torch.int64, {})
    assert (type(found["named"]), found["named"].tolist()) == (torch.Tensor, [1.0, 1.0])
    for ours, theirs in zip(found["numpy"], arrays, strict=True):
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        assert numpy.array_equal(ours, theirs)


def tied(folder=None, **given):
    """G ends in the layer that D begins with, and G uses a layer twice; the parameter is of the user's own class."""
    G, D = mlp_pair(data=8)
    G[2].weight = Named(G[2].weight.detach())
    D[0].weight = G[2].weight
    G = nn.Sequential(*G, nn.Tanh(), G[2])
    options = {"config": short(iterations=6), "adapter": hooks(), "output_dir": folder, "progress": False}
    warm_start(G, D, vectors(data=8), **options, **given)
    assert D[0].weight is G[2].weight
    return state_bits(G, D)


def with_arrays(folder=None, **given):
    """A condition that the collate function leaves in NumPy's arrays; chains keep it."""
    G, D = mlp_pair()
    loader = [{"x": x, "level": numpy.full((32, 1), k, "float32")} for k, x in enumerate(vectors())]
    adapter = hooks(
        real=lambda batch: batch["x"], score=lambda D, x, z, batch: D(x * (1 + torch.as_tensor(batch["level"])))
    )
    warm_start(G, D, loader, config=short(iterations=6), adapter=adapter, output_dir=folder, progress=False, **given)
    return state_bits(G, D)


@pytest.mark.parametrize("run", [tied, with_arrays])
def test_tied_layers_and_conditions_in_arrays_go_on_with_the_same_bits(run, tmp_path, monkeypatch):
    whole = run()
    monkeypatch.setattr(checkpoint, "SHARE", ALWAYS)

    def stop(step):
        if step.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callback=stop)
    assert iterations_in(tmp_path) == 3
    assert run(tmp_path, resume=True) == whole


def test_an_older_checkpoint_of_another_name_is_not_looked_at(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"old")
    result = warm_start(
        *mlp_pair(), vectors(), config=short(), adapter=hooks(), output_dir=tmp_path, resume=True, progress=False
    )
    assert result.summary["iterations"] == 3
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"old"


def test_checkpoints_cost_two_percent_of_the_time(tmp_path, monkeypatch):
    clock = iter([0.0, 0.4, 20.3, 20.5])  # the first is written in 0.4 s: the next is due 20 s later
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    files = Checkpoints(tmp_path)
    files.write({})
    assert not files.due
    assert files.due


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_ends_the_warm_up_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", ALWAYS)

    def fill(step):
        if step.iteration == 2:
            (tmp_path / f".{NAME}.new").symlink_to("/dev/full")

    G, D = mlp_pair()
    before = Snapshot(G, D)
    given = {"config": short(iterations=5), "adapter": hooks(), "callback": fill, "progress": False}
    with pytest.raises(CoopInitError, match=r"output_dir=.* cannot be written .*untouched.*with room in it"):
        warm_start(G, D, vectors(), output_dir=tmp_path, **given)
    before.assert_unchanged()
    assert iterations_in(tmp_path) == 1


def test_generators_numbers_are_those_of_an_unbroken_run(tmp_path):
    """The loader's own generator is put back at the end, also after going on."""
    data = loader()
    assert data.generator is not None
    before = data.generator.get_state()
    G, D = mlp_pair(data=32)
    adapter = hooks(real=lambda batch: batch[0].flatten(1))

    def stop(step):
        raise KeyboardInterrupt

    given = {"config": short(), "adapter": adapter, "output_dir": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        warm_start(G, D, data, callback=stop, **given)
    warm_start(G, D, data, resume=True, **given)
    assert torch.equal(data.generator.get_state(), before)
    assert G[0].weight.shape[1] == Z
