"""The memory of pairs (z, x̃) whose chains go on."""

from __future__ import annotations

import pytest
import torch
from networks import mlp_pair

from coopinit_plugin import WarmStartConfig, warm_start
from coopinit_plugin.method.memory import FRESH, LOOSE, PULL, Chains, Memory, drawn_back
from coopinit_plugin.method.pair import Team

N = 4


def fresh(value: float, beside=None) -> Chains:
    return Chains(torch.full((N, 2), value), beside, None)


def filled(memory: Memory, beside=lambda value: None) -> Memory:
    for turn in range(FRESH * memory.places):
        place = float(turn // FRESH)
        chains = memory.take(fresh(place, beside(place)), N)
        begins = turn % FRESH == 0
        assert (chains.x is None) == begins  # a new latent's chain begins at G(z)
        at = torch.full((N, 3), place) + torch.arange(N)[:, None] / 10
        memory.put(chains, at if begins else chains.x)
    return memory


def test_it_fills_and_then_every_position_takes_up_its_own_chains():
    memory = filled(Memory(3))
    seen = set()
    for _ in range(30):
        chains = memory.take(fresh(-1.0), N)
        for position, (z, x) in enumerate(zip(chains.z, chains.x, strict=True)):
            assert x[0] == pytest.approx(float(z[0]) + position / 10)  # the pair stays together, at its position
            seen.add((position, float(z[0])))
        memory.put(chains, chains.x)
    assert seen == {(position, place) for position in range(N) for place in (0.0, 1.0, 2.0)}


def test_what_is_written_back_is_where_the_chain_goes_on():
    memory = filled(Memory(1))
    chains = memory.take(fresh(9.0), N)
    memory.put(chains, chains.x + 100)
    assert (memory.take(fresh(9.0), N).x >= 100).all()


def test_labels_stay_with_their_pair():
    memory = filled(Memory(3), beside=lambda value: (torch.full((N,), int(value)), 1.0))
    for _ in range(10):
        chains = memory.take(fresh(-1.0, (torch.zeros(N, dtype=torch.long), 1.0)), N)
        assert torch.equal(chains.batch[0].float(), chains.z[:, 0])
        memory.put(chains, chains.x)


def test_what_cannot_be_taken_apart_into_samples_stays_together():
    memory = filled(Memory(3), beside=lambda value: f"graph {value:g}")
    for _ in range(10):
        chains = memory.take(fresh(-1.0, "graph"), N)
        assert chains.batch == f"graph {float(chains.z[0, 0]):g}"
        assert len(chains.z[:, 0].unique()) == 1
        memory.put(chains, chains.x)


def test_a_batch_of_another_size_takes_none_of_its_latents_into_the_memory():
    memory = Memory(3)
    memory.put(memory.take(fresh(0.0), N), torch.zeros(N, 3))
    chains = memory.take(Chains(torch.full((N + 2, 2), 7.0), None, None), N + 2)
    assert chains.z.shape == (N, 2)
    assert (chains.z == 0).all()


def test_two_processes_draw_as_one_does_for_its_positions():
    whole = filled(Memory(3))
    halves = [Memory(3, team=Team(count=2, index=index)) for index in range(2)]
    for index, half in enumerate(halves):
        rows = slice(index * N // 2, (index + 1) * N // 2)
        for turn in range(3 * FRESH):
            place = float(turn // FRESH)
            chains = half.take(Chains(torch.full((N // 2, 2), place), None, None), N // 2)
            at = (torch.full((N, 3), place) + torch.arange(N)[:, None] / 10)[rows]
            half.put(chains, at if chains.x is None else chains.x)
    for _ in range(5):
        ours = whole.take(fresh(-1.0), N).x
        theirs = [half.take(Chains(torch.zeros(N // 2, 2), None, None), N // 2).x for half in halves]
        assert torch.equal(ours, torch.cat(theirs))


def test_a_stored_memory_goes_on_with_the_same_draws():
    memory, other = filled(Memory(3)), Memory(3)
    state = memory.state_dict()
    other.load_state_dict(state, fresh(0.0)._replace(x=torch.zeros(N, 3)))
    for _ in range(5):
        ours, theirs = memory.take(fresh(-1.0), N), other.take(fresh(-1.0), N)
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.z, theirs.z)


def test_a_later_batch_that_is_larger_than_the_first_is_measured_by_as_many_as_there_are_chains():
    G, D = mlp_pair()
    batches = [torch.randn(n, 2) for n in (16, 16, 24)]
    result = warm_start(G, D, batches, handover="hinge", config=WarmStartConfig(iterations=80), progress=False)
    assert result.summary["distance_kept"] > 0


@pytest.mark.parametrize(("distance", "share"), [(0.1, 0.25), (0.5, 0.05), (0.0, 0.25)])
def test_a_chain_that_has_not_come_to_the_data_is_drawn_back_by_less(distance, share):
    x, g, behind = torch.zeros(N, 3), torch.ones(N, 3), 0.05
    assert torch.allclose(drawn_back(x, g, behind, distance), torch.full((N, 3), share))


@pytest.mark.parametrize(("behind", "share"), [(9.0, PULL), (LOOSE / 10, 0.1), (0.0, 0.0)])
def test_a_chain_is_drawn_back_by_a_share_of_the_way_and_carries_no_graph(behind, share):
    x, g = torch.zeros(N, 3), torch.ones(N, 3, requires_grad=True)
    start = drawn_back((x,), (g,), behind)
    assert torch.allclose(start[0], torch.full((N, 3), share))
    assert not start[0].requires_grad
