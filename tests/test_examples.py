"""The examples run as a user runs them, in their smallest form.

One of them in an interpreter of its own, by the very command; the others in a fork of this one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from forked import ROOT, python_m, started, together
from hub_server import Hub, hub  # noqa: F401 - hub is a fixture
from PIL import Image
from sklearn.datasets import load_sample_image

from examples.defects.data import of_file
from examples.helpers.runs import Run
from examples.helpers.story import side_by_side
from examples.timeseries.detection import of_folder
from examples.translation.data import Outlines
from examples.translation.networks import PatchNCE

pytestmark = pytest.mark.timeout(0)  # a loaded machine is no mistake


def interpreter(*args: str) -> subprocess.CompletedProcess[str]:
    """Python, in an interpreter of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], cwd=ROOT, env=environment, capture_output=True, text=True)


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: Image.open(file).size for file in folder.glob("*.png")}


def test_dcgan_on_digits(tmp_path):
    done = interpreter("-m", "examples.dcgan", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Warm start" in done.stdout
    assert "of 1000 modes" in done.stdout
    found = pictures(tmp_path)
    assert set(found) == {"dcgan.png", "random.png", "after_warmup.png", "after_training.png"}
    assert found["dcgan.png"][0] > 1000


def test_stacked_digits_are_shown_side_by_side_and_large():
    stacks = torch.arange(2 * 3).reshape(2, 3, 1, 1).expand(-1, -1, 8, 8) / 6
    shown = side_by_side(stacks)
    assert shown.shape == (2, 1, 48, 144)
    assert shown[1, 0, 24, 24::48].tolist() == pytest.approx([3 / 6, 4 / 6, 5 / 6], abs=1e-5)


def crops(name: str, folder: Path, n: int = 90) -> None:
    """So many pieces of one of scikit-learn's photographs, as files."""
    photograph = load_sample_image(name)
    folder.mkdir(parents=True)
    for index, left in enumerate(numpy.linspace(0, 500, n).astype(int)):
        Image.fromarray(photograph[:100, left : left + 100]).save(folder / f"{index}.png")


def random_start_on(name: str, data: Path, out: Path) -> str:
    done = python_m(f"examples.{name}", "--smoke", "--no-warm-start", "--data", str(data), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dcgan_on_a_folder_of_images(tmp_path):
    crops("flower.jpg", tmp_path / "data")
    assert "from the data" in random_start_on("dcgan", tmp_path / "data", tmp_path / "out")
    assert set(pictures(tmp_path / "out")) == {"dcgan.png", "random.png"}


def test_dcgan_on_a_file_of_digits(tmp_path):
    numbers = numpy.random.default_rng(0)
    x, y = numbers.integers(0, 255, (64, 28, 28), dtype=numpy.uint8), numpy.arange(64) % 10
    numpy.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert "of 1000 modes" in random_start_on("dcgan", tmp_path / "mnist.npz", tmp_path / "out")
    assert set(pictures(tmp_path / "out")) == {"dcgan.png", "random.png"}


def test_sngan_on_a_folder_for_each_class(tmp_path):
    for name in ("flower", "china"):
        crops(f"{name}.jpg", tmp_path / "data" / name)
    assert "from the data" in random_start_on("sngan_conditional", tmp_path / "data", tmp_path / "out")
    assert set(pictures(tmp_path / "out")) == {"sngan_conditional.png"}


def test_translation_between_two_folders(tmp_path):
    crops("flower.jpg", tmp_path / "data" / "trainA")
    crops("china.jpg", tmp_path / "data" / "trainB", n=64)
    assert "from the domain" in random_start_on("translation", tmp_path / "data", tmp_path / "out")
    assert set(pictures(tmp_path / "out")) == {"translation.png"}


def test_time_series_of_ones_own(tmp_path):
    numbers = numpy.random.default_rng(0)
    for name, n in (("healthy", 60), ("defects", 20)):
        numpy.save(tmp_path / f"{name}.npy", numbers.normal(size=(n, 2, 100)))
    told = random_start_on("timeseries", tmp_path, tmp_path / "out")
    assert "a detector trained with 10 recordings of defects and" in told
    assert "real defects" not in told
    assert set(pictures(tmp_path / "out")) == {"timeseries.png"}


def boards(file: Path, **parts) -> None:
    """A file as `examples.defects` takes one: 90 pictures of two classes, of nine boards."""
    x = numpy.random.default_rng(0).integers(0, 255, (90, 64, 64), dtype=numpy.uint8)
    names = numpy.array([f"board {index % 9}" for index in range(90)])
    usual = {
        "x": x,
        "template": x,
        "y": numpy.arange(90) % 2,
        "names": names,
        "classes": numpy.array(["short", "spur"]),
    }
    numpy.savez(file, **{name: part for name, part in {**usual, **parts}.items() if part is not None})


def test_few_defects_of_a_file(tmp_path):
    boards(tmp_path / "boards.npz")
    done = python_m(
        "examples.defects", "--smoke", "--no-warm-start", "--few", "20", "--data", str(tmp_path / "boards.npz")
    )
    assert done.returncode == 0, done.stderr
    assert "a detector trained with 20 pictures of a spur and" in done.stdout


def test_no_board_is_in_both_parts(tmp_path):
    """A picture that tells its board in its grey value."""
    x = (numpy.arange(90) % 9 * 20).astype(numpy.uint8)[:, None, None] * numpy.ones((1, 64, 64), numpy.uint8)
    boards(tmp_path / "boards.npz", x=x, template=x)
    surface = of_file(tmp_path / "boards.npz", "spur", 32, 100, seed=0)
    seen, held = ({round(float(value), 3) for value in part.unique()} for part in (surface.known, surface._test))
    assert (len(seen), len(held)) == (6, 3)
    assert seen.isdisjoint(held)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"y": None, "names": None}, "no names, y in it"),
        ({"x": numpy.zeros((90, 32, 32), numpy.uint8)}, r"x is \(90, 32, 32\) uint8; \(N, 64, 64\) uint8 is expected"),
        ({"classes": numpy.array(["a", "b"])}, "no class 'spur'; there are a, b"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, parts, message):
    boards(tmp_path / "boards.npz", **parts)
    with pytest.raises(ValueError, match=message):
        of_file(tmp_path / "boards.npz", "spur", 32, 20, seed=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sngan_conditional", "0 folders there, one for each class is expected, as in DATA/cat/1.png"),
        ("translation", "trainA: 0 images there, at least 64 are needed"),
        ("timeseries", "no healthy.npy there; numpy.save it, (recordings, channels, steps)"),
    ],
)
def test_a_folder_without_what_is_needed(name, message, tmp_path):
    done = python_m(f"examples.{name}", "--data", str(tmp_path))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_series_of_another_shape_are_refused(tmp_path):
    numpy.save(tmp_path / "healthy.npy", numpy.zeros((8, 3, 64)))
    numpy.save(tmp_path / "defects.npy", numpy.zeros((8, 3, 63)))
    with pytest.raises(ValueError, match=r"shape \(8, 3, 63\); .* at least 4 recordings of 64 steps"):
        of_folder(tmp_path, None, seed=0)
    numpy.save(tmp_path / "defects.npy", numpy.zeros((8, 2, 64)))
    with pytest.raises(ValueError, match=r"3 channels in healthy.npy, 2 in defects.npy"):
        of_folder(tmp_path, None, seed=0)


def test_a_true_translation_is_no_error_away_and_black_is_far():
    task = Outlines()
    assert task.measure(task.truth) == 0
    assert task.measure(torch.full_like(task.truth, -1)) == pytest.approx(1.59, abs=0.01)
    assert task.measure(task.held_out) == pytest.approx(1.22, abs=0.01)
    batch = task[0]
    assert {key: tuple(value.shape) for key, value in batch.items()} == {"A": (1, 16, 16), "B": (1, 16, 16)}


def test_the_patch_loss_is_small_where_each_patch_is_most_like_its_own():
    torch.manual_seed(0)
    loss, features = PatchNCE([8]), torch.randn(2, 8, 6, 6)
    same = loss([features], [features]).item()
    elsewhere = loss([features.flip(2)], [features]).item()
    assert same < 0.5 * elsewhere


def test_the_random_start_gets_the_time_of_the_warm_up_as_iterations():
    run_ = Run(None, 0, True, loop=lambda _: None, sample=lambda: None)
    run_.iterations, run_.seconds, run_.curve = 100, 30.0, [(10.0, 0.0), (30.0, 0.0)]
    assert run_.cost == 150


def test_dcgan_without_enough_images(tmp_path):
    done = python_m("examples.dcgan", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "0 images there, at least 64 are needed" in done.stderr


@pytest.mark.parametrize("name", ["defects", "timeseries", "stylegan2", "sngan_conditional", "translation"])
def test_both_starts_and_their_picture(name, tmp_path):
    done = python_m(f"examples.{name}", "--smoke", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"Random start +– +5 .*\n +0  Warm start +5 its, .* +5 ", done.stdout), done.stdout
    assert {file: width > 1000 for file, (width, _) in pictures(tmp_path).items()} == {f"{name}.png": True}


def test_smoke_shares_an_init_without_a_repository(tmp_path):
    done = python_m("examples.share_init", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5/5" in done.stderr
    assert (tmp_path / "runs/share_init/generator.safetensors").exists()
    done = python_m("examples.share_init", cwd=tmp_path)
    assert (done.returncode, "name the repository, user/name" in done.stderr) == (2, True)


def test_an_init_is_shared_and_started_from(tmp_path, hub: Hub):  # noqa: F811
    shared = python_m("examples.share_init", "me/digits-init", "--private", "--smoke")
    assert shared.returncode == 0, shared.stderr
    assert hub.repos["me/digits-init"].private
    out = str(tmp_path / "out")
    begun = python_m("examples.start_from_init", "me/digits-init", "--iterations", "5", "--out", out)
    assert begun.returncode == 0, begun.stderr
    assert any("/resolve/main/generator.safetensors" in line for line in hub.log)
    assert set(pictures(tmp_path / "out")) == {"start_from_init.png"}


def test_two_processes_share_the_work_and_a_second_start_takes_the_init_that_is_there(tmp_path):
    given = ("examples.distributed", "--smoke", "--out", str(tmp_path / "init"))
    for processes in (2, 1):
        main, *others = together(processes, partial(started, *given))
        for done in (main, *others):
            assert done.returncode == 0, done.stderr
            assert ("warm-up 5/5" in done.stderr) == (processes == 2 and done is main)
        found = re.findall(rf"^{processes} processes: (\d+) of 1000 modes after", main.stdout, re.MULTILINE)
        assert len(found) == 2, main.stdout


def test_the_lightning_callback_warms_up_once():
    pytest.importorskip("lightning")
    done = interpreter("-c", "from examples.lightning_callback import train; train(2, width=8)")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("CoopInit: ") == 1
