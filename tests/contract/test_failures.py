"""After a failure or an interrupt at any point, nothing has changed."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from networks import (
    Fuse,
    Fused,
    FusedLoader,
    Injected,
    assert_warmed,
    mlp_pair,
    vectors,
    warm,
)
from snapshot import Snapshot
from torch import nn

from coopinit_plugin import CoopInitError


def fail_in_loader(fuse, G, D):
    return G, D, FusedLoader(vectors(), fuse), {}


def fail_in_generator(fuse, G, D):
    return nn.Sequential(G, Fused(fuse)), D, vectors(), {}


def fail_in_discriminator(fuse, G, D):
    return G, nn.Sequential(D[0], Fused(fuse), *D[1:]), vectors(), {}


def fail_in_callback(fuse, G, D):
    return G, D, vectors(), {"callback": lambda step: fuse.light()}


PLACES = {
    "loader": (fail_in_loader, (1, 2, 4, 20)),
    "G": (fail_in_generator, (1, 2, 4, 6)),
    "D": (fail_in_discriminator, (1, 2, 3, 5, 7, 12, 20)),
    "callback": (fail_in_callback, (1, 3)),
}


@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("place", "at"), [(place, at) for place, (_, ats) in PLACES.items() for at in ats])
def test_a_failure_anywhere_changes_nothing(place, at, error):
    fuse = Fuse(at, error)
    G, D, loader, given = PLACES[place][0](fuse, *mlp_pair())
    D[0].weight.grad = torch.ones(8, 2)
    before = Snapshot(G, D, loader=loader)
    with pytest.raises((error, CoopInitError) if place in "GD" else error) as caught:
        warm(G, D, loader, **given)
    if not isinstance(caught.value, error):  # the search for how to call G and D may explain the failure
        assert isinstance(caught.value.__cause__, error)
        assert error is Injected
    assert fuse.lit >= at
    before.assert_unchanged()


def test_the_fuses_are_placed_where_the_warm_up_passes():
    """Each of the numbers above is reached in a run that does not fail."""
    for place, (build, ats) in PLACES.items():
        fuse = Fuse()
        G, D, loader, given = build(fuse, *mlp_pair())
        warm(G, D, loader, **given)
        assert fuse.lit >= max(ats), place


@pytest.fixture
def writes(monkeypatch):
    """Call a function at the n-th time that a number is written into a network of the user."""

    class Writes:
        def __init__(self) -> None:
            self.count, self.at, self.then, self.watched = 0, None, None, set()

        def watch(self, *modules):
            self.watched = {t.data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}

    found, original = Writes(), torch.Tensor.copy_

    def copy_(tensor, *arguments, **options):
        written = original(tensor, *arguments, **options)
        if tensor.data_ptr() in found.watched:
            found.count += 1
            if found.count == found.at:
                found.then()
        return written

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    return found


def total(*modules):
    return sum(len(module.state_dict()) for module in modules)


@pytest.mark.parametrize("at", [1, 3, 6, 8])
@pytest.mark.parametrize("error", [Injected, KeyboardInterrupt])
def test_a_failure_while_writing_changes_nothing(writes, at, error):
    G, D = mlp_pair()
    writes.watch(G, D)
    writes.at, writes.then = at, lambda: (_ for _ in ()).throw(error("injected"))
    before = Snapshot(G, D)
    with pytest.raises(error):
        warm(G, D, vectors())
    assert writes.count == at + total(G, D)  # all were put back
    before.assert_unchanged()


@pytest.mark.parametrize("at", [1, 4, 8])
def test_ctrl_c_while_writing_changes_nothing(writes, at):
    assert threading.current_thread() is threading.main_thread()
    G, D = mlp_pair()
    writes.watch(G, D)
    writes.at, writes.then = at, lambda: signal.raise_signal(signal.SIGINT)
    before = Snapshot(G, D)
    with pytest.raises(KeyboardInterrupt):
        warm(G, D, vectors())
    before.assert_unchanged()


def test_ctrl_c_while_writing_reaches_the_users_own_handler(writes):
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        G, D = mlp_pair()
        writes.watch(G, D)
        writes.at, writes.then = 2, lambda: signal.raise_signal(signal.SIGINT)
        before = Snapshot(G, D)
        result = warm(G, D, vectors())
        before.assert_only_values_changed()
        assert_warmed(result, G, D)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ignored_interrupts_stay_ignored(writes):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        G, D = mlp_pair()
        writes.watch(G, D)
        writes.at, writes.then = 2, lambda: signal.raise_signal(signal.SIGINT)
        assert_warmed(warm(G, D, vectors()), G, D)
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize("second", [1, 3, 5])
def test_a_second_ctrl_c_while_the_values_are_put_back_changes_nothing(writes, second):
    G, D = mlp_pair()
    writes.watch(G, D)

    def press():
        writes.at = 4 + second if writes.count == 4 else None
        signal.raise_signal(signal.SIGINT)

    writes.at, writes.then = 4, press
    before = Snapshot(G, D)
    with pytest.raises(KeyboardInterrupt):
        warm(G, D, vectors())
    assert writes.count > 4 + second
    before.assert_unchanged()


def test_ctrl_c_in_the_middle_of_the_warm_up_changes_nothing():
    def callback(step):
        signal.raise_signal(signal.SIGINT)

    G, D = mlp_pair()
    before = Snapshot(G, D)
    with pytest.raises(KeyboardInterrupt):
        warm(G, D, vectors(), callback=callback)
    before.assert_unchanged()


def test_works_in_a_thread():
    G, D = mlp_pair()
    results = []
    thread = threading.Thread(target=lambda: results.append(warm(G, D, vectors())))
    thread.start()
    thread.join()
    assert_warmed(results[0], G, D)


def test_an_output_dir_that_cannot_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    G, D = mlp_pair()
    for output_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        before = Snapshot(G, D)
        with pytest.raises(CoopInitError, match="cannot be written"):
            warm(G, D, vectors(), output_dir=output_dir)
        before.assert_unchanged()
    assert (tmp_path / "file").read_text() == "not a folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resume_takes_the_saved_result(tmp_path):
    G, D = mlp_pair()
    result = warm(G, D, vectors(), output_dir=tmp_path / "init", resume=True)
    other_g, other_d = mlp_pair(seed=1)
    again = warm(other_g, other_d, FusedLoader([], Fuse(1)), output_dir=tmp_path / "init", resume=True)
    assert_warmed(result, other_g, other_d)
    assert again.summary == result.summary


def test_resume_starts_where_the_folder_is_still_empty(tmp_path):
    G, D = mlp_pair()
    result = warm(G, D, vectors(), output_dir=tmp_path, resume=True)
    assert_warmed(result, G, D)
    assert (tmp_path / "config.json").exists()
