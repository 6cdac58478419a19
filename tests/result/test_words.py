"""What the user reads on the way and at the end."""

from __future__ import annotations

import re

import torch
from networks import Z, conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot
from torch import nn

from coopinit_plugin import StepReport, warm_start
from coopinit_plugin.calling.adapter import bound
from coopinit_plugin.first_look import REPETITIONS, adversarial_seconds
from coopinit_plugin.method.stopping import EVERY
from coopinit_plugin.result.words import outcome, standing

CPU = torch.device("cpu")


def row(iteration: int, distance: float | None, seconds: float) -> StepReport:
    return StepReport(iteration, 1.0, 0.5, 0.5, 1.0, 2, 0.25, distance, seconds)


# --- on the way


def test_where_it_stands_in_the_users_terms():
    history = [row(1, None, 0.1), row(2, 1.29, 0.2), row(143, 0.312, 19.0)]
    told = "warm-up 143/400 at most · samples 0.31 σ from your data (first 1.29, goal 0.20)"
    cost = " · about as costly as 190 of your steps"
    assert standing(history, 400, 0.2, 0.1, None) == told + cost
    assert standing(history, 400, 0.2, 0.1, 120) == told + cost
    assert standing(history, 400, 0.2, 0.1, 80) == told  # the usual terminal
    assert standing(history, 400, 0.2, 0.1, 20) == "warm-up 143/400 at most"
    assert standing(history[:1], 400, None, 0.1, None) == "warm-up 1/400 · about as costly as 1 of your steps"
    assert "(first 1.29)" in standing(history, 400, None, 0.1, None)


def test_the_bar_and_the_last_line_say_where_it_stands_and_what_came_out(capfd):
    G, D = mlp_pair()
    result = warm_start(G, D, vectors(size=512), config=short(iterations=EVERY), adapter=hooks())
    printed, told = capfd.readouterr()
    assert printed == ""
    last_bar, last, *nothing = re.split(r"[\r\n]+", told)[-3:]
    assert re.match(
        rf"warm-up {EVERY}/{EVERY} · samples \d\.\d\d σ from your data \(first \d\.\d\d\) · about as", last_bar
    )
    assert last == outcome(result.summary)
    assert nothing == [""]


def test_without_progress_nothing_is_printed(capfd, caplog):
    G, D = mlp_pair()
    warm_start(G, D, vectors(), config=short(handover="hinge"), adapter=hooks(), progress=False)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


def test_a_finished_result_that_is_taken_as_it_is_says_so(tmp_path, capfd, caplog):
    for _ in range(2):
        G, D = mlp_pair()
        warm_start(G, D, vectors(), config=short(), adapter=hooks(), output_dir=tmp_path / "init", resume=True)
    assert capfd.readouterr().err.count("CoopInit: 3 iterations") == 2
    assert caplog.messages[-1].endswith("init holds the result of a finished warm-up, which is taken: nothing is run.")


# --- what came out

GO_ON = "Go on with your adversarial loop as it is."
DONE = {
    "iterations": 143,
    "cost_in_steps": 190.4,
    "stopped_by": "goal",
    "distance_first": 1.29,
    "distance_kept": 0.194,
    "among_data": 0.8,
    "among_data_real": 0.9,
}


def test_a_log_file_gets_a_line_now_and_then_not_one_an_iteration(capfd):
    warm_start(*mlp_pair(), vectors(), config=short(iterations=40), adapter=hooks())
    assert 1 <= capfd.readouterr().err.count("warm-up ") <= 4


def test_a_stream_that_knows_nothing_of_terminals_will_do(monkeypatch):
    class Written:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stderr", stream := Written())
    warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks())
    assert "warm-up" in stream.text


def test_an_unknown_loss_is_told_of_before_the_first_iteration(caplog):
    seen = []
    warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), callback=lambda _: seen.append(caplog.text))
    assert 'warm_start(G, D, loader, handover="logistic")' in seen[0]
    caplog.clear()
    warm_start(*mlp_pair(), vectors(), handover="hinge", config=short(), adapter=hooks())
    assert "is not known" not in caplog.text


def test_near_by_mean_and_spread_is_not_called_among_the_data():
    told = "CoopInit: 143 iterations, about as costly as 190 of your steps, samples 0.19 σ from your data (first 1.29)"
    near = ", {} of them among your data (of real ones 90%). By mean and spread they are near your data. "
    assert outcome(DONE) == told + near.format("80%") + GO_ON
    few = "One by one they are not among them yet: your loop is there for that. "
    assert outcome({**DONE, "among_data": 0.03}) == told + near.format("3%") + few + GO_ON


def test_every_end_says_what_to_do_next():
    more = "They had not come to 0.16 σ, the goal; WarmStartConfig(max_iterations=286) gives them more time. "
    assert outcome({**DONE, "stopped_by": "max_iterations"}).endswith(more + GO_ON)
    few = outcome({**DONE, "stopped_by": "max_iterations", "among_data": 0.0})
    assert few.endswith(more + "One by one they are not among them yet: your loop is there for that. " + GO_ON)
    assert "They came no closer any more, 0.16 σ was aimed at. Go on" in outcome({**DONE, "stopped_by": "plateau"})
    assert "so the best moment was kept; 0.16 σ was aimed at. Go on" in outcome({**DONE, "stopped_by": "worse"})
    assert "before they had come to 0.16 σ, the goal. Go on" in outcome({**DONE, "stopped_by": "max_seconds"})
    for end in ("plateau", "worse", "max_iterations", "max_seconds"):
        assert "WarmStartConfig(langevin_steps=20)" in outcome({**DONE, "stopped_by": end, "distance_kept": 0.7})
    short = {"distance_first": None, "distance_kept": None, "among_data": None, "among_data_real": None}
    alone = "CoopInit: the hand-over alone, about as costly as 190 of your steps. "
    assert outcome({**DONE, **short, "iterations": 0, "stopped_by": "iterations"}) == alone + GO_ON


def test_samples_between_far_apart_modes_are_not_called_close(capfd):
    """The sliced distance alone takes a smooth cloud for a grid of 25 narrow modes."""
    torch.manual_seed(0)

    def grid(n: int) -> torch.Tensor:
        return torch.randint(5, (n, 2)) * 2.0 - 4 + 0.05 * torch.randn(n, 2)

    G = nn.Sequential(nn.Linear(Z, 2))
    nn.init.normal_(G[0].weight, 0, 2.8 / Z**0.5)
    D = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    result = warm_start(G, D, [grid(256) for _ in range(20)], config=short(iterations=2 * EVERY), adapter=hooks())
    assert result.summary["among_data"] < 0.2
    assert result.summary["among_data_real"] > 0.7
    assert "One by one they are not among them yet" in capfd.readouterr().err


# --- the cost


def test_the_unit_of_the_cost_is_an_adversarial_iteration_that_leaves_no_trace():
    G, D = conv_pair()
    D.append(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))
    pair, (batch, *_) = bound(G, D.eval(), hooks()), images(1, 8)
    calls = []
    for net in (G, D):
        net.register_forward_pre_hook(lambda module, _: calls.append((module is G, module.training)))
    before = Snapshot(G, D)
    assert adversarial_seconds(pair, batch, CPU, seed=0) > 0
    before.assert_unchanged()
    assert calls == [(True, True), *[(False, True)] * 3] * (1 + REPETITIONS)


def test_the_cost_counts_iterations_and_hand_over_in_that_unit(monkeypatch):
    monkeypatch.setattr("coopinit_plugin.warmup.adversarial_seconds", lambda *_: 1e-3)
    G, D = mlp_pair()
    told = warm_start(G, D, vectors(), config=short(), adapter=hooks(), progress=False)
    assert told.history[-1].seconds < told.summary["cost_in_steps"] * 1e-3 <= told.summary["seconds"]
