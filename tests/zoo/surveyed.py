"""Conventions met in the survey of public codebases (``tests/upstream``) and not elsewhere in the zoo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gumbel_softmax, one_hot

from zoo.entry import Entry, Module, N, batches, first, least_squares, net, wasserstein
from zoo.images import image_d, image_g


class DrawsClassesG(Module):
    """Draws classes, which carry no gradient, unless it is told that it is trained."""

    def __init__(self) -> None:
        super().__init__(body=nn.Linear(4, 3))

    def forward(self, z, training=False):
        logits = self.body(z)
        return gumbel_softmax(logits) if training else one_hot(logits.argmax(1), 3).float()


class FeaturesAndScoreD(Module):
    """One ``(features, score)`` a scale."""

    def __init__(self) -> None:
        super().__init__(scales=nn.ModuleList(nn.Conv1d(1, 3, 5, 2) for _ in range(2)), end=nn.Conv1d(3, 1, 3))

    def forward(self, x):
        found = []
        for scale in self.scales:
            h = scale(x).relu()
            found.append(([h], self.end(h)))
            x = nn.functional.avg_pool1d(x, 2)
        return found


def last_of_each(D, x, batch):
    return sum(score.flatten(1).mean(1) for _, score in D(x))


class SignalG(Module):
    def __init__(self) -> None:
        super().__init__(z_dim=4, body=nn.Linear(4, 32))

    def forward(self, z):
        return self.body(z)[:, None]


class BothAtOnceD(Module):
    """Takes real and generated in one call, ``D(y, ŷ) -> ([f(y)], [f(ŷ)])``."""

    def __init__(self) -> None:
        super().__init__(body=nn.Conv1d(1, 1, 5))

    def forward(self, y, y_hat):
        return [self.body(y)], [self.body(y_hat)]


class TimeFirstG(Module):
    """(L, N, 2) from what was seen, (L, N, 2); noise drawn inside."""

    def __init__(self) -> None:
        super().__init__(rnn=nn.GRU(2, 6), out=nn.Linear(6, 2))

    def forward(self, seen):
        return self.out(self.rnn(seen + 0.1 * torch.randn_like(seen))[0])


class TimeFirstD(Module):
    def __init__(self) -> None:
        super().__init__(rnn=nn.GRU(2, 6), out=nn.Linear(6, 1))

    def forward(self, whole):
        return self.out(self.rnn(whole)[1][0])


class PyramidG(Module):
    """Images of every size, smallest first."""

    def __init__(self) -> None:
        super().__init__(latent_size=4, body=image_g())

    def forward(self, z):
        x = self.body(z)
        return [avg_pool2d(x, 2), x]


class PyramidD(Module):
    def __init__(self) -> None:
        super().__init__(large=image_d(), small=nn.Conv2d(3, 1, 4))

    def forward(self, images):
        return self.small(images[0]).flatten() + self.large(images[1]).flatten()


def pyramid(x):
    return [avg_pool2d(x, 2), x]


class TreeG(Module):
    """``G([root])``, nodes appended to the list it is given; made for one batch size."""

    def __init__(self) -> None:
        super().__init__(branch=nn.Linear(6, 4 * 6), out=nn.Linear(6, 3))

    def forward(self, tree):
        tree.append(self.branch(tree[0]).view(N, 4, 6).relu())
        return self.out(tree[-1])


class PointsD(Module):
    def __init__(self) -> None:
        super().__init__(body=nn.Linear(3, 8), out=nn.Linear(8, 1))

    def forward(self, points):
        return self.out(self.body(points).relu().amax(1))


class MoleculeG(Module):
    """Logits of edges and nodes; the loop takes their softmax."""

    def __init__(self) -> None:
        super().__init__(edges=nn.Linear(4, 5 * 5 * 2), nodes=nn.Linear(4, 5 * 3))

    def forward(self, z):
        return self.edges(z).view(-1, 5, 5, 2), self.nodes(z).view(-1, 5, 3)


class MoleculeD(Module):
    """``D(edges, None, nodes) -> (score, features)``."""

    def __init__(self) -> None:
        super().__init__(body=nn.Linear(2 + 3, 8), out=nn.Linear(8, 1))

    def forward(self, edges, hidden, nodes):
        h = self.body(torch.cat([edges.mean(1), nodes], -1)).relu().mean(1)
        return self.out(h), h


def graph(batch):
    return one_hot(batch[0], 2).float(), one_hot(batch[1], 3).float()


class NumbersG(Module):
    """``G(z, label)``, class numbers that it makes one-hot itself."""

    def __init__(self) -> None:
        super().__init__(z_dim=4, num_classes=3, body=nn.Linear(4 + 3, 2))

    def forward(self, z, label):
        return self.body(torch.cat([z, one_hot(label, self.num_classes).float()], 1))


class PickedClassD(Module):
    """``D(x, label)``, the score of that class."""

    def __init__(self) -> None:
        super().__init__(num_classes=3, body=nn.Linear(2, 3))

    def forward(self, x, label):
        return self.body(x)[torch.arange(len(x)), label]


class AttributesG(Module):
    """``G(image, attributes)``: the data are translated into the data."""

    def __init__(self) -> None:
        super().__init__(body=nn.Conv2d(3 + 2, 3, 3, padding=1))

    def forward(self, x, c):
        return self.body(torch.cat([x, c[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)).tanh()


@dataclass
class Labelled:
    """A batch that is a dataclass."""

    image: Tensor
    label: Tensor


CLASSES = torch.randint(0, 2, (N, 5, 5)), torch.randint(0, 3, (N, 5))
ATTRIBUTES = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).repeat(N // 2, 1)

ENTRIES = [
    Entry(
        "G that draws classes unless trained",
        lambda: (DrawsClassesG(), net(nn.Linear(3, 1)), [torch.rand(N, 3).softmax(1) for _ in range(2)]),
        adapter={"generate": lambda G, z: G(z, training=True)},
    ),
    Entry(
        "features and score of every scale",
        lambda: (SignalG(), FeaturesAndScoreD(), batches(1, 32)),
        logit=last_of_each,
        d_loss=least_squares,
        shows=("sum over 2 scales, the last of each",),
    ),
    Entry(
        "D of real and generated at once",
        lambda: (SignalG(), BothAtOnceD(), batches(1, 32)),
        logit=lambda D, x, batch: D(x, x)[0][0],
        adapter={"score": lambda D, x, z, batch: D(x, x)[0][0]},
    ),
    Entry(
        "time first",
        lambda: (TimeFirstG(), TimeFirstD(), [(torch.randn(6, N, 2), torch.randn(6, N, 2)) for _ in range(2)]),
        ((6, N, 2),),
        lambda batch: batch[1].transpose(0, 1),
        lambda D, x, batch: D(torch.cat([batch[0], x.transpose(0, 1)])),
        {
            "real": lambda batch: batch[1].transpose(0, 1),
            "latent": lambda n, device, batch: batch[0],
            "generate": lambda G, z: G(z).transpose(0, 1),
            "score": lambda D, x, z, batch: D(torch.cat([batch[0], x.transpose(0, 1)])),
        },
    ),
    Entry(
        "images of every size at once",
        lambda: (PyramidG(), PyramidD(), batches(3, 8, 8)),
        ((N, 4, 1, 1),),
        pyramid,
        adapter={"real": pyramid},
    ),
    Entry(
        "a list that G appends to",
        lambda: (TreeG(), PointsD(), batches(4, 3)),
        ((N, 1, 6),),
        d_loss=wasserstein,
        adapter={"latent": lambda n, device, batch: [torch.randn(n, 1, 6, device=device)]},
    ),
    Entry(
        "graphs of classes, a softmax in the loop",
        lambda: (MoleculeG(), MoleculeD(), [CLASSES, CLASSES]),
        real=graph,
        logit=lambda D, x, batch: D(x[0], None, x[1])[0],
        d_loss=wasserstein,
        adapter={
            "real": graph,
            "generate": lambda G, z: tuple(part.softmax(-1) for part in G(z)),
            "score": lambda D, x, z, batch: D(x[0], None, x[1])[0],
        },
    ),
    Entry(
        "class numbers made one-hot inside",
        lambda: (NumbersG(), PickedClassD(), [(torch.randn(N, 2), torch.arange(N) % 3) for _ in range(2)]),
        ((N, 4), (N,)),
        first,
        lambda D, x, batch: D(x, batch[1]),
    ),
    Entry(
        "images into images, by attributes",
        lambda: (AttributesG(), image_d(), [(x, ATTRIBUTES) for x in batches(3, 8, 8)]),
        ((N, 2), (N, 3, 8, 8)),
        first,
        adapter={"real": first, "latent": lambda n, device, batch: (batch[0], batch[1].flip(0))},
    ),
    Entry(
        "a batch that is a dataclass",
        lambda: (image_g(), image_d(), [Labelled(x, torch.zeros(N)) for x in batches(3, 8, 8)]),
        ((N, 4, 1, 1),),
        lambda batch: batch.image,
        adapter={"real": lambda batch: batch.image},
    ),
]
