"""The pilot: on real small GANs, interrupted, resumed, and given what users give by mistake."""

from __future__ import annotations

import csv
import itertools
import logging
import random
import re
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from trials import data, make, step

import coopinit_plugin
from coopinit_plugin import CoopInitError, WarmStartConfig, pilot
from coopinit_plugin.cli import main
from coopinit_plugin.trial import gauge
from coopinit_plugin.trial.run import ARMS
from examples.study.pilots import TASKS, table

SMALL = {"iterations": 24, "seeds": 2, "handover": "logistic", "progress": False}
SHORT = {**SMALL, "seeds": 1}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pilot")
    return pilot(make, data(), step, **SMALL, output_dir=folder), folder


def comparable(report):
    """What does not depend on the machine's speed."""
    return [(r.arm, r.seed, r.status, r.iterations, r.end("distance"), r.end("diversity")) for r in report.runs]


def test_the_arms_run_in_turn_at_the_same_cost(report):
    runs = report[0].runs
    assert [(run.seed, run.arm) for run in runs] == list(itertools.product(range(2), ARMS))
    for run in runs:
        assert run.readings[-1].cost >= 1
        assert (
            run.iterations == {"random": 24, "hand-over": 16, "warm start": 24 - 8 - 2 * run.warm_iterations}[run.arm]
        )
    assert runs[2].warm_iterations == 6
    assert runs[0].readings[0].distance == runs[1].readings[0].distance  # the hand-over leaves G as it is


def test_the_verdict_in_words_and_as_a_table(report):
    told = str(report[0])
    assert report[0].verdict in told
    assert re.search(r"^start +usable +likeness", told, re.MULTILINE)
    assert re.search(r"^warm start +\d of 2", told, re.MULTILINE)
    assert report[0].kind in ("use", "hand-over", "no benefit", "harm", "unclear", "nothing worked")


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.outside, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.outside += [v for k, v in attributes if k in ("src", "href", "srcset") and not v.startswith("data:")]


def test_one_page_that_loads_nothing_a_picture_and_rows(report):
    _, folder = report
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = _Links()
    page.feed(html)
    assert page.outside == []
    assert "script" not in page.tags
    assert "url(" not in html
    assert page.tags.count("svg") == 5 + 4  # curves, panels of points
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html
    assert (folder / "pilot.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "pilot.csv").open(encoding="utf-8")))
    assert {row["start"] for row in rows} == set(ARMS)
    assert len(rows) == sum(len(run.readings) for run in report[0].runs)


def test_the_same_seeds_give_the_same_runs(report):
    assert comparable(pilot(make, data(), step, **SMALL)) == comparable(report[0])


def test_nothing_of_the_users_moves():
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), logging.getLogger("coopinit_plugin").level
    pilot(make, data(), step, **SHORT)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), logging.getLogger("coopinit_plugin").level)


def test_interrupted_and_resumed(report, tmp_path):
    calls = itertools.count()

    def interrupted(*given):
        if next(calls) == 70:
            raise KeyboardInterrupt
        return step(*given)

    with pytest.raises(KeyboardInterrupt):
        pilot(make, data(), interrupted, **SMALL, output_dir=tmp_path)
    kept = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert 0 < len(kept) < 6
    with pytest.raises(CoopInitError, match=rf"holds {len(kept)} runs of a pilot. Go on with them by resume=True"):
        pilot(make, data(), step, **SMALL, output_dir=tmp_path)
    resumed = pilot(make, data(), step, **SMALL, output_dir=tmp_path, resume=True)
    assert comparable(resumed) == comparable(report[0])
    with pytest.raises(CoopInitError, match="iterations was 24 and is 30"):
        pilot(make, data(), step, **{**SMALL, "iterations": 30}, output_dir=tmp_path, resume=True)
    (tmp_path / "runs" / kept[0]).write_bytes(b"half a file")
    with pytest.raises(CoopInitError, match="is no run of a pilot, or was damaged"):
        pilot(make, data(), step, **SMALL, output_dir=tmp_path, resume=True)


def test_minutes_are_kept_in_equal_parts():
    report = pilot(make, data(), step, minutes=0.15, seeds=1, handover="logistic", progress=False)
    budgets = {run.budget for run in report.runs}
    assert len(budgets) == 1
    assert all(run.seconds >= run.budget for run in report.runs)
    assert 3 * budgets.pop() < 60 * 0.15


def test_the_time_is_planned_by_what_runs_take_beside_their_clocks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(gauge, "time", SimpleNamespace(monotonic=lambda: now[0]))
    left = gauge.TimeLeft(minutes=2, spent=20)
    assert left.spent == 20
    assert left.for_runs == pytest.approx(0.93 * (100 - 3))
    now[0] = 50.0
    left.learn(clock=19.07, wall=39.0)
    assert left.for_runs == pytest.approx(0.5 * (50 - 3))
    now[0] = 95.0  # 5 seconds left, a tenth of them for the report
    assert left.for_runs == pytest.approx(0.5 * 4.5)


@pytest.mark.parametrize(
    ("by_clock", "one", "read"), [(True, 0.1, 11), (True, 1.0, 2), (True, 3.0, 0), (False, 3.0, 3)]
)
def test_readings_that_take_long_are_taken_less_often(by_clock, one, read):
    clock = gauge.Clock(100.0, by_clock)
    reads = []

    class Slow(gauge.Gauge):
        def __init__(self):
            self._clock, self._plan, self._next = clock, SimpleNamespace(by_clock=by_clock), 1 / 12
            self.readings, self.seconds = [0], one

        def read(self, step):
            reads.append(step)
            self.readings.append(step)
            self.seconds += one

    slow = Slow()
    for iteration in range(1, 101):
        clock.seconds = clock.charged = float(iteration)
        slow.read_if_due(iteration)
    assert len(reads) == read


def test_the_studys_table_of_verdicts():
    row = {"task": "easy", "verdict": "no benefit"}
    assert table([row, row, {"task": "easy", "verdict": "unclear"}]) == "easy: 'no benefit' in 2 of 3, 'unclear' in 1."
    for task in TASKS.values():
        G, D, *adams = task.make(0)
        x = task.data(0)[:8]
        assert all(loss.isfinite() for loss in task.step(G, D, [x], *adams))


def test_the_hand_over_alone_needs_no_third_arm():
    report = pilot(make, data(), step, **SHORT, config=WarmStartConfig(iterations=0))
    assert report.arms == ["random", "hand-over"]
    assert report.lengths == []


def test_a_step_that_works_in_place_on_its_batch_spoils_nothing():
    named = [{"x": x, "name": ["a"] * len(x)} for x, _ in data()]
    before = [batch["x"].clone() for batch in named]

    def scales(G, D, batch, *adams):
        return step(G, D, [batch["x"].mul_(2)], *adams)

    pilot(make, named, scales, **SHORT)
    assert all(torch.equal(batch["x"], x) for batch, x in zip(named, before, strict=True))


def test_resumed_when_the_time_is_over(tmp_path):
    timed = {"seeds": 1, "handover": "logistic", "progress": False, "output_dir": tmp_path}
    pilot(make, data(), step, minutes=0.1, **timed)
    (tmp_path / "runs" / "0-warm-start.pt").unlink()
    report = pilot(make, data(), step, minutes=0.01, **timed, resume=True)
    assert [run.arm for run in report.runs] == list(ARMS)
    assert len({run.budget for run in report.runs}) == 1


# --- what fails in a run is part of the report


def test_a_step_that_fails_in_one_run_costs_that_run_only():
    calls = itertools.count()

    def breaks(*given):
        if next(calls) == 3 + 24 + 10:  # the rehearsal, the first run, ten steps into the second
            raise ValueError("boom")
        return step(*given)

    report = pilot(make, data(), breaks, **SHORT)
    assert [run.status == "failed" for run in report.runs] == [False, True, False]
    assert report.runs[1].error == "train_step failed: ValueError: boom"
    assert any("1 of 3 runs say nothing: train_step failed: ValueError: boom" in note for note in report.decision.notes)


def test_a_loss_that_is_not_finite_ends_the_run():
    calls = itertools.count()

    def diverges(*given):
        losses = step(*given)
        return {**losses, "d": torch.tensor(float("nan"))} if next(calls) == 3 + 20 else losses

    report = pilot(make, data(), diverges, **SHORT)
    assert report.runs[0].status == "diverged"
    assert report.runs[0].error == "train_step returned nan in iteration 21"
    assert report.runs[1].decided


def test_a_step_that_grows_G():
    def grows(G, D, batch, *adams):
        G.append(nn.Linear(2, 2))
        return step(G, D, batch, *adams)

    with pytest.raises(CoopInitError, match="train_step changed G's parameters in iteration 1"):
        pilot(make, data(), grows, **SHORT)


# --- what is refused before anything runs


def never(*_):
    raise AssertionError("must not run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 3}, "Give one of minutes and iterations"),
        ({"iterations": None}, "Give one of minutes and iterations"),
        ({"iterations": 3}, "iterations=3 was given; expected a whole number of at least 20"),
        ({"iterations": None, "minutes": -1}, "minutes=-1 was given; expected a number above 0"),
        ({"seeds": 0}, "seeds=0 was given"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\] was given"),
        ({"config": 3}, "config is a int"),
        ({"handover": "hing"}, "Did you mean|did you mean"),
        ({"resume": True}, "resume=True needs output_dir"),
    ],
)
def test_wrong_arguments(changes, words):
    with pytest.raises(CoopInitError, match=words):
        pilot(never, data(), never, **{**SMALL, **changes})


def test_a_function_that_is_none():
    with pytest.raises(CoopInitError, match=r"make is a tuple; expected a function, make\(seed\)"):
        pilot(make(0), data(), step, **SMALL)
    with pytest.raises(CoopInitError, match="train_step is a NoneType"):
        pilot(make, data(), None, **SMALL)


def fixed(seed):
    return make(0)


def unseeded(seed):
    G, D = nn.Linear(4, 2), nn.Linear(2, 1)
    return G, D, torch.optim.SGD(G.parameters(), 0.01), torch.optim.SGD(D.parameters(), 0.01)


NETS = make(0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (fixed, r"make\(0\) and make\(1\) gave the same networks: it ignores its seed"),
        (lambda seed: NETS, "make returned the same networks twice"),
        (lambda seed: make(seed)[0], r"make\(0\) returned Sequential; expected \(G, D\)"),
        (lambda seed: 1 / 0, r"make\(0\) failed: ZeroDivisionError"),
    ],
)
def test_a_wrong_make(given, words):
    with pytest.raises(CoopInitError, match=words):
        pilot(given, data(), step, **SMALL)


def test_a_make_that_leaves_the_seed_to_the_global_generator(caplog):
    report = pilot(unseeded, data(), step, **{**SMALL, "seeds": 2})
    assert "make(seed) does not use its seed, but torch's global generator" in caplog.text
    first = {run.seed: run.readings[0].distance for run in report.of("random")}
    assert len(set(first.values())) == 2
    assert first == {run.seed: run.readings[0].distance for run in report.of("hand-over")}


def test_a_step_that_fails_at_once():
    with pytest.raises(
        CoopInitError, match=r"train_step failed: AssertionError: must not run. It is called train_step"
    ):
        pilot(make, data(), never, **SMALL)
    with pytest.raises(CoopInitError, match="train_step returned nan in iteration 1"):
        pilot(make, data(), lambda *_: float("nan"), **SMALL)


def test_too_little_data():
    with pytest.raises(CoopInitError, match="The loader has 10 samples in 1 batches; expected at least 128"):
        pilot(make, data(10, 10), step, **SMALL)
    with pytest.raises(CoopInitError, match="gave no batch of tensors"):
        pilot(make, [], step, **SMALL)


def test_features_of_the_wrong_length():
    with pytest.raises(CoopInitError, match=r"features gave \(3, 2\) float32 for 80 samples"):
        pilot(make, data(), step, **SMALL, features=lambda x: x[:3])


def test_a_step_that_takes_longer_than_the_time():
    def slow(*given):
        time.sleep(0.2)
        return step(*given)

    with pytest.raises(CoopInitError, match=r"train_step takes .* s, but a run has .*Give at least minutes="):
        pilot(make, data(), slow, minutes=0.1, seeds=5, handover="logistic", progress=False)


# --- how it is called


def test_a_step_without_the_optimizers_and_batches_that_cannot_be_joined():
    optimizers = {}

    def make_pair(seed):
        G, D, adam_g, adam_d = make(seed)
        optimizers[id(G)] = adam_g, adam_d
        return G, D

    def three(G, D, batch):
        return step(G, D, (batch["x"],), *optimizers[id(G)])

    named = [{"x": x, "name": ["a"] * len(x)} for x, _ in data()]
    report = pilot(make_pair, named, three, **SHORT)
    assert all(run.decided for run in report.runs)


def test_the_average_of_G_that_make_returns_gets_the_warm_weights():
    seen = {}

    def with_average(seed):
        G, D, *adams = make(seed)
        average = make(seed)[0]
        return G, D, average, *adams

    def keeps_average(G, D, batch, average, *adams):
        if id(G) not in seen:
            seen[id(G)] = all(torch.equal(a, b) for a, b in zip(G.parameters(), average.parameters(), strict=True))
        return step(G, D, batch, *adams)

    pilot(with_average, data(), keeps_average, **SHORT)
    assert all(seen.values())


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import trials\ndef trial():\n    return trials.make, trials.data(), trials.step\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    given = ["pilot", "mine.py:trial", "--iterations", "24", "--seeds", "1", "--set", "handover=logistic", "-o", "out"]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "The whole report: out/report.html" in printed
    assert re.search(r"^random +\d of 1", printed, re.MULTILINE)
    assert main(given) == 2
    assert "Go on with them by resume=True" in capsys.readouterr().err
    assert main([*given, "--resume"]) == 0


def test_it_is_public():
    assert {"pilot", "PilotReport", "Watch"} <= set(coopinit_plugin.__all__)
    assert "def train_step(G, D, batch, opt_g, opt_d)" in (coopinit_plugin.pilot.__doc__ or "")
