"""An endless stream of full batches, whatever the loader is."""

from __future__ import annotations

import itertools
from collections import namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from coopinit_plugin import CoopInitError
from coopinit_plugin.host.batches import Batches

CPU = torch.device("cpu")


def numbered(*sizes: int) -> list[torch.Tensor]:
    """Batches of these sizes that hold their index."""
    return [torch.full((size, 2), float(index)) for index, size in enumerate(sizes)]


def take(batches, count: int) -> list[int]:
    return [int(next(batches)[0, 0]) for _ in range(count)]


class Counted:
    """A list that counts its passes and what was taken."""

    def __init__(self, batches: list) -> None:
        self.batches, self.passes, self.taken = batches, 0, 0

    def __iter__(self):
        self.passes += 1
        for batch in self.batches:
            self.taken += 1
            yield batch


def test_in_order_and_round_again():
    assert take(Batches(numbered(4, 4, 4), CPU), 8) == [0, 1, 2, 0, 1, 2, 0, 1]


def test_one_pass_of_the_loader_at_a_time():
    loader = Counted(numbered(4, 4, 4))
    batches = Batches(loader, CPU)
    assert (loader.passes, loader.taken) == (0, 0)
    take(batches, 3)
    assert (loader.passes, loader.taken) == (1, 3)
    take(batches, 1)
    assert (loader.passes, loader.taken) == (2, 4)


def test_batches_smaller_than_the_first_are_left_out():
    assert take(Batches(numbered(4, 4, 3), CPU), 5) == [0, 1, 0, 1, 0]
    assert take(Batches(numbered(4, 1, 6, 2), CPU), 4) == [0, 2, 0, 2]


def test_a_lone_short_batch_is_full():
    assert take(Batches(DataLoader(torch.zeros(3, 2), batch_size=8), CPU), 3) == [0, 0, 0]


def test_peek_leaves_the_batch_where_it_is():
    loader = Counted(numbered(4, 4))
    batches = Batches(loader, CPU)
    first = batches.peek()
    assert batches.peek() is first
    assert loader.taken == 1
    assert next(batches) is first
    assert take(batches, 2) == [1, 0]


def test_an_endless_iterator_is_used_up_only_as_far_as_needed():
    stream = (torch.full((4, 2), float(index)) for index in itertools.count())
    assert take(Batches(stream, CPU), 3) == [0, 1, 2]
    assert int(next(stream)[0, 0]) == 3


def test_loaders_of_every_kind():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from torch.arange(8.0)[:, None].expand(8, 2)

    for loader in (
        DataLoader(torch.arange(8.0)[:, None].expand(8, 2), batch_size=4),
        DataLoader(Stream(), batch_size=4),
        tuple(numbered(4, 4)),
        itertools.cycle(numbered(4, 4)),
    ):
        batches = Batches(loader, CPU)
        assert [next(batches).shape for _ in range(5)] == [(4, 2)] * 5


def test_containers_and_what_is_no_tensor_are_kept():
    Pair = namedtuple("Pair", "image label")
    x = torch.zeros(4, 2)
    for batch in ((x, "text"), [x, 3], {"image": x, "name": ["a"]}, Pair(x, None), {"deep": [(x, {"x": x})]}):
        got = next(Batches([batch], CPU))
        assert type(got) is type(batch)
        assert str(got) == str(batch)


def test_the_batchs_size_is_that_of_its_first_tensor_with_a_dimension():
    full, short = (torch.tensor(1.0), torch.zeros(4, 2)), (torch.tensor(2.0), torch.zeros(3, 2))
    batches = Batches([full, short], CPU)
    assert [float(next(batches)[0]) for _ in range(3)] == [1, 1, 1]


def test_batches_go_to_the_device():
    batch = {"x": torch.zeros(2, 2), "y": [torch.zeros(2, dtype=torch.long)]}
    moved = next(Batches([batch], torch.device("meta")))
    assert (moved["x"].device.type, moved["y"][0].device.type) == ("meta", "meta")
    assert moved["y"][0].dtype == torch.long
    assert batch["x"].device.type == "cpu"


def test_an_error_in_the_loader_passes_through():
    def broken():
        yield torch.zeros(4, 2)
        raise OSError("disk")

    batches = Batches(broken(), CPU)
    next(batches)
    with pytest.raises(OSError, match="disk"):
        next(batches)


def test_what_cannot_be_a_loader():
    with pytest.raises(CoopInitError, match=r"int, which cannot be iterated.*DataLoader"):
        Batches(3, CPU)
    with pytest.raises(CoopInitError, match=r"list\) gave no batch at all.*drop_last"):
        next(Batches([], CPU))
    with pytest.raises(CoopInitError, match=r"no batch at all"):
        next(Batches(iter([]), CPU))
    batches = Batches(iter(numbered(4, 4)), CPU)
    take(batches, 2)
    with pytest.raises(CoopInitError, match=r"ended after 2 batches.*iterated again"):
        next(batches)


def test_batches_without_data_are_left_out():
    empty = [None, [], {}, (), torch.zeros(0, 2), {"x": []}]
    full = numbered(4, 4, 4)
    mixed = [empty[0], full[0], *empty[1:4], full[1], *empty[4:], full[2]]
    assert take(Batches(mixed, CPU), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_loader_of_nothing_but_those_ends():
    said = r"those without data or smaller than the first one are left out"
    for loader in ([None, None], iter([None]), itertools.repeat(None)):
        with pytest.raises(CoopInitError, match=said):
            next(Batches(loader, CPU))
    batches = Batches(itertools.chain(numbered(4), itertools.repeat(torch.zeros(3, 2))), CPU)
    take(batches, 1)
    with pytest.raises(CoopInitError, match=said):
        next(batches)


OTHERS = {
    "another size": (torch.zeros(4, 3), r"\(4, 3\) float32"),
    "another dtype": (torch.zeros(4, 2).long(), r"\(4, 2\) int64"),
    "double": (torch.zeros(4, 2).double(), r"\(4, 2\) float64"),
    "labels": (torch.zeros(4).long(), r"\(4,\) int64"),
    "a list": ([torch.zeros(4, 2)], r"\[\(4, 2\) float32\]"),
    "with labels": ((torch.zeros(4, 2), torch.zeros(4)), r"\(\(4, 2\) float32, \(4,\) float32\)"),
    "by another key": ({"y": torch.zeros(4, 2)}, r"{'y': \(4, 2\) float32}"),
    "a string": ("broken", r"str"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_later_batch_of_another_kind_is_refused_with_its_number(kind):
    other, said = OTHERS[kind]
    batches = Batches([*numbered(4, 4), None, other], CPU)
    take(batches, 2)
    first = r"the first was \(4, 2\) float32.*resize, crop or pad.*collate_fn.*give \[batch\]"
    with pytest.raises(CoopInitError, match=f"^Batch 4 of the loader is {said}, {first}"):
        next(batches)


def test_more_samples_half_precision_and_what_is_no_row_a_sample_are_no_other_kind():
    batches = Batches([torch.zeros(4, 2), torch.zeros(6, 2), torch.zeros(4, 2).half()], CPU)
    assert [tuple(next(batches).shape) for _ in range(3)] == [(4, 2), (6, 2), (4, 2)]
    edges = [(torch.zeros(4, 2), torch.zeros(2, count), "name") for count in (5, 7)]
    batches = Batches(edges, CPU)
    assert [tuple(next(batches)[1].shape) for _ in range(2)] == [(2, 5), (2, 7)]


def test_the_number_is_that_of_the_batch_that_is_looked_at():
    batches = Batches([*numbered(4, 4), torch.zeros(4, 3), *numbered(4, 4)], CPU)
    with pytest.raises(CoopInitError, match=r"^Batch 3 of the loader is "):
        batches.ahead()


def test_looking_ahead_uses_nothing_up():
    loader = Counted(numbered(200, 200, 200, 200, 200))
    batches = Batches(loader, CPU)
    assert [int(batch[0, 0]) for batch in batches.ahead()] == [0, 1, 2]  # 512 samples
    assert loader.taken == 3
    assert take(batches, 7) == [0, 1, 2, 3, 4, 0, 1]
    assert loader.passes == 2


def test_looking_ahead_ends_with_the_epoch():
    loader = Counted(numbered(4, 4, 3))
    batches = Batches(loader, CPU)
    assert [int(batch[0, 0]) for batch in batches.ahead()] == [0, 1]
    assert loader.passes == 1
    assert take(batches, 4) == [0, 1, 0, 1]
    stream = Batches(iter(numbered(4, 4)), CPU)
    assert len(stream.ahead()) == 2
    take(stream, 2)
    with pytest.raises(CoopInitError, match="ended after 2 batches"):
        next(stream)


@pytest.mark.parametrize("used", range(8))
def test_what_was_looked_at_comes_back(used):
    def shuffled():
        generator = torch.Generator().manual_seed(3)
        dataset = TensorDataset(torch.arange(50.0)[:, None])
        return Batches(DataLoader(dataset, 8, shuffle=True, generator=generator), CPU, [generator]), generator

    (before, generator), (after, other) = shuffled(), shuffled()
    before.ahead()
    take_all = lambda batches, count: [next(batches)[0].flatten().tolist() for _ in range(count)]  # noqa: E731
    take_all(before, used)
    state = before.state_dict()
    after.peek()
    after.load_state_dict(state)
    assert torch.equal(other.get_state(), generator.get_state())
    assert take_all(before, 14) == take_all(after, 14)
