"""What the zoo says of each of its pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

N = 8  # samples in a batch


def logistic(f_real: Tensor, f_fake: Tensor) -> Tensor:
    return softplus(-f_real).mean() + softplus(f_fake).mean()


def hinge(f_real: Tensor, f_fake: Tensor) -> Tensor:
    return torch.relu(1 - f_real).mean() + torch.relu(1 + f_fake).mean()


def wasserstein(f_real: Tensor, f_fake: Tensor) -> Tensor:
    return f_fake.mean() - f_real.mean()


def least_squares(f_real: Tensor, f_fake: Tensor) -> Tensor:
    return (f_real - 1).square().mean() + f_fake.square().mean()


@dataclass(frozen=True)
class Entry:
    """One convention: a pair of networks, a loader, and the truth about them.

    Attributes:
        name: The convention.
        make: Builds (G, D, loader).
        real: The truth: ``(batch) -> x``.
        logit: The truth: ``(D, x, batch) -> logits`` on the plain D, before any sigmoid.
        latent: The truth: shapes of the tensors that G takes.
        adapter: Keywords of the Adapter that the user has to give.
        d_loss: The adversarial loss that follows, on logits.
        high: Whether D is high on real.
        shows: Words that the table must hold.
    """

    name: str
    make: Callable[[], tuple[nn.Module, nn.Module, Any]]
    latent: tuple[tuple[int, ...], ...] = ((N, 4),)
    real: Callable[[Any], Any] = lambda batch: batch
    logit: Callable[[nn.Module, Any, Any], Tensor] = lambda D, x, batch: D(x)
    adapter: dict[str, Any] = field(default_factory=dict)
    d_loss: Callable[[Tensor, Tensor], Tensor] = logistic
    high: bool = True
    shows: tuple[str, ...] = ()


def batches(*shape: int, count: int = 2) -> list[Tensor]:
    """A loader of one tensor a batch, in [−1, 1]."""
    return [torch.rand(N, *shape) * 2 - 1 for _ in range(count)]


def first(batch: Any) -> Any:
    return batch[0]


def net(*layers: Any) -> nn.Sequential:
    """Layers in a row; a function among them is applied as it is."""
    return nn.Sequential(*(layer if isinstance(layer, nn.Module) else Apply(layer) for layer in layers))


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Module(nn.Module):
    """Named layers and a forward given as a function of (self, ...)."""

    def __init__(self, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
