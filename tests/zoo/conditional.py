"""Labels and other conditions, beside the latent and beside the data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import one_hot

from zoo.entry import Entry, Module, N, first, hinge

CLASSES = 3


def numbered(count: int = 2) -> list[list[torch.Tensor]]:
    return [[torch.randn(N, 2), torch.randint(0, CLASSES, (N,))] for _ in range(count)]


def rows(count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, one_hot(y, CLASSES).float()) for x, y in numbered(count)]


class EmbeddingG(Module):
    """``G(z, labels)``, class numbers through an embedding joined to the noise."""

    def __init__(self) -> None:
        super().__init__(embed=nn.Embedding(CLASSES, 5), body=nn.Linear(4 + 5, 16), out=nn.Linear(16, 2))

    def forward(self, noise, labels):
        return self.out(self.body(torch.cat([noise, self.embed(labels)], 1)).relu())


class EmbeddingD(Module):
    """``D(x, labels)``, a projection of the embedding."""

    def __init__(self) -> None:
        super().__init__(embed=nn.Embedding(CLASSES, 16), body=nn.Linear(2, 16), out=nn.Linear(16, 1))

    def forward(self, x, labels):
        h = self.body(x).relu()
        return self.out(h) + (self.embed(labels) * h).sum(1, keepdim=True)


class OptionalD(EmbeddingD):
    """``D(x, y=None)``."""

    def forward(self, x, y=None):
        return super().forward(x, y) if y is not None else self.out(self.body(x).relu())


class LateOptionalD(EmbeddingD):
    """``D(x, alpha=1.0, y=None)``: the labels go in by name."""

    def forward(self, x, alpha=1.0, y=None):
        return super().forward(alpha * x, y) if y is not None else self.out(self.body(x).relu())


class OptionalG(EmbeddingG):
    def forward(self, z, y=None):
        return super().forward(z, y if y is not None else torch.randint(0, CLASSES, (len(z),)))


class RowsG(Module):
    """``G(z, c)`` with one-hot rows; c_dim 0 takes (N, 0)."""

    def __init__(self, c_dim: int) -> None:
        super().__init__(z_dim=4, c_dim=c_dim, body=nn.Linear(4 + c_dim, 16), out=nn.Linear(16, 2))

    def forward(self, z, c, truncation_psi=1.0):
        assert c.shape == (len(z), self.c_dim)
        return self.out(self.body(torch.cat([z, c.float()], 1)).relu())


class RowsD(Module):
    """``D(x, c)`` with one-hot rows."""

    def __init__(self, c_dim: int) -> None:
        super().__init__(c_dim=c_dim, body=nn.Linear(2 + c_dim, 16), out=nn.Linear(16, 1))

    def forward(self, img, c):
        assert c.shape == (len(img), self.c_dim)
        return self.out(self.body(torch.cat([img, c.float()], 1)).relu())


class LabelFirstG(EmbeddingG):
    def forward(self, label, noise):
        return super().forward(noise, label)


class LabelFirstD(EmbeddingD):
    def forward(self, label, x):
        return super().forward(x, label)


class VectorConditionG(RowsG):
    """A condition of plain numbers."""

    def forward(self, z, cond):
        return super().forward(z, cond)


class VectorConditionD(RowsD):
    def forward(self, x, cond):
        return super().forward(x, cond)


class ClassHeadD(Module):
    """``D(x) -> (validity, class logits)``."""

    def __init__(self) -> None:
        super().__init__(body=nn.Linear(2, 16), out=nn.Linear(16, 1), classes=nn.Linear(16, CLASSES))

    def forward(self, x):
        h = self.body(x).relu()
        return self.out(h), self.classes(h)


def logit(D, x, batch):
    return D(x, batch[1])


NUMBERS = ((N, 4), (N,))
ROWS = ((N, 4), (N, CLASSES))

ENTRIES = [
    Entry("class numbers", lambda: (EmbeddingG(), EmbeddingD(), numbered()), NUMBERS, first, logit, d_loss=hinge),
    Entry("optional labels", lambda: (OptionalG(), OptionalD(), numbered()), NUMBERS, first, logit),
    Entry(
        "labels by name",
        lambda: (EmbeddingG(), LateOptionalD(), numbered()),
        NUMBERS,
        first,
        lambda D, x, batch: D(x, y=batch[1]),
    ),
    Entry(
        "labels first", lambda: (LabelFirstG(), LabelFirstD(), numbered()), NUMBERS, first, lambda D, x, b: D(b[1], x)
    ),
    Entry(
        "one-hot from numbers",
        lambda: (RowsG(3), RowsD(3), numbered()),
        ROWS,
        first,
        lambda D, x, b: D(x, one_hot(b[1], 3)),
    ),
    Entry("one-hot from the loader", lambda: (RowsG(3), RowsD(3), rows()), ROWS, first, logit),
    Entry(
        "numbers from one-hot",
        lambda: (EmbeddingG(), EmbeddingD(), rows()),
        NUMBERS,
        first,
        lambda D, x, batch: D(x, batch[1].argmax(1)),
    ),
    Entry(
        "no classes, (N, 0)",
        lambda: (RowsG(0), RowsD(0), [x for x, _ in numbered()]),
        ((N, 4), (N, 0)),
        logit=lambda D, x, batch: D(x, x[:, :0]),
        shows=("none, as (N, 0)",),
    ),
    Entry(
        "no classes, empty labels in the batch",
        lambda: (RowsG(0), RowsD(0), [(x, torch.zeros(N, 0)) for x, _ in numbered()]),
        ((N, 4), (N, 0)),
        first,
        logit,
    ),
    Entry(
        "a vector as condition",
        lambda: (VectorConditionG(3), VectorConditionD(3), [(torch.randn(N, 2), torch.randn(N, 3)) for _ in range(2)]),
        ((N, 4), (N, 3)),
        first,
        logit,
        {
            "latent": lambda n, device, batch: (torch.randn(n, 4, device=device), batch[1]),
            "score": lambda D, x, z, batch: D(x, batch[1]),
        },
    ),
    Entry(
        "labels for G, a class head in D",
        lambda: (EmbeddingG(), ClassHeadD(), numbered()),
        NUMBERS,
        first,
        lambda D, x, batch: D(x)[0],
        shows=("the first of a tuple",),
    ),
    Entry("labels that nobody takes", lambda: (*plain(), numbered()), real=first),
]


def plain() -> tuple[nn.Module, nn.Module]:
    from zoo.vectors import vector_pair

    return vector_pair()
