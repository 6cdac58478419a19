"""The benchmarks run and draw; how long anything takes is no matter here."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.benchmarks import parts, speed


@pytest.mark.parametrize(
    ("script", "few"), [(speed, ["--rounds", "2"]), (parts, ["--iterations", "1"])], ids=["speed", "parts"]
)
def test_a_benchmark_prints_a_row_for_each_number_of_steps_and_draws_it(script, few, monkeypatch, capsys, tmp_path):
    picture = tmp_path / "picture.png"
    given = ["benchmark", "--cases", "tiny 8²", "--steps", "1", "2", "--picture", str(picture), *few]
    monkeypatch.setattr("sys.argv", given)
    script.main()
    printed = capsys.readouterr().out
    assert [line[:14] for line in printed.splitlines()[2:4]] == ["| tiny 8² | 1 ", "| tiny 8² | 2 "]
    width, height = Image.open(picture).size
    assert width > height > 100


def test_the_parts_of_an_iteration_are_all_of_it():
    shares = parts.measure("tiny 8²", steps=3, iterations=5)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) > 0  # each has been on the clock
