"""The study: its losses, measures and tables, and a tiny run of it through the shell."""

from __future__ import annotations

import math
import multiprocessing
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from coopinit_plugin.trial.measures import fidelity
from examples.helpers import digits
from examples.study import cost, figures, once, real_table, report, runner, tasks
from examples.study.__main__ import main
from examples.study.arms import ARMS
from examples.study.objectives import OBJECTIVES
from examples.study.plans import PARTS, Plan, Setting, plans
from examples.study.real_images import Features, Judge, Set
from examples.study.summaries import Median, kept_from, late, paired
from examples.study.table import Table

ROOT = Path(__file__).parents[1]


class Linear(nn.Module):
    """f(x) = ⟨w, x⟩, whose gradient is w everywhere."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


@pytest.mark.parametrize(
    ("name", "without", "penalty", "slope"),
    [  # on ‖w‖ = 5: γ/2·25 and γ·w, twice that for R1 + R2; λ·(5 − 1)² and 2λ·(5 − 1)·w/5
        ("non_saturating_r1", "non_saturating", 12.5, 1.0),
        ("non_saturating_r1_10", "non_saturating", 125.0, 10.0),
        ("r3gan", "relativistic", 25.0, 2.0),
        ("wgan_gp", None, 160.0, 16.0),
    ],
)
def test_the_penalties_and_their_gradients_are_those_of_the_papers(name, without, penalty, slope):
    D = Linear(torch.tensor([3.0, 4.0]))
    real, fake = torch.randn(8, 2), torch.randn(8, 2)
    loss = OBJECTIVES[name].d_loss(D, real, fake)
    plain = OBJECTIVES[without].d_loss(D, real, fake) if without else D(fake).mean() - D(real).mean()
    difference = loss - plain
    assert difference.item() == pytest.approx(penalty, rel=1e-4)
    (gradient,) = torch.autograd.grad(difference, D.w)
    assert torch.allclose(gradient, slope * D.w, rtol=1e-3)


@pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if not objective.r1])
def test_each_loss_sends_real_up_for_d_and_generated_up_for_g(name):
    D = nn.Sequential(Linear(torch.tensor([0.3])), *[nn.Sigmoid()] * OBJECTIVES[name].sigmoid)
    real, fake = torch.full((4, 1), 1.0), torch.full((4, 1), 0.5, requires_grad=True)
    OBJECTIVES[name].g_loss(D, real, fake).backward()
    assert (fake.grad < 0).all()  # D rises with x, so G is pushed to larger x
    before = (D(real) - D(fake)).mean().item()
    D.zero_grad()
    OBJECTIVES[name].d_loss(D, real, fake).backward()
    with torch.no_grad():
        D[0].w -= 0.01 * D[0].w.grad
        assert float((D(real) - D(fake)).mean()) > before


def test_the_digits_are_read_as_sklearns_three_nearest_neighbours_do():
    images, labels = digits.digits()
    noisy = images[:600] + 0.8 * torch.randn(600, 8, 8)
    known = KNeighborsClassifier(3).fit(images.flatten(1).numpy(), labels.numpy())
    found, distance = digits.read(noisy)
    assert (found.numpy() == known.predict(noisy.flatten(1).numpy())).all()
    nearest = known.kneighbors(noisy.flatten(1).numpy(), 1)[0][:, 0]
    assert np.allclose(distance.numpy(), nearest, atol=1e-3)


@pytest.mark.parametrize("name", ["digits", "series", "grid100", "cloud100"])
def test_the_data_themselves_cover_every_mode_and_noise_has_no_quality(name):
    task = tasks.TASKS[name]()
    found = task.measure(task.data[:10_000])
    assert found["modes"] == task.modes == report.TASK_MODES[name]
    assert found["reverse_kl"] < 0.06
    assert found["quality"] > 0.97
    assert task.measure(10 * torch.randn_like(task.data[:1000]))["quality"] < 0.05


def test_one_mode_is_counted_as_one():
    task = tasks.TASKS["series"]()
    found = task.measure(task.data[:1].repeat(100, 1, 1))
    assert (found["modes"], found["reverse_kl"]) == (1, pytest.approx(math.log(216)))


def test_fidelity_sees_lost_modes_and_bad_samples():
    real = torch.randn(400, 2)
    assert fidelity(real, real.clone())["coverage"] == 1.0
    lost = fidelity(real, torch.randn(400, 2) * 0.01)
    assert (lost["precision"], lost["density"] > 1) == (0.0, True)  # no real sample is among a collapsed one's own
    assert lost["recall"] < 0.05
    assert lost["coverage"] < 0.3
    far = fidelity(real, torch.randn(400, 2) + 100)
    assert (far["precision"], far["recall"], far["density"], far["coverage"]) == (0.0, 0.0, 0.0, 0.0)


def test_costs_and_area_come_from_the_curve():
    found = once.of_the_curve([(2.0, 0.0), (4.0, 800.0), (10.0, 1000.0)], 10.0, 1000)
    assert float(found["cost_to_half"]) == pytest.approx(3.25, abs=0.05)
    assert float(found["cost_to_most"]) == pytest.approx(7.0)
    assert float(found["area"]) == pytest.approx((2 * 0.4 + 6 * 0.9) / 10)
    assert found["collapsed"] == 0
    lost = once.of_the_curve([(0.0, 10.0), (10.0, 49.0)], 10.0, 1000)
    assert lost["collapsed"] == 1
    assert "cost_to_half" not in lost


def test_a_run_costs_cpu_time_in_its_own_iterations(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cost.time, "process_time", lambda: clock[0])
    spent = cost.Cost(iteration=0.5)
    clock[0] = 10.0
    assert spent.total == 20  # of the iterations that were timed before it began
    spent.begin()
    with spent.paused():
        clock[0] = 100.0
    for _ in range(4):
        clock[0] += 1.0
        spent.iterations += 1
    assert (spent.seconds, spent.total, spent.at(0)) == (14.0, 14.0, 10.0)  # an iteration of this run takes a second
    dear = cost.Cost(iteration=0.5, price=3.0)
    dear.begin()
    clock[0] += 2.0
    dear.iterations = 2
    assert dear.total == 6.0


def test_a_run_that_diverges_is_a_row_and_a_collapse():
    plan = Plan("multimodal", Setting("grid100", "least_squares", lr=1e20), "random", 0)
    row = once.once(plan, start_cost=0.0, scale=once.SCALES["quick"])
    assert (row["status"], row["modes"], row["collapsed"]) == ("diverged", "0", 1)


def test_every_run_of_the_study_is_planned_once():
    for part in PARTS:
        keys = [plan.key for plan in plans(part)]
        assert len(set(keys)) == len(keys)
    assert len({plan.setting for plan in plans("grid")}) == 60


@pytest.mark.parametrize("name", [name for arm in ARMS.values() for name in arm.without])
def test_the_parts_that_are_taken_away_are_there(name):
    assert pkgutil.resolve_name(name)


def test_medians_pairs_and_costs_that_were_never_reached():
    assert f"{Median.of([3.0, 1.0, 2.0]):.0f}" == "2 [1, 3]"
    assert f"{Median.of([1.0, math.inf, math.inf]):.0f}" == "never [1, never]"
    ours = [{"seed": str(seed), "modes": str(900 + seed)} for seed in range(5)]
    random = [{"seed": str(seed), "modes": str(seed)} for seed in range(3)]
    assert paired(ours, random, "modes") == Median(900.0, 900.0, 900.0)


def test_what_is_kept_and_how_a_run_ends_come_from_the_curve():
    row = {"curve": "100:950 200:400 300:900 400:1000"}
    assert kept_from(row, 900) == "300.0"
    assert kept_from(row, 650) == "250.0"
    assert kept_from(row, 300) == "100.0"
    assert kept_from({"curve": "0:950 100:nan"}, 900) == ""
    assert kept_from({"curve": "0:950 100:899"}, 900) == ""
    assert float(late({"curve": "0:7 200:1 300:3"})) == pytest.approx(2.0)


def test_the_committed_report_is_the_one_of_the_committed_tables(tmp_path, monkeypatch):
    committed = ROOT / "examples" / "study"
    for name in ("coverage", "grid", "sensitivity"):  # the pictures, which take time
        monkeypatch.setattr(figures, name, lambda *_: None)
    monkeypatch.setattr(report, "references", lambda *_: "")
    report.write(committed / "results", tmp_path / "RESULTS.md")
    lines, known = ((place / "RESULTS.md").read_text("utf-8").splitlines() for place in (tmp_path, committed))
    assert [line for line in lines if line not in set(known)] == []
    assert len(lines) > 200


def _append(path: Path, writer: int) -> None:
    for seed in range(50):
        Table(path).append({"setting": "a, b", "arm": writer, "seed": seed, "curve": "0:1 " * 40})


def test_the_tables_of_real_images_are_those_of_the_committed_rows():
    rows = ROOT / "examples/study/results/stacked_mnist.csv"
    *lines, _, told = real_table.evidence(rows).splitlines()
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(lines) in readme
    assert told in " ".join(readme.split())
    assert real_table.table(rows) in (ROOT / "examples/study/README.md").read_text()


def test_rows_of_several_processes_stay_whole(tmp_path):
    path = tmp_path / "part.csv"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    keys = {(row["setting"], row["arm"], row["seed"]) for row in Table(path).rows()}
    assert keys == {("a, b", str(writer), str(seed)) for writer in range(3) for seed in range(50)}


@pytest.mark.timeout(1800)  # ends a run that hangs; a loaded machine is not one
def test_the_quick_study_runs_resumes_and_reports(tmp_path, monkeypatch, capsys):
    fork = multiprocessing.get_context("fork")  # of this process, which has imported everything already
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chosen = ["run", "series", "--quick", "--only", "series/non_saturating/none", "--folder", str(tmp_path)]
    main(chosen)
    assert capsys.readouterr().out.startswith("1/2 ")
    table = Table(tmp_path / "results" / "series.csv")
    rows = table.rows()
    assert {(row["arm"], row["status"]) for row in rows} == {("random", "ok"), ("ours", "ok")}
    report = (tmp_path / "RESULTS.md").read_text()
    assert "| random start |" in report
    assert "| **ours** |" in report

    kept = table.path.read_bytes().splitlines(keepends=True)[:-1]  # one run lost, as after a kill
    table.path.write_bytes(b"".join(kept))
    main(chosen)
    assert capsys.readouterr().out.startswith("1/1 ")
    assert table.path.read_bytes().splitlines(keepends=True)[:-1] == kept
    assert len(table.rows()) == 2


def test_a_name_that_no_run_has_is_said(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", "series", "--only", "nothing like it"])
    assert "no run's name holds 'nothing like it'" in capsys.readouterr().err


def test_samples_of_real_images_are_judged_against_those_held_back():
    torch.manual_seed(0)
    y = torch.arange(128) % 2
    x = 0.3 * torch.randn(128, 1, 32, 32) + 0.5 * (2 * y - 1)[:, None, None, None]
    data = Set(x[:64], y[:64], x[64:], y[64:])
    judge = Judge(Features(data, epochs=8), data.x, data.held_x)
    real, lost = judge.measure(data.x), judge.measure(torch.zeros_like(x))
    assert real["distance"] < 0.4 < 0.8 < lost["distance"]
    assert real["frechet"] < lost["frechet"]
    assert set(judge.memory(nn.Sequential(nn.Flatten(), nn.Linear(1024, 1)))) == {"d_memory"}
