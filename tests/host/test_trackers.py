"""Statistics in the user's own trackers, beside theirs and without a step of theirs lost."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from networks import hooks, mlp_pair, short, vectors

from coopinit_plugin import warm_start
from coopinit_plugin.method.stopping import EVERY

NAMES = {"distance", "score_gap", "displacement", "step_size", "langevin_steps", "logit_real", "logit_refined"}


class Recorder(GeneralTracker):
    """Keeps what it is given."""

    requires_logging_directory = False

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()
        self.rows = []

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **kwargs):
        self.rows.append((values, step, kwargs))


def recorded(name: str, iterations: int = 3) -> tuple[list, list]:
    tracker = Recorder(name)
    accelerator = Accelerator(cpu=True, log_with=[tracker])
    accelerator.init_trackers("mine")
    result = warm_start(
        *mlp_pair(),
        vectors(size=512),
        config=short(iterations=iterations),
        adapter=hooks(),
        accelerator=accelerator,
        progress=False,
    )
    return tracker.rows, result.history


def test_a_tracker_of_the_users_own_gets_prefixed_floats_and_no_step():
    rows, history = recorded("mine", iterations=EVERY)
    assert [step for _, step, _ in rows] == [None] * EVERY
    for (values, _, _), report in zip(rows, history, strict=True):
        assert values["coopinit/score_gap"] == report.gap
        assert values.get("coopinit/distance") == report.distance
        assert all(key.startswith("coopinit/") and type(value) is float for key, value in values.items())
    assert {key.removeprefix("coopinit/") for key in rows[-1][0]} == NAMES


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "aim", "clearml"])
def test_where_steps_belong_to_names_the_iteration_is_the_step(name):
    rows, _ = recorded(name)
    assert [(step, kwargs) for _, step, kwargs in rows] == [(1, {}), (2, {}), (3, {})]


def test_weights_and_biases_keeps_its_row_open():
    rows, _ = recorded("wandb")
    assert [(step, kwargs) for _, step, kwargs in rows] == [(None, {"commit": False})] * 3


@pytest.mark.parametrize("name", ["dvclive", "trackio", "swanlab"])
def test_trackers_that_advance_with_every_call_are_left_alone(name):
    assert recorded(name)[0] == []


def test_tensorboard_for_real(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("mine")
    accelerator.log({"loss": 1.0}, step=0)
    result = warm_start(
        *mlp_pair(),
        vectors(size=512),
        config=short(iterations=EVERY),
        adapter=hooks(),
        accelerator=accelerator,
        progress=False,
    )
    for step in range(1, 4):
        accelerator.log({"loss": 1.0 / step}, step=step)
    accelerator.trackers[0].finish()
    events = EventAccumulator(str(tmp_path / "mine")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", *(f"coopinit/{name}" for name in NAMES)}
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]
    curve = [(event.step, event.value) for event in events.Scalars("coopinit/score_gap")]
    assert [step for step, _ in curve] == list(range(1, EVERY + 1))
    assert [value for _, value in curve] == pytest.approx([row.gap for row in result.history], rel=1e-6)


def test_weights_and_biases_for_real(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    accelerator = Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("mine")
    run = accelerator.trackers[0].run
    warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), accelerator=accelerator, progress=False)
    assert run.step == 0
    accelerator.log({"loss": 1.0}, step=0)  # a row that would be dropped, had the counter moved on
    accelerator.log({"loss": 0.5}, step=1)
    assert run.step == 1
    run.finish()
