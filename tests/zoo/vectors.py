"""Vectors, tables, point clouds, sets and graphs."""

from __future__ import annotations

import torch
from torch import nn

from zoo.entry import Apply, Entry, Module, N, batches, hinge, logistic, net, wasserstein


def vector_pair(features: int = 2, z: int = 4) -> tuple[nn.Module, nn.Module]:
    G = net(nn.Linear(z, 16), nn.ReLU(), nn.Linear(16, features))
    return G, net(nn.Linear(features, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


class PackedD(Module):
    """Two rows of a table are judged together: (N / 2, 1)."""

    def __init__(self, features: int) -> None:
        super().__init__(seq=net(nn.Linear(2 * features, 16), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(16, 1)))
        self.pac, self.pacdim = 2, 2 * features

    def forward(self, x):
        assert len(x) % self.pac == 0
        return self.seq(x.view(-1, self.pacdim))


class PointG(Module):
    """A cloud of 10 points from one vector."""

    def __init__(self) -> None:
        super().__init__(body=net(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 30)))

    def forward(self, z):
        return self.body(z).view(-1, 10, 3)


class PointD(Module):
    """PointNet: the same layers for each point, then a maximum."""

    def __init__(self) -> None:
        super().__init__(point=net(nn.Linear(3, 16), nn.ReLU()), out=nn.Linear(16, 1))

    def forward(self, x):
        return self.out(self.point(x).amax(1)).squeeze(1)


class SetG(Module):
    """A set from a set of latents, (N, L, d)."""

    def __init__(self) -> None:
        super().__init__(each=net(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)))
        self.z_dim = 4

    def forward(self, z):
        assert z.ndim == 3
        return self.each(z - z.mean(1, keepdim=True))


class GraphG(Module):
    """(adjacency, features) of graphs with 5 nodes."""

    def __init__(self) -> None:
        super().__init__(body=nn.Linear(4, 16), adjacency=nn.Linear(16, 25), features=nn.Linear(16, 10))

    def forward(self, z):
        h = self.body(z).relu()
        a = self.adjacency(h).view(-1, 5, 5)
        return torch.sigmoid(a + a.transpose(1, 2)), self.features(h).view(-1, 5, 2)


class GraphDictG(GraphG):
    def forward(self, z):
        adjacency, features = super().forward(z)
        return {"features": features, "adjacency": adjacency}


class GraphD(Module):
    """D((adjacency, features))."""

    def __init__(self) -> None:
        super().__init__(layer=nn.Linear(2, 8), out=nn.Linear(8, 1))

    def forward(self, graph):
        a, x = graph
        return self.out((a @ self.layer(x)).relu().sum(1))


class GraphTwoD(GraphD):
    """D(adjacency, features)."""

    def forward(self, adjacency, features):
        return super().forward((adjacency, features))


class GraphDictD(GraphD):
    def forward(self, graph):
        return super().forward((graph["adjacency"], graph["features"]))


def graphs(count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [((torch.rand(N, 5, 5) > 0.5).float(), torch.randn(N, 5, 2)) for _ in range(count)]


def graph_dicts() -> list[dict[str, torch.Tensor]]:
    return [{"adjacency": a, "features": x} for a, x in graphs()]


class ForkG(Module):
    """A nested sample: {"a": (N, 2), "b": [(N, 3)]}."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(4, 2), b=nn.Linear(4, 3))

    def forward(self, z):
        return {"a": self.a(z), "b": [self.b(z)]}


class ForkD(Module):
    def __init__(self) -> None:
        super().__init__(out=nn.Linear(5, 1))

    def forward(self, x):
        return self.out(torch.cat([x["a"], x["b"][0]], 1).tanh())


ENTRIES = [
    Entry("vectors", lambda: (*vector_pair(), batches(2)), d_loss=hinge),
    Entry("one number a sample", lambda: (*vector_pair(1), batches(1))),
    Entry("a latent as wide as the data", lambda: (*vector_pair(4), batches(4))),
    Entry(
        "uniform latents",
        lambda: (*vector_pair(), batches(2)),
        adapter={"latent": lambda n, device, batch: torch.rand(n, 4, device=device) * 2 - 1},
        shows=("given (latent)",),
    ),
    Entry("a table, packed D", lambda: (vector_pair(6)[0], PackedD(6), batches(6)), d_loss=wasserstein),
    Entry("point clouds", lambda: (PointG(), PointD(), batches(10, 3))),
    Entry("sets from sets", lambda: (SetG(), PointD(), batches(10, 3)), ((N, 10, 4),)),
    Entry("graphs, a tuple", lambda: (GraphG(), GraphD(), graphs())),
    Entry(
        "graphs, two arguments",
        lambda: (GraphG(), GraphTwoD(), graphs()),
        logit=lambda D, x, batch: D(*x),
        adapter={"score": lambda D, x, z, batch: D(*x)},
    ),
    Entry(
        "graphs, dicts in another order",
        lambda: (GraphDictG(), GraphDictD(), graph_dicts()),
        real=lambda batch: {"features": batch["features"], "adjacency": batch["adjacency"]},
    ),
    Entry(
        "a nest of dict and list",
        lambda: (ForkG(), ForkD(), [{"a": torch.randn(N, 2), "b": [torch.randn(N, 3)]} for _ in range(2)]),
        adapter={"real": lambda batch: batch},
    ),
    Entry(
        "reversed sign",
        lambda: (*vector_pair(), batches(2)),
        adapter={"d_loss": lambda real, fake: logistic(-real, -fake)},
        d_loss=lambda real, fake: logistic(-real, -fake),
        high=False,
        shows=("real is low", "told by d_loss"),
    ),
    Entry(
        "critic low on real, said by hand",
        lambda: (*vector_pair(), batches(2)),
        adapter={"real_is_high": False},
        d_loss=lambda real, fake: wasserstein(-real, -fake),
        high=False,
    ),
    Entry(
        "whole numbers, scaled in the loop",
        lambda: (
            net(nn.Linear(4, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4))),
            net(nn.Flatten(), nn.Linear(48, 1)),
            [(torch.randint(0, 256, (N, 3, 4, 4), dtype=torch.uint8), torch.zeros(N)) for _ in range(2)],
        ),
        real=lambda batch: batch[0].float() / 127.5 - 1,
        adapter={"real": lambda batch: batch[0].float() / 127.5 - 1},
    ),
    Entry(
        "flattened in the loop",
        lambda: (*vector_pair(16), [[torch.rand(N, 1, 4, 4), torch.randint(0, 10, (N,))] for _ in range(2)]),
        real=lambda batch: batch[0].flatten(1),
        adapter={"real": lambda batch: batch[0].flatten(1)},
    ),
    Entry(
        "labels joined to the noise",
        lambda: (
            vector_pair(2, z=7)[0],
            net(nn.Linear(5, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)),
            [(torch.randn(N, 2), torch.eye(3)[torch.arange(N) % 3]) for _ in range(2)],
        ),
        ((N, 7),),
        real=lambda batch: batch[0],
        logit=lambda D, x, batch: D(torch.cat([x, batch[1]], 1)),
        adapter={
            "latent": lambda n, device, batch: torch.cat([torch.randn(n, 4, device=device), batch[1]], 1),
            "score": lambda D, x, z, batch: D(torch.cat([x, batch[1]], 1)),
        },
    ),
    Entry(
        "several heads, one named",
        lambda: (vector_pair()[0], net(nn.Linear(2, 3), Apply(lambda h: (h[:, :1], h[:, 1:2]))), batches(2)),
        logit=lambda D, x, batch: D(x)[1],
        adapter={"score": lambda D, x, z, batch: D(x)[1]},
    ),
]
