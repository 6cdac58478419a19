"""D's outputs of every kind, and its final sigmoid."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import sigmoid

from zoo.entry import Apply, Entry, Module, batches, hinge, least_squares, net
from zoo.images import FlatG, image_d

X = (3, 8, 8)


def pair(D: nn.Module) -> tuple[nn.Module, nn.Module, list[torch.Tensor]]:
    return FlatG(), D, batches(*X)


def ends(*layers: object) -> nn.Sequential:
    """An image D with these layers at its end."""
    return net(*image_d(), *layers)


class SqueezeExciteD(Module):
    """Sigmoids inside, one of them last to be registered; logits come out."""

    def __init__(self, end: nn.Module | None = None) -> None:
        super().__init__(conv=nn.Conv2d(3, 5, 4, 2, 1), out=nn.Conv2d(5, 1, 4), end=end or nn.Identity())
        self.excite = net(nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 5, 1), nn.Sigmoid())

    def forward(self, x):
        h = self.conv(x).relu()
        return self.end(self.out(h * self.excite(h)).flatten(1))

    def logit(self, x):
        h = self.conv(x).relu()
        return self.out(h * self.excite(h)).flatten(1)


class FunctionalSigmoidD(SqueezeExciteD):
    def forward(self, x):
        return torch.sigmoid(self.logit(x)).view(-1)


class SharedSigmoidD(SqueezeExciteD):
    """One sigmoid module, called inside and at the end."""

    def forward(self, x):
        gate = self.excite[2]
        h = self.conv(x).relu()
        return gate(self.out(h * gate(h.mean([2, 3], keepdim=True))).flatten(1))

    def logit(self, x):
        h = self.conv(x).relu()
        return self.out(h * self.excite[2](h.mean([2, 3], keepdim=True))).flatten(1)


class ScalesD(Module):
    """One patch map per scale, features before it where asked for."""

    def __init__(self, features: bool) -> None:
        super().__init__(a=nn.Conv2d(3, 5, 4, 2, 1), b=nn.Conv2d(3, 5, 4, 2, 1), out=nn.Conv2d(5, 1, 1))
        self.features = features

    def forward(self, x):
        found = []
        for layer, image in ((self.a, x), (self.b, nn.functional.avg_pool2d(x, 2))):
            h = layer(image).relu()
            found.append([h, self.out(h)] if self.features else self.out(h))
        return found


class TwoSigmoidHeadsD(Module):
    """The score's sigmoid is not the last one to be run."""

    def __init__(self) -> None:
        super().__init__(body=image_d(end=4), out=nn.Linear(4, 1), classes=nn.Linear(4, 3))

    def forward(self, x):
        h = self.body(x).flatten(1)
        return sigmoid(self.out(h)).squeeze(1), sigmoid(self.classes(h))


class DictD(Module):
    def __init__(self) -> None:
        super().__init__(body=image_d(end=4), out=nn.Linear(4, 1), classes=nn.Linear(4, 3))

    def forward(self, x):
        h = self.body(x).flatten(1)
        return {"h": h, "cls_output": self.classes(h), "adv_output": self.out(h).flatten(), "label": None}


def scales(D, x, batch):
    return sum(part.flatten(1).mean(1) for part in D(x))


ENTRIES = [
    Entry("(N, 1, 1, 1)", lambda: pair(ends())),
    Entry("(N, 1)", lambda: pair(ends(nn.Flatten()))),
    Entry("(N,)", lambda: pair(ends(nn.Flatten(0)))),
    Entry(
        "patch map", lambda: pair(net(nn.Conv2d(3, 5, 4, 2, 1), nn.ReLU(), nn.Conv2d(5, 1, 1))), d_loss=least_squares
    ),
    Entry("patches as rows, (N·P, 1)", lambda: pair(net(nn.Conv2d(3, 1, 4, 2, 1), Apply(lambda f: f.reshape(-1, 1))))),
    Entry("batch mean, 0-dim", lambda: pair(ends(Apply(torch.mean)))),
    Entry("batch mean, (1,)", lambda: pair(ends(Apply(lambda f: f.mean().view(1))))),
    Entry(
        "sigmoid module, sigmoids inside",
        lambda: pair(SqueezeExciteD(nn.Sigmoid())),
        logit=lambda D, x, batch: D.logit(x),
        shows=("the logit before its final sigmoid",),
    ),
    Entry("sigmoids inside only", lambda: pair(SqueezeExciteD()), shows=("D(x)",)),
    Entry(
        "sigmoid as a function",
        lambda: pair(FunctionalSigmoidD()),
        logit=lambda D, x, batch: D.logit(x),
        shows=("the logit before its final sigmoid",),
    ),
    Entry("one sigmoid used twice", lambda: pair(SharedSigmoidD()), logit=lambda D, x, batch: D.logit(x)),
    Entry(
        "probability clamped",
        lambda: pair(ends(nn.Flatten(0), nn.Sigmoid(), Apply(lambda p: p.clamp(1e-6, 1 - 1e-6)))),
        logit=lambda D, x, batch: D[:-2](x),
    ),
    Entry(
        "probabilities averaged",
        lambda: pair(net(nn.Conv2d(3, 1, 4, 2, 1), nn.Sigmoid(), Apply(lambda p: p.mean([1, 2, 3])))),
        logit=lambda D, x, batch: D[0](x),
    ),
    Entry(
        "two sigmoid heads",
        lambda: pair(TwoSigmoidHeadsD()),
        logit=lambda D, x, batch: D.out(D.body(x).flatten(1)),
        shows=("the first of a tuple", "the logit before"),
    ),
    Entry(
        "tuple with a class head",
        lambda: pair(net(image_d(end=4), nn.Flatten(), Apply(lambda h: (h[:, :1], h[:, 1:])))),
        logit=lambda D, x, batch: D(x)[0],
    ),
    Entry(
        "tuple with an auxiliary loss",
        lambda: pair(ends(nn.Flatten(), Apply(lambda f: (f, f.new_zeros(1))))),
        logit=lambda D, x, batch: D(x)[0],
    ),
    Entry("list of scales", lambda: pair(ScalesD(False)), logit=scales, d_loss=hinge, shows=("2 scales",)),
    Entry(
        "list of lists",
        lambda: pair(ScalesD(True)),
        logit=lambda D, x, batch: sum(part[-1].flatten(1).mean(1) for part in D(x)),
        d_loss=hinge,
        shows=("the last of each",),
    ),
    Entry(
        "dict with adv_output",
        lambda: pair(DictD()),
        logit=lambda D, x, batch: D(x)["adv_output"],
        shows=("'adv_output'",),
    ),
]
