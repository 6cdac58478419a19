"""Odd inputs, each with what is said of it; and a line that is advised works when it is followed."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, inspect, warm_start

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo.entry import Apply, net

torch.set_num_threads(1)
N = 16


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(channels: int = 1, end: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    """A pair of 8×8 images; the latent is 16 wide."""
    torch.manual_seed(0)
    G = net(nn.ConvTranspose2d(16, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, channels, 4, 2, 1), end or nn.Tanh())
    return G, net(nn.Conv2d(channels, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 1, 4), nn.Flatten())


def points(width: int = 2, d_width: int | None = None) -> tuple[nn.Module, nn.Module]:
    """A pair of vectors; the latent is 8 wide."""
    torch.manual_seed(0)
    return net(nn.Linear(8, width)), net(nn.Linear(d_width or width, 16), nn.ReLU(), nn.Linear(16, 1))


def series() -> tuple[nn.Module, nn.Module]:
    """A pair of one-hot text: 12 steps, 20 letters."""
    return net(nn.Linear(8, 240), nn.Unflatten(1, (12, 20)), nn.Softmax(2)), net(nn.Flatten(), nn.Linear(240, 1))


def balanced(text: str) -> str:
    """The first ``Adapter(...)`` in the text."""
    start = text.index("Adapter(")
    depth = 0
    for place, letter in enumerate(text[start:], start):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return text[start : place + 1]
    raise AssertionError(text)


def said(G: nn.Module, D: nn.Module, loader: Any, given: Adapter | None = None) -> str:
    """The refusal, or the table with its warnings."""
    try:
        return str(inspect(G, D, loader, adapter=given))
    except CoopInitError as error:
        return f"refused: {error}"


@dataclass
class Odd:
    """One odd input.

    Attributes:
        name: What is odd.
        make: ``() -> (G, D, loader)``.
        words: What must be said.
        never: What must not.
        hooks: What the user gives.
        works: Whether the line that is advised works as it stands, and the line after it, if that one asks for more.
        found: Words that the table holds then.
    """

    name: str
    make: Callable[[], tuple[nn.Module, nn.Module, Any]]
    words: tuple[str, ...]
    never: tuple[str, ...] = ()
    hooks: dict[str, Any] = field(default_factory=dict)
    works: bool = False
    found: tuple[str, ...] = ()


def grey(dtype: torch.dtype, top: int, low: int = 0) -> Callable[[], Any]:
    return lambda: (*pixels(), [(draw(N, 1, 8, 8) * (top - low) + low).to(torch.int32).to(dtype)])


def with_range(low: float, high: float, end: nn.Module | None = None) -> Callable[[], Any]:
    return lambda: (*pixels(end=end), [draw(N, 1, 8, 8) * (high - low) + low])


class Record(SimpleNamespace):
    """A batch as an object of one's own."""


class Nested(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"image": np.zeros((3, 64, 64)).tolist(), "label": 1}


class Stream(IterableDataset):
    def __iter__(self):
        yield from draw(N, 2)


class HubDataset:
    """As the package datasets has it."""

    column_names = ("image",)

    def with_format(self, kind):
        return self

    def __iter__(self):
        yield {"image": [0.0]}


DATA = [
    Odd("uint8", grey(torch.uint8, 255), ("whole numbers", "/ 127.5 - 1"), works=True),
    Odd("a D in another precision than G", lambda: (points()[0], points()[1].double(), [draw(N, 2).double()]), ("D takes the data, but not G's sample (16, 2) float32",)),
    Odd("uint8 that is nearly black", grey(torch.uint8, 3), ("/ 127.5 - 1",)),
    Odd("int64 up to 255", grey(torch.int64, 255), ("/ 127.5 - 1",), works=True),
    Odd("int16", grey(torch.int16, 30000), ("range", "/ 32767.5 - 1"), ("127.5",)),
    Odd("int32", grey(torch.int32, 65535), ("range", "/ 32767.5 - 1"), ("127.5",), works=True),
    Odd("uint16", grey(torch.uint16, 65535), ("range", "/ 32767.5 - 1"), ("127.5",), works=True),
    Odd("twelve bits", grey(torch.int16, 4095), ("range", "/ 2047.5 - 1"), ("127.5",), works=True),
    Odd("Hounsfield units in whole numbers", grey(torch.int16, 3000, -1000), ("range [-999, 2999]",), ("127.5",), works=True),
    Odd("black and white", lambda: (*pixels(), [draw(N, 1, 8, 8) > 0.5]), (".float() * 2 - 1",), ("127.5",), works=True),
    Odd("whole numbers in a dict", lambda: (*pixels(), [{"image": (draw(N, 1, 8, 8) * 255).byte()}]), ("batch['image'].float()",), works=True),
    Odd("14-bit grey as float", with_range(0, 16383), ("never reach", "/ 8191.5 - 1"), ("127.5",), works=True),
    Odd("angles", with_range(0, 6.283), ("never reach", "the first batch's range"), ("127.5",), works=True),
    Odd("[0, 2]", with_range(0, 2), ("never reach", "the first batch's range"), ("127.5",), works=True),
    Odd("per cent", with_range(0, 100), ("never reach", "the first batch's range"), ("127.5",), works=True),
    Odd("decibel", with_range(-80, 0), ("never reach", "the first batch's range"), ("127.5",), works=True),
    Odd("16-bit grey as float", with_range(0, 65535), ("never reach", "/ 32767.5 - 1"), ("127.5",), works=True),
    Odd("8-bit grey as float", with_range(0, 255), ("never reach", "/ 127.5 - 1"), works=True),
    Odd("mean and deviation of ImageNet", with_range(-2.1, 2.6), ("range", "never reach"), ("127.5",), works=True),
    Odd("Hounsfield units", with_range(-1000, 3000), ("range", "never reach"), ("127.5",), works=True),
    Odd("[0, 1] for a tanh", with_range(0, 1), ("your data [7.97e-05, 1] only", "batch * 2 - 1"), works=True),
    Odd("[-1, 1] for a sigmoid", with_range(-1, 1, nn.Sigmoid()), ("never reach", "(batch + 1) / 2"), works=True),
    Odd("[0, 255] for a sigmoid", with_range(0, 255, nn.Sigmoid()), ("batch / 255",), ("127.5",), works=True),
    Odd("mean and deviation for a sigmoid", with_range(-2, 3, nn.Sigmoid()), ("range",), ("127.5", "* 2 - 1"), works=True),
    Odd(
        "a tanh before an Unflatten",
        lambda: (net(nn.Linear(8, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8))), net(nn.Flatten(), nn.Linear(64, 1)), [draw(N, 1, 8, 8)]),
        ("[-1, 1] (tanh)", "batch * 2 - 1"), works=True,
    ),
    Odd(
        "a tanh that is a function",
        lambda: (net(nn.Linear(8, 2), torch.tanh, lambda x: x.reshape(-1, 2)), points()[1], [draw(N, 2)]),
        ("[-1, 1] (tanh)", "batch * 2 - 1"), works=True,
    ),
    Odd("complex images", lambda: (*pixels(2), [torch.complex(draw(N, 1, 8, 8) * 2 - 1, draw(N, 1, 8, 8))]), ("complex", "view_as_real"), ("whole numbers", "labels"), works=True),
    Odd("complex vectors", lambda: (*points(4), [torch.randn(N, 2, dtype=torch.cfloat)]), ("complex", "view_as_real"), ("whole numbers", "labels"), works=True),
    Odd("float64", lambda: (*points(), [draw(N, 2).double()]), ("weights are float32", "batch.to(torch.float32)"), works=True),
    Odd("float64 in a tuple", lambda: (*pixels(), [(draw(N, 1, 8, 8).double(), torch.zeros(N))]), ("batch[0].to(torch.float32)",), works=True),
    Odd("float32 for networks in float64", lambda: (points()[0].double(), points()[1].double(), [draw(N, 2)]), ("weights are float64", "batch.to(torch.float64)"), works=True),
    Odd("float64 by the user's own hook", lambda: (*points(), [draw(N, 2)]), ("weights are float32", "(...).to(torch.float32)"), hooks={"real": lambda batch: batch.double()}),
    Odd("numpy", lambda: (*points(), [np.asarray(draw(N, 2))]), ("ndarray", "torch.as_tensor(batch)"), ('"image"',), works=True),
    Odd("numpy in a tuple", lambda: (*points(), [(np.asarray(draw(N, 2)), [1] * N)]), ("torch.as_tensor(batch[0])",), works=True),
    Odd("numpy in a dict", lambda: (*points(), [{"x": np.asarray(draw(N, 2))}]), ("torch.as_tensor(batch['x'])",), works=True),
    Odd("an object with attributes", lambda: (*points(), [Record(image=draw(N, 2))]), ("batch.image",), works=True),
    Odd("token ids", lambda: (*series(), [(draw(N, 12) * 20).long()]), ("one_hot(batch.long(), 20)",), ("batch[0]", "these look like labels"), works=True),
    Odd("token ids in int32, in a dict", lambda: (*series(), [{"ids": (draw(N, 12) * 20).int()}]), ("one_hot(batch['ids'].long(), 20)",), ("batch[0]",), works=True),
    Odd("labels alone", lambda: (*points(), [torch.arange(N)]), ("these look like labels",), ("batch[0]",)),
    Odd("one-hot labels alone", lambda: (*points(), [one_hot(torch.arange(N) % 3)]), ("these look like labels",), ("batch[0]",)),
    Odd("a list of images", lambda: (*pixels(), [[*draw(N, 1, 8, 8)]]), ("torch.stack(batch)",), ("reshape",), works=True, found=("(16, 1, 8, 8)",)),
    Odd("a list of colour images", lambda: (*pixels(3), [[*draw(N, 3, 8, 8)]]), ("torch.stack(batch)",), ("reshape",), works=True, found=("(16, 3, 8, 8)",)),
    Odd("a tuple of images", lambda: (*pixels(), [tuple(draw(N, 1, 8, 8))]), ("torch.stack(batch)",), ("reshape",), works=True, found=("(16, 1, 8, 8)",)),
    Odd("a list of images beside labels", lambda: (*pixels(), [([*draw(N, 1, 8, 8)], torch.arange(N))]), ("torch.stack(batch[0])",), ("reshape",), works=True, found=("(16, 1, 8, 8)",)),
    Odd("a list of images in a dict", lambda: (*pixels(), [{"image": [*draw(N, 1, 8, 8)]}]), ("torch.stack(batch['image'])",), ("reshape",), works=True, found=("(16, 1, 8, 8)",)),
    Odd("images of several sizes", lambda: (*pixels(), [[draw(1, 8 + i % 3, 8) for i in range(N)]]), ("Resize", "collate_fn"), ("reshape", "torch.stack")),
    Odd("a list of vectors", lambda: (*points(), [[*draw(N, 2)]]), ("torch.stack(batch)",), ("these look like labels",), works=True, found=("(16, 2)",)),
    Odd("one number a sample", lambda: (*points(1), [draw(N)]), ("batch.unsqueeze(1)",), ("labels",), works=True),
    Odd("nested Python lists", lambda: (*pixels(3), DataLoader(Nested(), batch_size=4)), ('with_format("torch")', "tensors in all"), ("batch[0]",)),
    Odd("a dict of a hundred strings", lambda: (*points(), [{f"key {i}": "text" for i in range(100)}]), ("no tensor was found",)),
    Odd("NHWC", lambda: (*pixels(3), [draw(N, 8, 8, 3)]), ("(16, 8, 8, 3)", "reorder the data"), ("reshape",)),
    Odd("images of another size", lambda: (*pixels(), [draw(N, 1, 16, 16)]), ("(16, 1, 16, 16)", "(16, 1, 8, 8)", "Resize"), ("torch.stack",)),
    Odd("images of another number of channels", lambda: (*pixels(3), [draw(N, 1, 8, 8)]), ("(16, 1, 8, 8)", "(16, 3, 8, 8)"), ("torch.stack",)),
    Odd("a constant first batch alone", lambda: (*points(), [torch.full((N, 2), 0.5)] * 2), ("constant", "first 32 samples is 0.5")),
]  # fmt: skip

LOADERS = [
    Odd("a Dataset of vectors", lambda: (*points(), TensorDataset(draw(N, 2))), ("TensorDataset", "DataLoader(dataset,"), ("labels",)),
    Odd("a Dataset of images", lambda: (*pixels(), TensorDataset(draw(N, 1, 8, 8))), ("DataLoader(dataset,",), ("reshape",)),
    Odd("a Subset", lambda: (*points(), Subset(TensorDataset(draw(N, 2)), [0, 1])), ("Subset", "DataLoader(dataset,")),
    Odd("a Dataset of one's own", lambda: (*pixels(3), Nested()), ("Nested", "DataLoader(dataset,")),
    Odd("a Hub dataset", lambda: (*pixels(3), HubDataset()), ('dataset.with_format("torch")',)),
    Odd("a tensor", lambda: (*pixels(), draw(N, 1, 8, 8)), ("Tensor", "DataLoader(dataset,"), ("reshape",)),
    Odd("a numpy array", lambda: (*points(), np.asarray(draw(N, 2))), ("ndarray", "DataLoader(dataset,")),
    Odd("a dict", lambda: (*points(), {"train": draw(N, 2)}), ("a dict", "DataLoader(dataset,")),
    Odd("a path", lambda: (*points(), "data/train"), ("a str", "DataLoader(dataset,")),
    Odd("single images in a list", lambda: (*pixels(), [*draw(N, 1, 8, 8)]), ("Single samples?", "DataLoader(dataset"), ("batch.reshape",)),
    Odd("single vectors in a list", lambda: (*points(), [*draw(N, 2)]), ("Expected floating-point numbers (N, ...)",), ("labels",)),
    Odd("an IterableDataset of single samples", lambda: (*points(), Stream()), ("Expected floating-point numbers (N, ...)",), ("labels",)),
]  # fmt: skip


class AllOptional(nn.Module):
    """Takes noise or ready-made styles."""

    def __init__(self):
        super().__init__()
        self.mapping, self.synthesis = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, styles=None, noise=None):
        return self.synthesis(styles if styles is not None else self.mapping(noise))


class KeywordOnly(AllOptional):
    def forward(self, *, latents=None):
        return super().forward(noise=latents)


class Unnamed(AllOptional):
    """Nothing tells which of its arguments takes the noise."""

    def forward(self, a=None, b=None):
        return super().forward(a, b)


class Idle(nn.Linear):
    """Has a layer that it does not use."""

    def __init__(self):
        super().__init__(8, 2)
        self.spare = nn.Linear(3, 3)


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(32, 2)

    def forward(self, z, alpha, step):
        return self.net(z) * alpha


class Codes(nn.Module):
    """As InfoGAN's: noise, one-hot classes and a code side by side."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8 + 3 + 2, 2)

    def forward(self, noise, labels, code):
        return self.net(torch.cat([noise, labels, code], 1))


class Translate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.style = nn.Conv2d(3, 3, 3, 1, 1), nn.Linear(8, 3)

    def forward(self, x, s):
        return torch.tanh(self.conv(x) + self.style(s)[:, :, None, None])


class WantsOneHot(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.embed, self.net = nn.Linear(3, 8), nn.Linear(10 + 8, width)

    def forward(self, z, labels):
        return self.net(torch.cat([z, self.embed(labels)], 1))


class OptionalLabels(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)

    def forward(self, z, labels=None):
        return self.net(z) if labels is None else self.net(z) * labels[:, None]


class Slots(nn.Module):
    """Latents (N, k, d)."""

    z_dim, k = 4, 3

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(12, 2)

    def forward(self, z):
        assert z.shape[1:] == (3, 4)
        return self.net(z.flatten(1))


def labelled() -> list[Any]:
    return [(draw(N, 2), torch.arange(N) % 3)]


def pairs() -> list[Any]:
    return [{"A": draw(N, 3, 8, 8) * 2 - 1, "B": draw(N, 3, 8, 8, seed=1) * 2 - 1}]


HOT = {"score": lambda D, x, z, batch: D(torch.cat([x, one_hot(batch[1], 3).float()], 1))}
JOINED = ("torch.cat([torch.randn(n, 10, device=device), torch.nn.functional.one_hot(batch[1], 3).float()], 1)",)

GENERATORS = [
    Odd("styles=None, noise=None", lambda: (AllOptional(), points()[1], [draw(N, 2)]), ("as argument 'noise'",), ("refused", "no gradient")),
    Odd("keywords only", lambda: (KeywordOnly(), points()[1], [draw(N, 2)]), ("as argument 'latents'",), ("refused", "no gradient")),
    Odd("optional arguments without telling names", lambda: (Unnamed(), points()[1], [draw(N, 2)]), ("2 of G's 4 parameters get no gradient", "mapping.weight", "generate=lambda G, z: G(z, ...)")),
    Odd("a layer that is not used", lambda: (Idle(), points()[1], [draw(N, 2)]), ("2 of G's 4 parameters get no gradient (spare.weight, spare.bias)",)),
    Odd("labels joined to the noise, D's given", lambda: (net(nn.Linear(13, 2)), points(d_width=5)[1], labelled()), ("joined to its noise", *JOINED), hooks=HOT, works=True, found=("(16, 13)",)),
    Odd("labels joined to the noise of a convolution, D's given", lambda: (net(nn.ConvTranspose2d(13, 2, 1), nn.Flatten()), points(d_width=5)[1], labelled()), (JOINED[0] + "[:, :, None, None]",), hooks=HOT, works=True, found=("(16, 13, 1, 1)",)),
    Odd("one-hot rows joined to the noise, D's given", lambda: (net(nn.Linear(13, 2)), points(d_width=5)[1], [(draw(N, 2), one_hot(torch.arange(N) % 3))]), ("torch.cat([torch.randn(n, 10, device=device), batch[1].float()], 1)",), hooks={"score": lambda D, x, z, batch: D(torch.cat([x, batch[1]], 1))}, works=True),
    Odd("an argument for labels that D is given", lambda: (OptionalLabels(), points(d_width=5)[1], labelled()), ("as its argument 'labels'?", "G(z[0], labels=z[1])"), hooks=HOT, works=True),
    Odd("a score that does not look at the batch", lambda: (net(nn.Linear(13, 2)), points()[1], labelled()), ("(16, 13)",), ("refused",), hooks={"score": lambda D, x, z, batch: D(x)}),
    Odd("class numbers for layers that take rows", lambda: (WantsOneHot(), points(d_width=5)[1], labelled()), ("(16, 10)", "one_hot(batch[1], 3)"), ("refused",), hooks=HOT),
    Odd("alpha and step", lambda: (Steps(), points()[1], [draw(N, 2)]), ("torch.randn(n, 32, device", "G(z, alpha=..., step=...)"), ("randn(n, 100", "(torch.randn")),
    Odd("noise, labels and code", lambda: (Codes(), points()[1], labelled()), ("noise, labels, code", "one_hot(batch[1]", "code=..."), ("randn(n, 100",)),
    Odd("an image and a style", lambda: (Translate(), pixels(3)[1], pairs()), ("(batch['A'], torch.randn(n, 8, device=device))",), ("randn(n, 100",), hooks={"real": lambda batch: batch["B"]}, works=True),
    Odd("several latents", lambda: (Slots(), points()[1], [draw(N, 2)]), ("(16, 3, 4)", "G.z_dim = 4"), ("refused",)),
    Odd("a size that is too small", lambda: (type("Named", (nn.Sequential,), {"nz": 10})(nn.Linear(13, 2)), points()[1], labelled()), ("Its nz is 10", *JOINED), works=True),
    Odd("a condition without labels", lambda: (WantsOneHot(), points()[1], [draw(N, 2)]), ("takes a condition ('labels'), but no labels", "..."), ("batch[1]",)),
]  # fmt: skip


class FeaturesFirst(nn.Module):
    """Gives its features beside the score."""

    def __init__(self, form: Callable[[Any, Any], Any]):
        super().__init__()
        self.body, self.head, self.form = nn.Linear(2, 16), nn.Linear(16, 1), form

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.form(h, self.head(h))


class WithString(nn.Module):
    """As FastGAN's D: asks for a word."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)

    def forward(self, x, label):
        return self.net(x) if label in ("real", "fake") else None


class Typed(WithString):
    def forward(self, x, label: str):
        return super().forward(x, label)


class RowsD(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.net = nn.Linear(3, 4), nn.Linear(6, 1)

    def forward(self, x, labels):
        return self.net(torch.cat([x, self.embed(labels)], 1))


def judged(form: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    return lambda: (points()[0], FeaturesFirst(form), [draw(N, 2)])


def wide_d(channels: int, loader: list[Any]) -> Callable[[], Any]:
    return lambda: (pixels()[0], pixels(channels)[1], loader)


MAPS = [{"image": draw(N, 1, 8, 8) * 2 - 1, "edges": (draw(N, 2, 8, 8) > 0.5).float()}]

DISCRIMINATORS = [
    Odd("[features, score]", judged(lambda h, f: [h, f]), ("D(x)[1]",), ("D(x)[0].flatten",), works=True),
    Odd("(features, score)", judged(lambda h, f: (h, f)), ("D(x)[1]",), ("D(x)[0].flatten",), works=True),
    Odd("[score, features]", judged(lambda h, f: [f, h]), ("batch: D(x)[0])",), works=True),
    Odd("[score, features, features]", judged(lambda h, f: [f, h, h * 2]), ("D(x)[0]",), works=True),
    Odd("[[features], score]", judged(lambda h, f: [[h, h], f]), ("D(x)[1]",), works=True),
    Odd("a dict of features and a score", judged(lambda h, f: {"h": h, "out": f}), ("D(x)['out']",), works=True),
    Odd("a dataclass of features and a score", judged(lambda h, f: SimpleNamespace(logits=f, features=h)), ("gave SimpleNamespace", "D(x).logits)"), works=True),
    Odd("(scales, N)", judged(lambda h, f: torch.stack([f[:, 0], 2 * f[:, 0], f[:, 0]])), ("not the 16 samples first", "D(x).sum(0)"), ("flatten(1)",), works=True),
    Odd("(scales, N, 1)", judged(lambda h, f: torch.stack([f, 2 * f])), ("not the 16 samples first", "D(x).movedim(1, 0).flatten(1).mean(1)"), works=True),
    Odd("(steps, N, 1)", judged(lambda h, f: torch.stack([f] * 5)), ("(5, 16, 1)", "movedim(1, 0)"), works=True),
    Odd("classes", judged(lambda h, f: h), ("several numbers per sample",), ("movedim",), works=True),
    Odd("class numbers for layers that take rows", lambda: (WantsOneHot(), RowsD(), labelled()), ("D's condition", "one_hot(batch[1], 3)"), ("refused",)),
    Odd("a word, no labels", lambda: (points()[0], WithString(), [draw(N, 2)]), ("takes a condition ('label'), but no labels", "D(x, label=...)"), ("batch[1]",)),
    Odd("a word that is typed", lambda: (points()[0], Typed(), labelled()), ("needs x, label", "D(x, label=...)"), ("batch[1]",)),
    Odd("one-hot rows joined, from class numbers", lambda: (*points(d_width=5), labelled()), ("takes 5 numbers", "one_hot(batch[1], 3)"), hooks={"latent": lambda n, device, batch: torch.randn(n, 8)}, works=True),
    Odd("one-hot rows joined, from rows", lambda: (*points(d_width=5), [(draw(N, 2), one_hot(torch.arange(N) % 3))]), ("torch.cat([x, batch[1].float()], 1)",), hooks={"latent": lambda n, device, batch: torch.randn(n, 8)}, works=True),
    Odd("labels of shape (N, 1) joined", lambda: (*points(d_width=5), [(draw(N, 2), torch.arange(N)[:, None] % 3)]), ("one_hot(batch[1].flatten(), 3)",), hooks={"latent": lambda n, device, batch: torch.randn(n, 8)}, works=True),
    Odd("one-hot rows joined to images, flattened outside", lambda: (pixels()[0], net(nn.Linear(67, 1)), [(draw(N, 1, 8, 8), torch.arange(N) % 3)]), ("torch.cat([x.flatten(1), torch",), hooks={"latent": lambda n, device, batch: torch.randn(n, 16, 1, 1)}, works=True),
    Odd("a map joined to the image", wide_d(3, MAPS), ("takes 3 channels", "torch.cat([batch['edges'], x], 1)"), ("batch['A']",), works=True),
    Odd("flattened outside", lambda: (pixels()[0], net(nn.Linear(64, 1)), [draw(N, 1, 8, 8)]), ("D(x.flatten(1))",), works=True),
    Odd("two samples at once", lambda: (*points(d_width=4), [draw(N, 2)]), ("several samples in one", "D(...)")),
    Odd("too narrow", lambda: (*points(4, d_width=3), [draw(N, 4)]), ("takes 3 numbers", "score=")),
]  # fmt: skip

ROWS = [*DATA, *LOADERS, *GENERATORS, *DISCRIMINATORS]


def assert_known_names(text: str) -> None:
    """What a line names is an argument of its hook, torch, or the user's to fill in; never the hook itself."""
    code = compile(balanced(text[text.index("adapter=") :]), "line", "eval")
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= {name for name in constant.co_names if re.search(rf"(?<![.\w]){name}\b", text)}
    known = {"torch", "n", "device", "batch", "G", "z", "D", "x", "Adapter", "image"}
    assert {name for name in names if not hasattr(torch, name) and not hasattr(torch.Tensor, name)} <= known, text


@pytest.mark.parametrize("odd", ROWS, ids=[odd.name for odd in ROWS])
def test_what_is_said(odd, recwarn):
    G, D, loader = odd.make()
    text = said(G, D, loader, Adapter(**odd.hooks) if odd.hooks else None)
    assert len(text) < 2500
    for words in odd.words:
        assert words in text, text
    for words in odd.never:
        assert words not in text, text
    assert not [str(warning.message) for warning in recwarn if "scalar" in str(warning.message)]
    if "adapter=coopinit_plugin." in text:
        assert_known_names(text)
    if odd.works:
        line = balanced(text[text.index("adapter=") :] if text.startswith("refused") else text)
        followed = eval(line, {"torch": torch, "Adapter": Adapter})
        given = {name: getattr(followed, name) for name in ("real", "latent", "generate", "score")}
        hooks = {**odd.hooks, **{name: hook for name, hook in given.items() if hook is not None}}
        table = said(G, D, loader, Adapter(**hooks, real_is_high=followed.real_is_high))
        assert not table.startswith("refused"), f"{line}: {table}"
        assert "never reach" not in table
        for words in odd.found:
            assert words in table


SUMS = {
    "a sum of convolutions": lambda a, b: (a.flatten(1) + b.flatten(1)).mean(1),
    "a mean of two": lambda a, b: (a.flatten(1).mean(1) + b.flatten(1).mean(1)) / 2,
    "joined": lambda a, b: torch.cat([a.flatten(1), b.flatten(1)], 1).mean(1),
}


@pytest.mark.parametrize("form", SUMS.values(), ids=SUMS)
def test_scores_in_the_unit_interval_by_chance_are_no_probabilities(form):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 1, 8), nn.Conv2d(1, 1, 8)
            for layer in (self.a, self.b):
                nn.init.constant_(layer.weight, 0.001)
                nn.init.constant_(layer.bias, 0.2)

        def forward(self, x):
            return form(self.a(x), self.b(x))

    D, x = Twice(), draw(N, 1, 8, 8)
    assert 0 < float(D(x).min()) < float(D(x).max()) < 1
    assert "All of D's scores lie in [0, 1]" not in said(pixels()[0], D, [x])


BOUNDED = {
    "(tanh + 1) / 2": lambda h: (h.tanh() + 1) / 2,
    "softmax": lambda h: torch.cat([h, 0 * h], 1).softmax(1)[:, :1],
    "clamp": lambda h: (h + 0.5).clamp(0.01, 0.99),
    "1 / (1 + exp)": lambda h: 1 / (1 + torch.exp(-h)),
    "atan": lambda h: 0.5 + h.atan() / 3.2,
    "a mean of sigmoids": lambda h: (h.sigmoid() + (2 * h).sigmoid()) / 2,
}


@pytest.mark.parametrize("form", BOUNDED.values(), ids=BOUNDED)
def test_a_probability_of_unknown_make_is_warned_of(form):
    torch.manual_seed(0)
    text = said(points()[0], net(nn.Linear(2, 1), Apply(form)), [draw(N, 2)])
    assert "All of D's scores lie in [0, 1]" in text
    assert "torch.logit(D(x), 1e-6)" in text


MEANT = {
    "logistic": [
        "bce", "BCE", "BCELoss", "BCEWithLogitsLoss", "bce_with_logits", "ns", "NSGAN", "non-saturating",
        "non saturating", "nonsaturating", "vanilla", "softplus", "minimax", "cross entropy", "logistic loss", "dragan",
    ],
    "hinge": ["Hinge", "hinge loss", "hinge-loss", "HingeGAN"],
    "least_squares": ["mse", "MSE", "MSELoss", "lsgan", "LS-GAN", "l2", "least-squares", "least squares", "leastsquares"],
    "wasserstein": ["wgan", "WGAN-GP", "wgan_gp", "wgangp", "W", "wasserstein-gp", "WassersteinLoss"],
    "relativistic": ["rgan", "RaGAN", "rpgan", "r3gan", "relativistic GAN"],
}  # fmt: skip
SLIPS = {
    "logstic": "logistic", "nonsaturatin": "logistic", "bcee": "logistic", "hing": "hinge", "hinged": "hinge",
    "least_sqares": "least_squares", "lsgn": "least_squares", "wassersten": "wasserstein", "wgan-pg": "wasserstein",
    "wgn": "wasserstein", "relativstic": "relativistic",
}  # fmt: skip


@pytest.mark.parametrize(("typed", "meant"), [(word, meant) for meant, words in MEANT.items() for word in words])
def test_words_for_a_loss_are_understood(typed, meant):
    assert WarmStartConfig(handover=typed).handover == meant


@pytest.mark.parametrize(("typed", "meant"), SLIPS.items())
def test_slips_in_the_word_get_a_suggestion(typed, meant):
    with pytest.raises(CoopInitError) as caught:
        WarmStartConfig(handover=typed)
    assert f"did you mean {meant!r}?" in str(caught.value)
    assert f"handover={typed!r} was given" in str(caught.value)


@pytest.mark.parametrize("typed", ["adversarial", "zzz", "?", "my own"])
def test_a_word_that_is_like_none_gets_the_list(typed):
    with pytest.raises(CoopInitError, match=r"must be one of 'auto', 'none', 'logistic', 'hinge'") as caught:
        WarmStartConfig(handover=typed)
    assert "did you mean" not in str(caught.value)


def sorted_by_light(background: bool = False) -> torch.Tensor:
    """Images, the darkest first; with a constant background if asked for."""
    images = torch.cat([draw(32, 1, 8, 8) * 0.02 - 1, draw(256, 1, 8, 8, seed=1) * 1.2 - 0.4])
    if background:
        images[:, :, 4:] = -1
    return images


@pytest.mark.parametrize("size", [1, 4, 16, 32])
def test_sigma_does_not_hang_on_the_first_batch(size):
    data = sorted_by_light()
    loader = DataLoader(TensorDataset(data), batch_size=size)
    config = WarmStartConfig(iterations=1, handover="logistic")
    seen = []
    from coopinit_plugin import loop

    spread = loop.spread
    loop.spread = lambda *given: seen.append(spread(*given)) or seen[-1]
    try:
        warm_start(*pixels(), loader, config=config, progress=False)
    finally:
        loop.spread = spread
    assert seen[0][0] == pytest.approx(float(data.std()), rel=0.05)


def test_a_black_first_batch_is_not_taken_for_constant_data(caplog):
    data = sorted_by_light()
    data[:32] = -1
    loader = DataLoader(TensorDataset(data), batch_size=16)
    with caplog.at_level(logging.WARNING):
        result = warm_start(
            *pixels(), loader, config=WarmStartConfig(iterations=2, handover="logistic"), progress=False
        )
    assert result.summary["iterations"] == 2
    assert inspect(*pixels(), loader).findings
