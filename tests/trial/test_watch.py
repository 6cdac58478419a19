"""The watch: what it warns of, that it is quiet else, and that it leaves the user's world alone."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import coopinit_plugin
from coopinit_plugin import Adapter, CoopInitError, Watch
from examples.study.watch import FIELDS, table, watched

X = torch.randn(700, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LOADER = [[X[i : i + 50], torch.zeros(50, dtype=torch.long)] for i in range(0, 700, 50)]
GOOD, ONE = X[520:600], X[:1].expand(80, -1, -1, -1)


def test_healthy_samples_raise_nothing(caplog):
    watch = Watch(LOADER)
    for _ in range(20):
        reading = watch(fake=GOOD, real_score=torch.randn(64, 1), fake_score=torch.randn(64, 1))
    assert reading.warnings == watch.warnings == ()
    assert not caplog.records
    assert reading.step == 19 * 25


def test_a_fall_of_the_diversity_is_told_once_and_at_once(caplog):
    watch = Watch(LOADER)
    for step in range(0, 300, 100):
        watch(fake=GOOD, step=step)
    for step in range(300, 700, 100):
        watch(fake=ONE, step=step)
    assert watch.warnings[0].startswith("the samples' diversity fell to ")
    assert watch.warnings[0].endswith("% of the data's in 400 steps; collapse")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith("Step 400: the samples' diversity fell to")
    assert watch.readings[3].warnings == ()  # one low reading may be chance


def test_a_diversity_that_never_rises_needs_patience():
    watch = Watch(LOADER)
    for _ in range(15):
        watch(fake=ONE)
    assert watch.warnings == ()
    watch(fake=ONE)
    assert "and has not risen for 375 steps; collapse" in watch.warnings[0]


def test_a_diversity_on_its_way_up_is_no_collapse():
    watch = Watch(LOADER)
    for count in range(1, 25):
        watch(fake=X[torch.arange(64) % count])
        assert watch.warnings == ()


def test_a_dead_discriminator():
    watch = Watch(LOADER)
    watch(fake=GOOD, real_score=torch.full((64,), 0.7), fake_score=torch.full((64, 1), 0.7))
    assert watch.warnings == ("D gives every sample the same score, 0.7: it is dead, and G learns nothing from it",)


def test_memorising():
    watch = Watch(LOADER)
    torch.manual_seed(0)
    for _ in range(3):
        watch(fake=GOOD, real_score=torch.randn(64) + 3, fake_score=torch.randn(64), held_score=torch.randn(64))
    assert "it knows them by heart" in watch.warnings[0]
    for _ in range(2):
        watch(fake=GOOD, real_score=torch.randn(64), fake_score=torch.randn(64), held_score=torch.randn(64))
    assert watch.warnings == ()


def test_divergence():
    watch = Watch(LOADER)
    watch(fake=GOOD)
    watch(fake=GOOD * 20)
    assert "the samples moved away to" in watch.warnings[0]
    watch(fake=GOOD * float("nan"))
    assert "not finite any more" in watch.warnings[0]
    assert watch(fake=GOOD, fake_score=torch.tensor([float("nan")])).warnings


def test_it_goes_on_from_its_state(tmp_path):
    watch = Watch(LOADER)
    for fake in (GOOD, GOOD, ONE):
        watch(fake=fake, real_score=torch.randn(8), fake_score=torch.randn(8))
    torch.save(watch.state_dict(), tmp_path / "checkpoint.pt")
    other = Watch(LOADER)
    other.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert other.readings == watch.readings
    assert other(fake=ONE) == watch(fake=ONE)
    assert other.warnings


def test_rows_for_trackers_are_plain_floats():
    row = Watch(LOADER)(fake=GOOD, fake_score=torch.randn(8)).row
    assert {"watch/distance", "watch/diversity", "watch/fake_score"} <= set(row)
    assert "watch/held_score" not in row
    assert all(type(value) is float and value == value for value in row.values())


def test_the_picture(tmp_path):
    watch = Watch(LOADER)
    watch(fake=GOOD)
    watch(fake=ONE)
    assert watch.plot(tmp_path / "new" / "run.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    with pytest.raises(CoopInitError, match="cannot be written"):
        watch.plot(tmp_path / "file" / "run.png")


def test_nothing_of_the_users_moves():
    loader = DataLoader(TensorDataset(X), 50, shuffle=True, generator=torch.Generator().manual_seed(3))
    state, own = torch.get_rng_state(), loader.generator.get_state()
    fake = GOOD.clone().requires_grad_()
    watch = Watch(loader)
    watch(fake=fake, real_score=(fake.sum((1, 2, 3)) * 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(own, loader.generator.get_state())
    assert fake.grad is None
    assert torch.equal(fake, GOOD)


def test_half_precision_and_an_endless_iterator():
    def forever():
        while True:
            yield X[:64]

    assert Watch(forever())(fake=GOOD.bfloat16()).distance < 0.5


def test_bad_input():
    with pytest.raises(CoopInitError, match=r"fake is \(4, 5\) float32; expected generated samples shaped as the data"):
        Watch(LOADER)(fake=torch.zeros(4, 5))
    with pytest.raises(CoopInitError, match="10 real samples"):
        Watch([X[:10]])
    with pytest.raises(CoopInitError, match="gave no batch of tensors"):
        Watch([])
    with pytest.raises(CoopInitError, match=r"Which tensor of the batch is the data\? batch\[0\] or batch\[1\]"):
        Watch([[X, X]])
    assert Watch([[X, X]], adapter=Adapter(real=lambda batch: batch[1]))(fake=GOOD).coverage > 0
    with pytest.raises(CoopInitError, match="fake_score is float; expected D's output"):
        Watch(LOADER)(fake=GOOD, fake_score=0.3)
    with pytest.raises(CoopInitError, match="every=0 was given"):
        Watch(LOADER, every=0)


def test_the_studys_table_of_how_early_lost_runs_are_called():
    row = watched("grid100", "none", "non_saturating", "random", 0, 10)
    assert list(row) == list(FIELDS)
    assert row["called"] == ""  # eleven readings are too few
    rows = [
        {"lost": lost, "called": called, "iterations": "100"} for lost, called in (("1", "40"), ("1", "60"), ("0", ""))
    ]
    assert table(rows) == (
        "1 of 2 lost runs were called before half of their budget, the median one at iteration 40; "
        "0 of 1 healthy ones were called."
    )


def test_it_is_public():
    assert "watch(fake=fake" in (coopinit_plugin.Watch.__doc__ or "")
