"""The shell: what it prints, what it returns, and that a mistake costs one line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from forked import python_m
from hub_server import ID, Hub, hub, same  # noqa: F401 - hub is a fixture

from coopinit_plugin import WarmStart
from coopinit_plugin.cli import main

NETWORKS = """
import torch
from torch import nn
from coopinit_plugin import Adapter

def make():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
    D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    return G, D, [torch.randn(32, 2) + 1 for _ in range(4)]

def told():
    return *make(), Adapter(d_loss=lambda real, fake: fake.mean() - real.mean())

def nothing():
    pass

def two():
    return make()[:2]

def broken():
    raise ValueError("no\\nsuch data")

def leaving():
    raise SystemExit(1)

class Batches(list):
    # of which one is never given: Ctrl-C comes first
    def __init__(self, batches, at=None):
        super().__init__(batches)
        self.at, self.given = at, 0

    def __iter__(self):
        for batch in super().__iter__():
            if self.given == self.at:
                raise KeyboardInterrupt
            self.given += 1
            yield batch

def seeded(at=None):
    G, D, batches = make()
    return G, D, Batches(batches, at)

def interrupted():
    return seeded(at=5)  # after an epoch, by which σ is found

def at_once():
    return seeded(at=0)

value = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the user's with networks.py in it."""
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "bad.py").write_text("def make(:\n")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("networks_of_mine", None)


PAIR = "networks_of_mine.py:make"
SHORT = ["--set", "iterations=3"]


def test_inspect_prints_the_table(here, capsys):
    assert main(["inspect", PAIR]) == 0
    printed = capsys.readouterr().out
    assert "latent      (32, 3) float32" in printed
    assert "! I cannot know whether D is high on real" in printed
    assert main(["inspect", "networks_of_mine:told"]) == 0
    assert "told by d_loss" in capsys.readouterr().out


def test_warm_start_saves_and_says_how_to_go_on(here, capsys):
    assert main(["warm-start", PAIR, "-o", "init", *SHORT, "--set", "handover=hinge", "--set", "betas=(0.2, 0.9)"]) == 0
    printed = capsys.readouterr().out
    assert "3, stopped by iterations" in printed
    assert "WarmStart.from_pretrained('init').load_into(G, D)" in printed
    config = WarmStart.from_pretrained("init").config
    assert (config.iterations, config.handover, config.betas) == (3, "hinge", (0.2, 0.9))
    assert {"generator.safetensors", "README.md", "warm_start.png"} <= set(os.listdir("init"))


@pytest.mark.pictures
def test_show_is_a_small_table(here, capsys):
    main(["warm-start", PAIR, "-o", "a", *SHORT, "--set", "seed=5", "--set", "handover=hinge"])
    assert Path("a/warm_start.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["show", "a"]) == 0
    printed = capsys.readouterr().out
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in printed.splitlines() if "  " in line)
    assert [*rows] == [
        *("generator", "discriminator", "latents", "data", "device", "versions"),
        *("iterations", "cost", "D's logits", "settings"),
    ]  # too short for a reading of the distance
    assert rows["generator"] == "Sequential, 50 parameters"
    assert rows["data"].startswith("(32, 2) float32 from ")
    assert rows["iterations"] == "3, stopped by iterations"
    assert re.fullmatch(r"\d\S* s, about that of \d\S* adversarial iterations", rows["cost"])
    assert re.fullmatch(r"real -?\d\S*, generated -?\d\S*", rows["D's logits"])
    assert f"torch {torch.__version__}" in rows["versions"]
    assert rows["settings"] == "iterations=3, handover='hinge', seed=5"


def test_a_folder_in_use_is_not_started_over(here, capsys):
    assert main(["warm-start", PAIR, "-o", "init", *SHORT]) == 0
    before = {file.name: file.read_bytes() for file in Path("init").iterdir()}
    capsys.readouterr()
    assert main(["warm-start", PAIR, "-o", "init", *SHORT]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "init holds a warm-up. Add --resume to go on from there, or give another -o." in told
    assert {file.name: file.read_bytes() for file in Path("init").iterdir()} == before
    assert main(["warm-start", PAIR, "-o", "init", *SHORT, "--resume"]) == 0  # it is taken as it is
    assert {file.name: file.read_bytes() for file in Path("init").iterdir()} == before
    assert main(["warm-start", PAIR, "-o", "init", "--set", "iterations=4", "--resume"]) == 2
    assert "iterations was 3 and is 4" in capsys.readouterr().err


def test_an_interrupt_says_what_was_kept_and_resume_goes_on(here, capsys):
    assert main(["warm-start", "networks_of_mine.py:seeded", "-o", "whole", *SHORT]) == 0
    arguments = ["warm-start", "networks_of_mine.py:interrupted", "-o", "in it", *SHORT]
    assert main(arguments) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "coopinit warm-start: interrupted; with --resume the same command goes on from what was kept"
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "in it holds a warm-up. Add --resume" in told
    assert main(["warm-start", "networks_of_mine.py:seeded", "-o", "in it", *SHORT, "--resume"]) == 0
    resumed, whole = WarmStart.from_pretrained("in it"), WarmStart.from_pretrained("whole")
    assert all(torch.equal(value, resumed.generator_state[key]) for key, value in whole.generator_state.items())


def test_an_interrupt_before_any_checkpoint_leaves_nothing_to_refuse(here, capsys):
    assert main(["warm-start", "networks_of_mine.py:at_once", "-o", "init", *SHORT]) == 130
    assert main(["warm-start", PAIR, "-o", "init", *SHORT]) == 0


def test_push_and_show_over_http(here, hub: Hub, capsys):  # noqa: F811
    main(["warm-start", PAIR, "-o", "init", *SHORT])
    capsys.readouterr()
    assert main(["push", "init", ID, "--private"]) == 0
    assert f"/{ID}/commit/" in capsys.readouterr().out
    assert hub.repos[ID].private
    assert same(WarmStart.from_pretrained(ID), WarmStart.from_pretrained("init"))
    assert "real" not in WarmStart.from_pretrained(ID).samples
    assert main(["show", ID]) == 0
    assert "3, stopped by iterations" in capsys.readouterr().out


MISTAKES = {
    "no function named": (["inspect", "networks_of_mine.py"], "Expected module:function or path/file.py:function"),
    "no such file": (["inspect", "nets.py:make"], "nets.py:make failed: ModuleNotFoundError: No module named 'nets'"),
    "no such module": (["inspect", "nets:make"], "nets:make failed: ModuleNotFoundError: No module named 'nets'"),
    "no module's name": (["inspect", "a/b:make"], "a/b:make failed: ValueError: invalid format"),
    "no such function": (["inspect", "networks_of_mine.py:mak"], "has no attribute 'mak'"),
    "no function": (["inspect", "networks_of_mine.py:value"], "'int' object is not callable (line"),
    "returns nothing": (["inspect", "networks_of_mine.py:nothing"], "returned NoneType; expected (G, D, loader)"),
    "returns two": (
        ["inspect", "networks_of_mine.py:two"],
        "returned (2 of Sequential); expected (G, D, loader)",
    ),
    "raises": (["inspect", "networks_of_mine.py:broken"], "ValueError: no such data (line 22 of "),
    "leaves": (["inspect", "networks_of_mine.py:leaving"], "failed: SystemExit"),
    "import fails": (["inspect", "broken.py:make"], "broken.py:make failed: ModuleNotFoundError: No module named"),
    "syntax": (["inspect", "bad.py:make"], "bad.py:make failed: SyntaxError"),
    "unknown field": (["warm-start", PAIR, "-o", "x", "--set", "iteration=3"], "Did you mean 'iterations'?"),
    "no value": (["warm-start", PAIR, "-o", "x", "--set", "seed"], "seed='' was given"),
    "wrong value": (["warm-start", PAIR, "-o", "x", "--set", "seed=-1"], "seed=-1 was given"),
    "unknown choice": (["warm-start", PAIR, "-o", "x", "--set", "handover=hing"], "did you mean 'hinge'?"),
    "output": (["warm-start", PAIR, "-o", "file/x"], "Not a directory"),
    "no folder": (["push", "nowhere", ID], "nowhere is neither a folder here nor"),
    "empty folder": (["push", ".", ID], "no warm start was saved there"),
    "a file": (["show", "file"], "file is neither a folder here nor"),
    "not on the Hub": (["show", "no/where"], "find the requested files in the local cache"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(here, capsys, kind):
    arguments, expected = MISTAKES[kind]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    assert told.startswith(f"coopinit {arguments[0]}: ")
    assert expected in told


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["inspect"], ["warm-start"], ["show", "a", "--plot", "x"], []],
)
def test_a_wrong_command_line_is_one_line_too(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert told.count("\n") == 1
    assert told.startswith("coopinit")


def test_a_hub_that_cannot_be_reached_is_one_line_too(here, hub: Hub, capsys):  # noqa: F811
    main(["warm-start", PAIR, "-o", "init", *SHORT])
    capsys.readouterr()
    hub.__exit__()
    assert main(["push", "init", ID]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("coopinit push: The Hub could not be reached (ConnectError: ")
    assert "nothing was pushed to" in told


def test_a_defect_of_ours_shows_its_traceback(here, monkeypatch):
    monkeypatch.setattr("coopinit_plugin.cli.inspect", lambda *given, **hooks: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", PAIR])


def test_help_begins_with_the_usage(capsys):
    for arguments, expected in (
        (["--help"], "usage: coopinit [-h] COMMAND ..."),
        (["warm-start", "--help"], "usage: coopinit warm-start [-h] [-o DIR] [--set NAME=VALUE] [--resume] PAIR"),
        (["push", "--help"], "usage: coopinit push [-h] [--private] DIR REPO"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert capsys.readouterr().out.startswith(expected)


def test_help_teaches(capsys):
    for arguments, expected in (
        (["--help"], "coopinit warm-start nets.py:make -o init"),
        (["inspect", "--help"], "coopinit inspect nets.py:make"),
        (["warm-start", "--help"], "--set handover=hinge"),
        (["push", "--help"], "coopinit push init user/dcgan-init"),
        (["show", "--help"], "coopinit show init"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        assert expected in capsys.readouterr().out


def test_what_a_stranger_wrote_cannot_steer_the_terminal(here, capsys):
    main(["warm-start", PAIR, "-o", "init", *SHORT])
    config = Path("init/config.json")
    config.write_text(config.read_text().replace('"stopped_by": "iterations"', '"stopped_by": "\\u001b[2J"'))
    capsys.readouterr()
    assert main(["show", "init"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_python_m_is_the_same_command(here):
    done = python_m("coopinit_plugin", "inspect", "networks_of_mine:nowhere", cwd=here)
    assert done.returncode == 2
    assert done.stderr.startswith("coopinit inspect: networks_of_mine:nowhere failed: AttributeError")
    assert done.stderr.count("\n") == 1
