"""Loaders and batches of every kind."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from zoo.entry import Entry, N
from zoo.vectors import vector_pair

Batch = namedtuple("Batch", ["image", "label"])


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.randn(20, 2))


class Features(UserDict):
    """A mapping that is no dict, as transformers' BatchFeature."""


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"pixel_values": torch.randn(2), "label": index % 3, "path": f"{index}.png"}


def endless() -> Iterator[torch.Tensor]:
    while True:
        yield torch.randn(N, 2)


def labelled() -> TensorDataset:
    return TensorDataset(torch.randn(20, 2), torch.randint(0, 3, (20,)))


def entry(name: str, loader, real=lambda batch: batch, shows: tuple[str, ...] = ()) -> Entry:
    return Entry(name, lambda: (*vector_pair(), loader()), real=real, shows=shows)


ENTRIES = [
    entry("endless generator", endless),
    entry("short last batch", lambda: DataLoader(labelled(), N, shuffle=True), lambda batch: batch[0]),
    entry(
        "own generator", lambda: DataLoader(labelled(), N, True, generator=torch.Generator()), lambda batch: batch[0]
    ),
    entry("IterableDataset", lambda: DataLoader(Stream(), N, drop_last=True)),
    entry("dicts with strings", lambda: DataLoader(Rows(), N), lambda batch: batch["pixel_values"]),
    entry("no dict, but a mapping", lambda: [Features(x=torch.randn(N, 2))] * 2, lambda batch: batch["x"]),
    entry("named tuples", lambda: [Batch(torch.randn(N, 2), torch.zeros(N))] * 2, lambda batch: batch.image),
    entry("nested", lambda: [[{"x": torch.randn(N, 2)}, torch.zeros(N)]] * 2, lambda batch: batch[0]["x"]),
    entry("a tuple of one", lambda: DataLoader(TensorDataset(torch.randn(16, 2)), N), lambda batch: batch[0]),
]
