"""What the survey says of each public codebase, and how its modules are reached without being edited."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from coopinit_plugin import Adapter

N = 8  # samples in a batch, unless a network wants another number


@dataclass(frozen=True)
class Upstream:
    """One pair of networks of a public codebase, and the truth read in its own training loop.

    Attributes:
        repo: ``owner/name``.
        commit: What was read and run.
        licence: As its own file says; empty where none was seen.
        name: Which pair.
        make: ``(folder) -> (G, D, loader)``, the networks as its own code builds them, batches as its loop sees them.
        latent: ``(n, batch) -> z`` of its loop.
        generate: ``(G, z, batch) -> x̂`` of its loop.
        real: ``(batch) -> x``, as given to D.
        logit: ``(D, x, batch) -> f`` before any sigmoid.
        d_loss: Its loss of D on logits.
        high: Whether D is high on real.
        adapter: The hooks that a user adds, one line each.
        extra: Lines of a wrapper module that a user writes.
    """

    repo: str
    commit: str
    licence: str
    name: str
    make: Callable[[Path], tuple[nn.Module, nn.Module, Any]]
    latent: Callable[[int, Any], Any]
    generate: Callable[[nn.Module, Any, Any], Any] = lambda G, z, batch: G(z)
    real: Callable[[Any], Any] = lambda batch: batch[0]
    logit: Callable[[nn.Module, Any, Any], Tensor] = lambda D, x, batch: D(x)
    d_loss: Callable[[Tensor, Tensor], Tensor] = lambda real, fake: (
        nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
    )
    high: bool = True
    adapter: dict[str, Any] = field(default_factory=dict)
    extra: int = 0

    @property
    def lines(self) -> int:
        """Lines that a user adds beside ``warm_start``."""
        return len(self.adapter) + self.extra

    @property
    def given(self) -> Adapter:
        """Its adapter: a preset, or the hooks."""
        return self.adapter["preset"] if "preset" in self.adapter else Adapter(**self.adapter)


@contextmanager
def importing(folder: Path, stubs: tuple[str, ...] = ()) -> Iterator[None]:
    """Import from a checkout and forget its modules again, so that two may have a ``models.py`` each.

    Args:
        folder: Where its own scripts would be started.
        stubs: Modules that the networks do not need (logging, data sets), replaced by empty ones.
    """
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules.update({name: MagicMock(__spec__=ModuleSpec(name, None), __version__="0") for name in stubs})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - set(before):
            place = getattr(sys.modules[name], "__file__", None) or ""
            if (
                name in stubs
                or str(folder) in str(place)
                or str(folder) in str(getattr(sys.modules[name], "__path__", ""))
            ):
                del sys.modules[name]


def module(folder: Path, name: str, stubs: tuple[str, ...] = ()) -> ModuleType:
    """One module of a checkout."""
    with importing(folder, stubs):
        return importlib.import_module(name)


def definitions(path: Path, **given: Any) -> dict[str, Any]:
    """The classes, functions and constants of a script that trains as soon as it is imported.

    Args:
        path: The script.
        **given: Names that it sets itself before them, such as ``opt``.
    """
    scope: dict[str, Any] = {"__name__": path.stem, "torch": torch, "nn": nn, **given}
    for chunk in re.split(
        r"\n(?<!\n@)(?=[^\s#)\]}])", "\n" + path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    ):
        if re.match(r"(class|def|import|from) |@|[A-Z_]+ = ", chunk) and chunk.split(" =")[0] not in given:
            try:
                exec(compile(chunk, str(path), "exec"), scope)
            except (ImportError, SyntaxError, NameError):
                continue  # not needed for the networks, or of Python 2
    return scope


def batches(*shape: int, n: int = N, count: int = 2) -> list[Tensor]:
    """Data in [−1, 1]."""
    return [torch.rand(n, *shape) * 2 - 1 for _ in range(count)]


def labelled(*shape: int, classes: int = 10, n: int = N) -> list[list[Tensor]]:
    """(data, class number), as an image folder yields them."""
    return [[x, torch.randint(0, classes, (n,))] for x in batches(*shape, n=n)]


def normal(*shape: int) -> Callable[[int, Any], Tensor]:
    """A standard normal latent."""
    return lambda n, batch: torch.randn(n, *shape)


def itself(batch: Any) -> Any:
    """The batch is the data."""
    return batch


def undone(p: Tensor) -> Tensor:
    """The logit of a probability, as far as BCELoss passes a gradient."""
    return torch.logit(p.double(), 1e-12).float()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    return (real - 1).square().mean() + fake.square().mean()
