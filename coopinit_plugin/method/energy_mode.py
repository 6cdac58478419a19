"""Which function D is, for chain and likelihood must see the same one: its modes, running statistics, frozen layers."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from coopinit_plugin.method.kept import attributes, buffers, kept, training
from coopinit_plugin.method.pair import ALONE, Team

POWER_ITERATIONS = 15  # as torch's own parametrization runs when it is made


def likelihood_mode(discriminator: nn.Module) -> None:
    """Evaluation mode, so that dropout, BatchNorm and power iterations stand still in the chain."""
    discriminator.eval()
    for module in discriminator.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN cannot run them backward otherwise
            module.train()


def keep_frozen_layers(network: nn.Module) -> None:
    """Let the layers that the user keeps in evaluation mode, such as a pretrained BatchNorm, stay in it for good.

    They are in it inside a network in training mode, or ``train()`` leaves them in it. The network, a copy, changes.
    """
    layers = [layer for layer in network.modules() if not isinstance(layer, nn.RNNBase)]
    stay = [layer for layer in layers if network.training and not layer.training]
    with kept(training(network)):
        network.train()
        stay += [layer for layer in layers if not layer.training]
    for layer in stay:
        layer.train = partial(_stay, layer, layer.train)  # type: ignore[method-assign]


def _stay(layer: nn.Module, train: Callable[[bool], object], mode: bool = True) -> nn.Module:
    """A frozen layer's ``train``: for the layers inside it as ever, for itself evaluation mode."""
    train(mode)
    layer.training = False
    return layer


def normalisers(module: nn.Module) -> list[_NormBase]:
    """The layers of `module` that keep running statistics of their input; the user's frozen ones keep none."""
    found = (m for m in module.modules() if isinstance(m, _NormBase) and m.running_mean is not None)
    return [layer for layer in found if getattr(vars(layer).get("train"), "func", None) is not _stay]


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """The live running mean and variance of every normalisation layer."""
    return [kept for m in normalisers(module) for kept in (m.running_mean, m.running_var) if kept is not None]


def refresh_statistics(
    discriminator: nn.Module, forward: Callable[[], object], *, afresh: bool = False, team: Team = ALONE
) -> None:
    """Run `forward`, D on a real batch, to average that into D's running statistics, or to put it there (`afresh`)."""
    layers = normalisers(discriminator)
    if not layers:
        return
    with kept(attributes(layers, "training"), attributes(layers, "momentum")), torch.no_grad():
        for layer in layers:
            layer.train()
            layer.momentum = 1.0 if afresh else layer.momentum
        forward()
        team.average(running_statistics(discriminator))


def settle(discriminator: nn.Module, forward: Callable[[], object], team: Team = ALONE) -> None:
    """Make a fresh D ready for evaluation mode: statistics of real data, singular vectors that have converged.

    Buffers beside the statistics that a training-mode pass moves are taken for those of a hook-style spectral norm.
    """
    refresh_statistics(discriminator, forward, afresh=True, team=team)
    layers = normalisers(discriminator)
    statistics = {buffer for layer in layers for buffer in layer.buffers(recurse=False)}
    others = [buffer for buffer in discriminator.buffers() if buffer not in statistics]
    before = [buffer.clone() for buffer in others]
    with torch.no_grad(), kept(training(discriminator), buffers(*layers)):
        discriminator.train()
        forward()
        if not all(map(torch.equal, others, before)):
            for _ in range(POWER_ITERATIONS - 1):
                forward()
