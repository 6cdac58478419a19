"""Several processes: real ones, under every launcher, through gloo."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from forked import Forked, free_port, python_m, together
from launched import cases

from coopinit_plugin.method.ensemble import MOST

TESTS = Path(__file__).parents[1]


def launch(command: str, *args: str) -> None:
    """What the user types after ``python -m``: a launcher, and what its processes run; all are killed if they hang."""
    done = python_m(command, *args, cwd=TESTS, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def notes(folder: Path, processes: int) -> list[dict]:
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(processes)]


def same(values: list):
    """The one value that all processes have."""
    assert all(value == values[0] for value in values), values
    return values[0]


CASES = (
    *("sharded", "halves", "traffic", "company", "stops", "failures", "uneven", "unshared", "distributed_sampler"),
    *("halved", "inferred", "sizes", "settings", "adapters", "wrapped"),
)
OF_FOUR = ("sharded", "halves", "failures", "uneven", "unshared")  # in which the number of processes counts


def noted(folder: Path, processes: int, names: tuple[str, ...]) -> dict[str, list]:
    """{case: [the notes of process 0, of process 1, ...]}."""
    found = notes(folder, processes)
    return {name: [note[name] for note in found] for name in names}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """One launch for all cases, by torchrun."""
    folder = tmp_path_factory.mktemp("two")
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    launch(*torchrun, "-m", "launched.cases", str(folder), *CASES)
    return noted(folder, 2, CASES)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four processes in the environment that a launcher gives them."""
    folder = tmp_path_factory.mktemp("four")
    run = partial(cases.run, str(folder), *OF_FOUR)
    for done in together(4, partial(Forked, run)):
        assert done.returncode == 0, done.stderr[-6000:]
    return noted(folder, 4, OF_FOUR)


@pytest.fixture(params=["two", "four"])
def told(request):
    return request.getfixturevalue(request.param)


def test_data_are_shared_out_noise_differs_and_the_weights_are_the_same(told):
    found = told["sharded"]
    same([note["digest"] for note in found])
    same([note["summary"] for note in found])
    same([note["seconds"] for note in found])
    latents = [tuple(note["latents"][-4:]) for note in found]
    assert len(set(latents)) == len(latents)
    rows = [row for note in found for row in note["rows"]]
    assert len(set(rows)) == len(rows) == 64  # an epoch: every image once, in one process


def test_parts_of_a_batch_in_each_process_are_the_whole_batch_in_one(told):
    found = same(told["halves"])
    plain, alone = found["plain"], cases.whole()
    assert plain["step_size"] == pytest.approx(alone["step_size"], rel=1e-4)
    assert plain["scale"] == pytest.approx(alone["scale"], rel=1e-3)
    for ours, theirs in zip(plain["weights"], alone["weights"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    # BatchNorm: each process normalises G's own part; D's running statistics are means over the processes, which lack
    # the little by which the parts' means differ
    normed, alone = found["BatchNorm"], cases.whole(norm=True)
    for ours, theirs in zip(normed["weights"], alone["weights"], strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=0.02)


def test_an_iteration_sends_one_gradient_of_each_network_and_a_few_numbers(two):
    found = same(two["traffic"])
    plain, normed = found["plain"], found["BatchNorm"]
    assert plain["gradients"] <= plain["an iteration"] <= plain["gradients"] + 64
    statistics = 4 * (6 + 6) * 2  # mean and variance of both networks' six channels
    assert normed["an iteration"] <= normed["gradients"] + statistics + 64 + 4


def test_copies_of_d_join_in_in_all_of_them_at_once(two):
    assert same(two["company"])["energies"] == MOST


def test_all_stop_in_the_same_iteration(two):
    (by_callback, iterations), (by_time, many) = same(two["stops"])
    assert (by_callback, iterations, by_time) == ("callback", 2, "max_seconds")
    assert 1 <= many < 10_000


def test_a_failure_of_one_process_ends_all(told):
    """The others lose the connection to it."""
    found = told["failures"]
    same([note.pop("afterwards") for note in found])
    assert len(found[0]) == 7
    for place in found[0]:
        own = found[int(place.split()[2])][place]
        expected = {"write": "cannot be written", "D of 0": "ValueError: injected", "callback": "ValueError: injected"}
        for start, words in expected.items():
            assert words in own or not place.startswith(start)


def test_each_process_may_have_its_own_batches_and_their_number_may_differ(told):
    same([note["digest"] for note in told["uneven"]])


def test_what_cannot_be_sharded_is_each_processs_own(told):
    found = told["unshared"]
    same([note["digest"] for note in found])
    for kind in ("order", "iterator"):
        taken = same([[int(value) for value in note[kind]] for note in found])
        assert taken[-6:] == [(taken[-6] + k) % 5 for k in range(6)]


def test_a_distributed_sampler_of_the_users_is_not_sharded_again(two):
    first, second = two["distributed_sampler"]
    assert set(first) == {0}
    assert set(second) == {1}


def test_the_users_accelerator_networks_and_group_go_on(two):
    found = two["wrapped"]
    assert len({note["batches"] for note in found}) == 2  # even_batches=False
    same([note["given"] for note in found])
    same([note["adversarial"] for note in found])


def test_half_precision_and_the_default_settings_and_hooks_with_methods(two):
    for case in ("halved", "inferred", "adapters"):
        same(two[case])


def test_batches_of_different_sizes_are_refused_in_every_process(two):
    assert "8, 9 samples; expected the same number" in same(two["sizes"])


def test_settings_that_differ_are_refused_in_every_process(two):
    assert same(two["settings"]) == "The processes' settings differ"


# --- other launchers


@pytest.mark.parametrize(
    "command",
    [
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        ("launched.notebook",),
        ("launched.debug",),
        ("launched.by_hand",),
    ],
    ids=["accelerate launch", "notebook_launcher", "debug_launcher", "a group made by hand"],
)
def test_every_launcher_gives_the_same(command, two, tmp_path):
    module = ("--main_process_port", free_port(), "-m", "launched.cases") if len(command) > 1 else ()
    launch(*command, *module, str(tmp_path), "sharded")
    found = [note["sharded"] for note in notes(tmp_path, 2)]
    assert [note["digest"] for note in found] == [note["digest"] for note in two["sharded"]]
