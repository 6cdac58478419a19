"""A warm start on disk: nothing lost, nothing half, nothing but safetensors."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from networks import Lambda, conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot, bits, state_bits
from torch import nn
from torch.nn.utils import parametrizations

from coopinit_plugin import CoopInitError, StepReport, WarmStart, WarmStartConfig, warm_start
from coopinit_plugin.host.networks import cpu_copy, state_of

FILES = ("generator.safetensors", "discriminator.safetensors", "samples.safetensors", "config.json")


def result_of(G: nn.Module, D: nn.Module) -> WarmStart:
    """A warm start that holds these networks' weights."""
    config = WarmStartConfig(iterations=2, betas=(0.1, 0.2), step_size=0.25, handover="hinge", seed=7)
    rows = [
        StepReport(1, 0.5, -1 / 3, 1e-30, 2.0, 2, 0.1, None, 0.25),
        StepReport(2, 0.1, 0.2, 0.3, 1.5, 3, 0.1, 0.625, 0.5),
    ]
    summary = {"iterations": 2, "seconds": 1 / 3}
    origin = {"generator": "G, 1,000 parameters", "discriminator": "D, 2,000 parameters", "device": "cpu"}
    return WarmStart(cpu_copy(state_of(G)), cpu_copy(state_of(D)), config, rows, summary, origin)


def tied_pair():
    G, D = mlp_pair(data=8)
    G = nn.Sequential(G, nn.Linear(8, 8))
    G[0][2].weight = G[1].weight
    D = nn.Sequential(D[:2], nn.Linear(8, 8), D[:2], D[2])  # one layer under two names
    return G, D


def channels_last_pair():
    return tuple(module.to(memory_format=torch.channels_last) for module in conv_pair())


def old_spectral_pair():
    G, D = mlp_pair()
    torch.nn.utils.spectral_norm(D[0])
    D(torch.randn(4, 2)).sum().backward()
    return G, D


def parametrized_pair():
    G, D = conv_pair()
    parametrizations.weight_norm(G[1])
    parametrizations.orthogonal(nn.Linear(2, 2))
    parametrizations.spectral_norm(D[0])
    return G, D


def empty_buffers_pair():
    G, D = mlp_pair()
    G.register_buffer("nothing", torch.empty(0, 3))
    D.register_buffer("one", torch.tensor(3.5))
    D.register_buffer("counts", torch.arange(3))
    D.register_buffer("flag", torch.tensor([True, False]))
    D.register_buffer("passing", torch.ones(2), persistent=False)
    return G, D


def strange_numbers_pair():
    G, D = mlp_pair()
    with torch.no_grad():
        G[0].weight[0, 0] = -0.0
        G[0].weight[0, 1] = torch.finfo(torch.float32).tiny / 8  # denormal
    return G, D.to(torch.bfloat16)


PAIRS = {
    "mlp": mlp_pair,
    "BatchNorm": conv_pair,
    "tied": tied_pair,
    "channels_last": channels_last_pair,
    "old spectral norm": old_spectral_pair,
    "parametrizations": parametrized_pair,
    "buffers": empty_buffers_pair,
    "strange numbers": strange_numbers_pair,
}


def scrambled(make) -> tuple[nn.Module, nn.Module]:
    """The same architecture with other numbers in it."""
    G, D = make()
    with torch.no_grad():
        for tensor in (*state_of(G).values(), *state_of(D).values()):
            if tensor.is_floating_point():
                tensor.add_(1.25)
    return G, D


@pytest.mark.parametrize("name", PAIRS)
def test_a_round_trip_keeps_every_bit(name, tmp_path):
    G, D = PAIRS[name]()
    saved = result_of(G, D)
    saved.save_pretrained(tmp_path / "init")
    read = WarmStart.from_pretrained(tmp_path / "init")
    for ours, theirs in (
        (saved.generator_state, read.generator_state),
        (saved.discriminator_state, read.discriminator_state),
    ):
        assert {key: (bits(value), value.shape, value.dtype) for key, value in ours.items()} == {
            key: (bits(value), value.shape, value.dtype) for key, value in theirs.items()
        }
    assert read.config == saved.config
    assert read.history == saved.history
    assert read.summary == saved.summary
    assert repr(read) == repr(saved)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "buffers"])
def test_load_into_writes_in_place(name, tmp_path):
    G, D = PAIRS[name]()
    result_of(G, D).save_pretrained(tmp_path / "init")
    other_g, other_d = scrambled(PAIRS[name])
    before = Snapshot(other_g, other_d)
    WarmStart.from_pretrained(tmp_path / "init").load_into(other_g, other_d)
    before.assert_only_values_changed()
    assert state_bits(other_g, other_d) == state_bits(G, D)


def test_load_into_needs_no_grad_mode_of_its_own():
    G, D = mlp_pair()
    result = result_of(G, D)
    for mode in (torch.enable_grad(), torch.inference_mode()):
        other_g, other_d = scrambled(mlp_pair)
        with mode:
            result.load_into(other_g, other_d)
        assert state_bits(other_g, other_d) == state_bits(G, D)
        assert other_g[0].weight.requires_grad


def test_buffers_of_every_kind_are_loaded(tmp_path):
    G, D = empty_buffers_pair()
    result_of(G, D).save_pretrained(tmp_path / "init")
    other_g, other_d = empty_buffers_pair()
    other_d.one.fill_(0)
    other_d.passing.fill_(5)
    WarmStart.from_pretrained(tmp_path / "init").load_into(other_g, other_d)
    assert (float(other_d.one), other_d.passing.tolist()) == (3.5, [5.0] * 2)


@pytest.mark.parametrize("name", [*PAIRS, "DataParallel", "compiled", "both"])
def test_safetensors_alone_loads_the_files(name, tmp_path):
    make = PAIRS.get(name, conv_pair)
    G, D = make()
    given_g, given_d = G, D
    if name in ("DataParallel", "both"):
        given_g, given_d = nn.DataParallel(G), nn.DataParallel(D)
    if name in ("compiled", "both"):
        given_g, given_d = torch.compile(given_g, backend="eager"), torch.compile(given_d, backend="eager")
    result_of(given_g, given_d).save_pretrained(tmp_path / "init")
    other_g, other_d = make() if name == "buffers" else scrambled(make)
    assert safetensors.torch.load_model(other_g, tmp_path / "init" / "generator.safetensors") in NOTHING_LEFT
    assert safetensors.torch.load_model(other_d, tmp_path / "init" / "discriminator.safetensors") in NOTHING_LEFT
    assert state_bits(other_g, other_d) == state_bits(G, D)


NOTHING_LEFT = [(set(), set()), (set(), []), ([], set()), ([], [])]


def test_tied_weights_are_stored_once(tmp_path):
    G, D = tied_pair()
    result_of(G, D).save_pretrained(tmp_path / "init")
    with safetensors.safe_open(tmp_path / "init" / "generator.safetensors", "pt") as file:
        assert ("0.2.weight" in file.keys()) + ("1.weight" in file.keys()) == 1  # noqa: SIM118 - no mapping
        assert file.metadata()["format"] == "pt"
    read = WarmStart.from_pretrained(tmp_path / "init").generator_state
    assert read["0.2.weight"] is read["1.weight"]


def test_the_folder_holds_no_pickle(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was used")

    result = result_of(*conv_pair())
    for module, name in [(pickle, "dump"), (pickle, "dumps"), (pickle, "load"), (pickle, "loads")]:
        monkeypatch.setattr(module, name, refuse)
    for name in ("save", "load"):
        monkeypatch.setattr(torch, name, refuse)
    result.save_pretrained(tmp_path / "init")
    WarmStart.from_pretrained(tmp_path / "init").load_into(*conv_pair())
    assert {path.name for path in (tmp_path / "init").iterdir()} == {*FILES, "README.md", "warm_start.png"}
    json.loads((tmp_path / "init" / "config.json").read_text())


def test_the_folder_is_made_and_open_to_others(tmp_path):
    target = tmp_path / "some" / "deep" / "init"
    mask = os.umask(0o022)
    try:
        result_of(*mlp_pair()).save_pretrained(str(target))
    finally:
        os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in target.iterdir()} == {0o644}
    assert os.listdir(tmp_path / "some" / "deep") == ["init"]  # nothing left over beside it


def test_saving_over_an_older_one(tmp_path):
    first, second = result_of(*mlp_pair(seed=1)), result_of(*mlp_pair(seed=2))
    first.save_pretrained(tmp_path / "init")
    (tmp_path / "init" / "notes.txt").write_text("the user's own")
    second.save_pretrained(tmp_path / "init")
    read = WarmStart.from_pretrained(tmp_path / "init")
    assert bits(read.generator_state["0.weight"]) == bits(second.generator_state["0.weight"])
    assert (tmp_path / "init" / "notes.txt").read_text() == "the user's own"
    assert os.listdir(tmp_path) == ["init"]


@pytest.mark.parametrize("at", FILES[:3])
def test_files_of_two_saves_are_never_taken_for_one(tmp_path, monkeypatch, at):
    first, second = result_of(*mlp_pair(seed=1)), result_of(*mlp_pair(seed=2))
    first.save_pretrained(tmp_path / "init")
    original = Path.replace

    def interrupted(path, target):
        if Path(target).name == at:
            raise KeyboardInterrupt
        return original(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        second.save_pretrained(tmp_path / "init")
    monkeypatch.undo()
    with pytest.raises(CoopInitError, match=r"has no config\.json.*only half of one"):
        WarmStart.from_pretrained(tmp_path / "init")
    second.save_pretrained(tmp_path / "init")
    read = WarmStart.from_pretrained(tmp_path / "init")
    assert bits(read.generator_state["0.weight"]) == bits(second.generator_state["0.weight"])


@pytest.mark.parametrize("part", FILES)
def test_a_save_that_breaks_off_while_it_writes_leaves_the_older_one_whole(tmp_path, monkeypatch, part):
    result_of(*mlp_pair(seed=1)).save_pretrained(tmp_path / "init")
    before = {file.name: file.read_bytes() for file in (tmp_path / "init").iterdir()}
    for kind in ("write_bytes", "write_text"):
        original = getattr(Path, kind)

        def full(path, *given, original=original, **how):
            if path.name == part:
                raise OSError(28, "No space left on device")
            return original(path, *given, **how)

        monkeypatch.setattr(Path, kind, full)
    with pytest.raises(OSError, match="No space left"):
        result_of(*mlp_pair(seed=2)).save_pretrained(tmp_path / "init")
    assert {file.name: file.read_bytes() for file in (tmp_path / "init").iterdir()} == before


def test_what_was_read_can_be_saved_where_it_was_read_from(tmp_path):
    result_of(*mlp_pair(hidden=100_000)).save_pretrained(tmp_path)
    read = WarmStart.from_pretrained(tmp_path)
    kept = {key: bits(value) for key, value in read.generator_state.items()}
    read.save_pretrained(tmp_path)
    again = WarmStart.from_pretrained(tmp_path).generator_state
    assert {key: bits(value) for key, value in again.items()} == kept


@pytest.fixture
def saved(tmp_path):
    result_of(*mlp_pair()).save_pretrained(tmp_path / "init")
    return tmp_path / "init"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CoopInitError, match=rf"has no {name}: no warm start was saved there by save_pretrained"):
        WarmStart.from_pretrained(saved)


def test_an_unfinished_warm_up_is_said_to_be_one(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(CoopInitError, match=r"was interrupted there, go on with it: .*resume=True.*--resume"):
        WarmStart.from_pretrained(tmp_path)


def test_an_empty_folder_is_no_warm_start(tmp_path):
    with pytest.raises(CoopInitError, match="no warm start was saved there"):
        WarmStart.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(saved, name, keep):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    if name == "config.json" and keep == -1:  # only the last newline is gone
        WarmStart.from_pretrained(saved)
        return
    with pytest.raises(CoopInitError, match=name):
        WarmStart.from_pretrained(saved)


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "null", "{}", '"config"', "not json", '{"config": {}, "sha256": {}, "history": []}', b"\xff\xfe{"],
)
def test_a_config_of_someone_else_is_refused(saved, text):
    (saved / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CoopInitError, match=r"config\.json was not written by coopinit_plugin"):
        WarmStart.from_pretrained(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["config"].update(iterations=-3),
        lambda told: told["config"].update(of_a_later_version=1),
        lambda told: told["history"][0].update(of_a_later_version=1),
        lambda told: told["history"][0].pop("real"),
        lambda told: told.pop("summary"),
        lambda told: told.update(history=None),
        lambda told: told.update(origin=None),
        lambda told: told.update(config=None),
    ],
)
def test_a_config_with_something_wrong_in_it_is_refused(saved, change):
    told = json.loads((saved / "config.json").read_text())
    change(told)
    (saved / "config.json").write_text(json.dumps(told))
    with pytest.raises(CoopInitError):
        WarmStart.from_pretrained(saved)


@pytest.mark.parametrize("below", ["", "deeper/init"])
def test_a_folder_that_cannot_be_written_leaves_the_result_whole(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    result = result_of(*mlp_pair())
    with pytest.raises(OSError, match=r"file"):
        result.save_pretrained(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]
    result.save_pretrained(tmp_path / "elsewhere")
    assert WarmStart.from_pretrained(tmp_path / "elsewhere").summary == result.summary


def test_a_full_disk_leaves_the_result_whole(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    result = result_of(*mlp_pair())
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device"):
        result.save_pretrained(tmp_path / "init")
    monkeypatch.undo()
    result.save_pretrained(tmp_path / "elsewhere")
    assert WarmStart.from_pretrained(tmp_path / "elsewhere").summary == result.summary


# --- the wrong architecture


def refused(result: WarmStart, G: nn.Module, D: nn.Module) -> str:
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError) as caught:
        result.load_into(G, D)
    before.assert_unchanged()
    return str(caught.value)


def test_a_wrong_shape_in_d_leaves_g_untouched_too():
    message = refused(result_of(*mlp_pair()), scrambled(mlp_pair)[0], mlp_pair(data=4)[1])
    assert "do not fit D (Sequential)" in message
    assert "0.weight has shape (8, 4) in the module, (8, 2) in the weights" in message
    assert "Nothing was changed" in message
    assert "same arguments" in message


def test_missing_and_unknown_names_are_told_and_counted():
    G, D = mlp_pair()
    message = refused(result_of(G, D), nn.Sequential(nn.BatchNorm1d(2), *mlp_pair()[0]), D)
    assert "do not fit G" in message
    assert "0.running_mean is missing in the weights" in message
    assert "more)" in message
    message = refused(result_of(nn.Sequential(G, nn.Linear(2, 2)), D), nn.Sequential(G), D)
    assert "1.weight is not in the module" in message


def test_spectral_norms_of_two_kinds_do_not_go_together():
    G, D = old_spectral_pair()
    new = mlp_pair()[1]
    parametrizations.spectral_norm(new[0])
    assert "parametrizations.weight.original" in refused(result_of(G, D), G, new)


def test_a_shape_that_would_broadcast_is_refused():
    G, D = mlp_pair()
    wide = copy.deepcopy(D)
    wide[2].bias = nn.Parameter(torch.zeros(4))
    assert "2.bias has shape (4,) in the module, (1,) in the weights" in refused(result_of(G, D), G, wide)


def test_a_result_is_no_view_of_the_networks():
    G, D = mlp_pair()
    result = warm_start(G, D, vectors(), config=short(), adapter=hooks(), progress=False)
    kept = copy.deepcopy(result.generator_state)
    with torch.no_grad():
        G[0].weight.zero_()
    assert all(torch.equal(result.generator_state[key], kept[key]) for key in kept)
    assert not any(value.requires_grad for value in result.generator_state.values())


def test_a_warm_start_goes_the_whole_way(tmp_path):
    G, D = conv_pair()
    D = nn.Sequential(D, Lambda(lambda f: f * 1))
    output = tmp_path / "init"
    result = warm_start(
        G, D, images(), config=short(handover="hinge"), adapter=hooks(), output_dir=output, progress=False
    )
    read = WarmStart.from_pretrained(str(output))
    assert read.history == result.history
    assert read.summary == result.summary
    assert read.config == result.config
    other_g, other_d = scrambled(conv_pair)
    read.load_into(other_g, nn.Sequential(other_d, nn.Identity()))
    assert state_bits(other_g) == state_bits(G)
    assert [*state_bits(other_d)[0].values()] == [*state_bits(D)[0].values()]


def test_the_summary_tells_what_happened():
    result = warm_start(*mlp_pair(), vectors(), config=short(handover="logistic"), adapter=hooks(), progress=False)
    told = result.summary
    assert (told["iterations"], told["stopped_by"], told["handover"]) == (3, "iterations", "logistic")
    assert told["handover_moved"] == "scale and shift"
    assert 0 < told["seconds"] < 600
    assert told["logit_real_mean"] > told["logit_fake_mean"]
    assert "3, stopped by iterations" in repr(result)
