"""What can be seen on a network without running it: its layers, its size, the bound of its output."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def traits(G: nn.Module, D: nn.Module) -> list[tuple[str, str, str]]:
    """A row each for G and D: class and size, and the kinds of layers that matter to the warm-up."""
    rows = []
    for letter, module in (("G", G), ("D", D)):
        count = sum(parameter.numel() for parameter in module.parameters())
        held = sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)
        frozen = f", {held:,} of them frozen" if held else ""
        rows.append((letter, f"{type(module).__name__}, {count:,} parameters{frozen}", ", ".join(kinds(module))))
    return rows


def kinds(module: nn.Module) -> list[str]:
    """Normalisation, dropout, recurrent layers and minibatch statistics in the module."""
    found: set[str] = set()
    for child in module.modules():
        name = type(child).__name__
        if isinstance(child, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RNNBase)) or "Dropout" in name:
            found.add(name)
        if "minibatch" in name.lower() or "stddev" in name.lower():
            found.add(f"{name} (sees the batch as a whole)")
        hooks = [type(hook).__name__ for hook in child._forward_pre_hooks.values()]
        if "SpectralNorm" in hooks or name == "_SpectralNorm":
            found.add("spectral norm")
        if "WeightNorm" in hooks or name == "_WeightNorm":
            found.add("weight norm")
    return sorted(found)


def bounded_output(G: nn.Module) -> tuple[str, float, float] | None:
    """(Name, lowest, highest) of the bounded function that G ends in, where its last layer is one."""
    layers = [child for child in G.modules() if not list(child.children())]
    if layers and isinstance(layers[-1], nn.Tanh):
        return "tanh", -1.0, 1.0
    if layers and isinstance(layers[-1], nn.Sigmoid):
        return "sigmoid", 0.0, 1.0
    return None
