"""The examples run as a user runs them, in their smallest form."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from hub_server import Hub
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parent.parent


def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: Image.open(file).size for file in folder.glob("*.png")}


def test_dcgan_on_digits(tmp_path):
    done = run("examples.dcgan", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Warm start" in done.stdout
    assert "of 1000 modes" in done.stdout
    found = pictures(tmp_path)
    assert set(found) == {"dcgan.png", "random.png", "after_warmup.png", "after_training.png"}
    assert found["dcgan.png"][0] > 1000


def test_dcgan_on_a_folder_of_images(tmp_path):
    photograph, data = load_sample_image("flower.jpg"), tmp_path / "data"
    data.mkdir()
    for index, left in enumerate(numpy.linspace(0, 500, 70).astype(int)):
        Image.fromarray(photograph[:100, left : left + 100]).save(data / f"{index}.png")
    done = run("examples.dcgan", "--smoke", "--no-warm-start", "--data", str(data), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "from the data" in done.stdout
    assert set(pictures(tmp_path / "out")) == {"dcgan.png", "random.png"}


def test_dcgan_without_enough_images(tmp_path):
    done = run("examples.dcgan", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "0 images there, at least 64 are needed" in done.stderr


@pytest.mark.parametrize("name", ["timeseries", "stylegan2", "sngan_conditional", "translation"])
def test_both_starts_and_their_picture(name, tmp_path):
    done = run(f"examples.{name}", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"Random start +– +20 .*\n +0  Warm start +\d+ its, .* +20 ", done.stdout), done.stdout
    assert {file: width > 1000 for file, (width, _) in pictures(tmp_path).items()} == {f"{name}.png": True}


def test_an_init_is_shared_and_started_from(tmp_path):
    with Hub() as hub:
        here = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        shared = run("examples.share_init", "me/digits-init", "--private", "--smoke", **here)
        assert shared.returncode == 0, shared.stderr
        assert hub.repos["me/digits-init"].private
        out = str(tmp_path / "out")
        begun = run("examples.start_from_init", "me/digits-init", "--iterations", "5", "--out", out, **here)
        assert begun.returncode == 0, begun.stderr
        assert any("/resolve/main/generator.safetensors" in line for line in hub.log)
    assert set(pictures(tmp_path / "out")) == {"start_from_init.png"}


def test_two_processes_share_the_work_and_a_second_start_takes_the_init_that_is_there(tmp_path):
    given = ("-m", "examples.distributed", "--smoke", "--out", str(tmp_path / "init"))
    launch = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", *given)
    for seconds in range(2):
        done = run(*launch, ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr
        found = re.findall(r"^2 processes: (\d+) of 1000 modes after", done.stdout, re.MULTILINE)
        assert len(found) == 2, done.stdout
        assert ("CoopInit 20/20" in done.stderr) == (seconds == 0)


def test_the_lightning_callback_warms_up_once():
    pytest.importorskip("lightning")
    code = "from examples.lightning_callback import train; train(2, width=8)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("CoopInit 0/400") == 1
