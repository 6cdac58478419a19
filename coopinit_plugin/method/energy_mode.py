"""Which function D is: its modes, its running statistics, its frozen parameters.

A D with BatchNorm is three functions: in training mode on real samples, in training mode on refined ones, and in
evaluation mode. The chain and both terms of the likelihood must see the same one, or the energy runs away. Here it is
evaluation mode, on running statistics that a training-mode pass over each real batch keeps fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

POWER_ITERATIONS = 15  # as torch's own parametrization runs when it is made


def likelihood_mode(discriminator: nn.Module) -> None:
    """Evaluation mode, so that dropout, BatchNorm and power iterations stand still in the chain.

    Recurrent layers stay in training mode: cuDNN cannot run them backward otherwise.
    """
    discriminator.eval()
    for module in discriminator.modules():
        if isinstance(module, nn.RNNBase):
            module.train()


def normalisers(module: nn.Module) -> list[_NormBase]:
    """The layers of `module` that keep running statistics of their input."""
    return [m for m in module.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """Those that the normalising layers keep, the live tensors."""
    return [kept for m in normalisers(module) for kept in (m.running_mean, m.running_var) if kept is not None]


def refresh_statistics(
    discriminator: nn.Module,
    forward: Callable[[], object],
    *,
    afresh: bool = False,
    average: Callable[[list[torch.Tensor]], None] | None = None,
) -> None:
    """Run `forward` once without gradient, with D's normalising layers alone in training mode.

    Args:
        discriminator: D.
        forward: Runs D on a real batch.
        afresh: Take this batch's statistics as they are, instead of averaging them in.
        average: Where several processes share the batch: the mean of tensors over all of them, in place.
    """
    layers = normalisers(discriminator)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.train()
            layer.momentum = 1.0 if afresh else layer.momentum
        with torch.no_grad():
            forward()
            if average is not None:
                average(running_statistics(discriminator))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.eval()
            layer.momentum = momentum


def settle(
    discriminator: nn.Module,
    forward: Callable[[], object],
    average: Callable[[list[torch.Tensor]], None] | None = None,
) -> None:
    """Make a fresh D ready for evaluation mode: statistics of real data, singular vectors that have converged.

    A BatchNorm that has seen no data hides most of the gradient, and a hook-style spectral norm starts from random
    vectors, by which it divides. The other buffers that a training-mode pass moves are taken for such vectors.

    Args:
        discriminator: D.
        forward: Runs D on a real batch.
        average: See :func:`refresh_statistics`.
    """
    refresh_statistics(discriminator, forward, afresh=True, average=average)
    layers = normalisers(discriminator)
    statistics = {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
    others = [buffer for buffer in discriminator.buffers() if id(buffer) not in statistics]
    before = [buffer.clone() for buffer in others]
    with torch.no_grad(), kept_modes(discriminator), kept_buffers(*layers):
        discriminator.train()
        forward()
        if any(not torch.equal(new, old) for new, old in zip(others, before, strict=True)):
            for _ in range(POWER_ITERATIONS - 1):
                forward()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient to the parameters inside; each one's flag as before outside."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def kept_buffers(*modules: nn.Module) -> Iterator[None]:
    """Put every buffer back at the end, the same tensor with the same value."""
    saved = [(owner, name, value, value.detach().clone()) for owner, name, value in _buffers(modules)]
    try:
        yield
    finally:
        for owner, name, tensor, value in saved:
            owner._buffers[name] = tensor.detach_().copy_(value)


@contextmanager
def kept_modes(*modules: nn.Module) -> Iterator[None]:
    """Put every submodule's ``training`` flag back at the end."""
    saved = [(child, child.training) for module in modules for child in module.modules()]
    try:
        yield
    finally:
        for child, training in saved:
            child.training = training


def _buffers(modules: tuple[nn.Module, ...]) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    for module in modules:
        for child in module.modules():
            for name, value in child._buffers.items():
                if value is not None:
                    yield child, name, value
