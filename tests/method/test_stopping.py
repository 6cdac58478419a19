"""When the warm-up ends by itself."""

from __future__ import annotations

import pytest
import torch
from networks import hooks, mlp_pair, short, vectors
from snapshot import state_bits

from coopinit_plugin import warm_start
from coopinit_plugin.method import stopping
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.method.stopping import EVERY, GOAL, PATIENCE, SPAN, WINDOW, Plateau


def plateau() -> Plateau:
    return Plateau(SlicedWasserstein(torch.zeros(1, 2), [1.0]))


def verdicts(readings) -> list[str | None]:
    stop, found = plateau(), []
    for reading in readings:
        stop.read(reading)
        found.append(stop.verdict)
    return found


def first(found: list) -> int | None:
    """After how many readings the first verdict came."""
    return next((index + 1 for index, verdict in enumerate(found) if verdict is not None), None)


def test_a_distance_that_falls_is_never_stopped():
    assert first(verdicts([10 * 0.95**k for k in range(60)])) is None
    assert first(verdicts([10 / (1 + k) for k in range(30)])) is None


def test_a_distance_that_stays_is_stopped_as_soon_as_eight_means_follow_another():
    found = verdicts([0.3] * 20)
    assert first(found) == SPAN + PATIENCE
    assert found[-1] == "plateau"


def test_one_lucky_or_unlucky_reading_stops_nothing():
    falling = [10 * 0.9**k for k in range(20)]
    for k in range(20):
        for factor in (0.5, 1.5):
            noisy = [value * (factor if index == k else 1) for index, value in enumerate(falling)]
            assert verdicts(noisy)[-1] is None or k > 15


def test_a_distance_that_levels_out_is_stopped_there():
    readings = [max(5 * 0.8**k, 0.5) for k in range(40)]  # level from reading 11 on
    assert 11 <= first(verdicts(readings)) <= 11 + SPAN + PATIENCE


def test_a_lull_on_the_way_stops_nothing():
    """Readings of a DCGAN of 32×32 images: by two spans of four they looked level after ten."""
    readings = [0.69, 0.51, 0.49, 0.46, 0.44, 0.44, 0.46, 0.47, 0.37, 0.45, 0.41, 0.39, 0.35, 0.34, 0.38, 0.31]
    readings += [0.32, 0.32, 0.29, 0.28, 0.26, 0.2, 0.17, 0.16, 0.15]
    found = verdicts(readings)
    assert (first(found), found[-1]) == (len(readings), "goal")


def test_a_small_distance_ends_it_but_not_before_two_spans():
    assert (first(verdicts([GOAL] * 20)), verdicts([GOAL] * 20)[-1]) == (2 * SPAN, "goal")
    found = verdicts([0.5 * 0.95**k for k in range(40)])  # 0.157 and 0.149 at readings 24 and 25
    assert (first(found), found[-1]) == (25, "goal")


def test_one_small_reading_is_not_yet_close():
    falling = [0.9**k for k in range(12)]
    assert verdicts([*falling[:10], 0.1, falling[11]])[-2:] == [None, None]


def test_a_distance_that_rises_again_has_gone_wrong():
    found = verdicts([0.9**k for k in range(12)] + [0.9**11 * 1.6**k for k in range(1, 8)])
    assert "worse" in found
    assert [verdict for verdict in found if verdict][-1] == "worse"


def test_what_is_close_has_not_gone_wrong_even_if_it_was_closer_before():
    assert verdicts([0.3, 0.1, 0.08, 0.08, 0.08, 0.12, 0.16, 0.16])[-1] == "goal"


@pytest.mark.parametrize(
    ("batch", "first_at", "samples"), [(1024, 16, 1024), (100, 16, 1100), (64, 16, 1024), (16, 64, 1024), (4, 64, 256)]
)
def test_a_reading_comes_every_16_iterations_of_the_newest_samples(monkeypatch, batch, first_at, samples):
    stop = plateau()
    monkeypatch.setattr(stop.distance, "between", lambda a, b: torch.tensor(float(len(a)) + len(b) / 1e5))
    at = []
    for iteration in range(1, 129):
        before = len(stop.readings)
        stop.observe(torch.randn(batch, 2), torch.randn(batch, 2))
        at += [iteration] * (len(stop.readings) - before)
    assert at == list(range(first_at, 129, EVERY))
    assert stop.readings == pytest.approx([samples + samples / 1e5] * len(at), rel=1e-6)


def test_before_the_first_reading_there_is_none():
    stop = plateau()
    assert (stop.last, stop.verdict) == (None, None)
    stop.observe(torch.randn(10, 2), torch.randn(10, 2))
    assert (stop.last, stop.verdict) == (None, None)


def test_the_reading_is_the_distance_of_the_samples():
    stop = plateau()
    real, fake = torch.randn(WINDOW, 2), torch.randn(WINDOW, 2) + 1
    for a, b in zip(real.split(64), fake.split(64), strict=True):
        stop.observe(a, b)
    measure = SlicedWasserstein(real, [1.0])
    assert stop.last == pytest.approx(float(measure.between(measure.project(real), measure.project(fake))), rel=1e-5)


# --- in the warm-up


@pytest.fixture
def scripted(monkeypatch):
    """Readings as the test wants them, one an iteration."""

    monkeypatch.setattr(stopping, "EVERY", 1)

    def script(readings):
        left = iter(readings)
        monkeypatch.setattr(SlicedWasserstein, "between", staticmethod(lambda a, b: torch.tensor(next(left))))

    return script


def run(**given):
    G, D = mlp_pair()
    data = vectors(3, WINDOW)
    config = short(**{"iterations": "auto", "handover": "none", **given})
    return G, D, warm_start(G, D, data, config=config, adapter=hooks(), progress=False)


def test_a_plateau_ends_the_warm_up(scripted):
    scripted([0.3] * 100)
    _, _, result = run()
    assert result.summary["stopped_by"] == "plateau"
    assert result.summary["iterations"] == SPAN + PATIENCE
    assert (result.summary["distance_first"], result.summary["distance_last"]) == pytest.approx((0.3, 0.3))
    assert [row.distance for row in result.history] == pytest.approx([0.3] * (SPAN + PATIENCE))


def test_as_long_as_the_distance_falls_it_goes_on_to_the_most(scripted):
    scripted([10 * 0.9**k for k in range(100)])
    _, _, result = run(max_iterations=20)
    assert (result.summary["stopped_by"], result.summary["iterations"]) == ("max_iterations", 20)


def test_a_number_of_iterations_is_kept_whatever_the_distance_does(scripted):
    scripted([0.3] * 100)
    _, _, result = run(iterations=11)
    assert (result.summary["stopped_by"], result.summary["iterations"]) == ("iterations", 11)


def test_where_it_goes_wrong_the_best_moments_weights_are_given_back(scripted, caplog):
    falling = [0.9**k for k in range(10)]
    scripted([*falling, *[5.0] * 90])
    G, D, result = run()
    assert result.summary["stopped_by"] == "worse"
    assert "best moment" in caplog.text
    scripted([*falling, *[5.0] * 90])
    best_g, best_d, _ = run(iterations=10)
    assert state_bits(G, D) == state_bits(best_g, best_d)


@pytest.mark.parametrize("given", [{"max_iterations": 15}, {"max_iterations": 400}])
def test_where_the_best_moment_has_passed_its_weights_are_given_back(scripted, given):
    falling, level = [0.9**k for k in range(10)], [0.55] * 90
    scripted([*falling, *level])
    G, D, result = run(**given)
    assert result.summary["stopped_by"] in ("plateau", "max_iterations")
    kept = sum(falling[-4:]) / 4
    assert (result.summary["distance_last"], result.summary["distance_kept"]) == pytest.approx((0.55, kept))
    scripted([*falling, *level])
    best_g, best_d, _ = run(iterations=10)
    assert state_bits(G, D) == state_bits(best_g, best_d)


@pytest.mark.parametrize(("distance", "worried"), [(0.3, False), (0.62, True)])
def test_a_warm_up_that_ends_far_from_the_data_says_so_and_what_to_try(scripted, caplog, distance, worried):
    scripted([distance] * 100)
    assert run()[2].summary["stopped_by"] == "plateau"
    assert ("still 0.62 σ from your data" in caplog.text) == worried
    assert ("WarmStartConfig(langevin_steps=20)" in caplog.text) == worried


def test_who_gave_the_number_of_iterations_is_not_told_that_they_are_few(scripted, caplog):
    scripted([0.9] * 100)
    run(iterations=4)
    assert "it may not help" not in caplog.text


def test_small_batches_give_no_reading_in_a_short_warm_up():
    G, D = mlp_pair()
    told = warm_start(G, D, vectors(), config=short(), adapter=hooks(), progress=False).summary
    assert (told["distance_first"], told["distance_last"]) == (None, None)
