"""What one backward pass proves: that gradients reach the parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import release_graphs


def unreached(letter: str, module: nn.Module, loss: Any) -> list[str]:
    """The names of the parameters that no gradient of the loss reaches; an error if these are all of them."""
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    gradients: dict[str, Tensor | None] = dict.fromkeys(named)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
        gradients = dict(zip(named, found, strict=True))
    for name, gradient in gradients.items():
        if gradient is not None and gradient.is_sparse:
            told = f"{letter}'s {name} gets sparse gradients, which Adam does not take"
            raise CoopInitError(f"{told}. Look it up by torch.nn.functional.embedding(..., sparse=False).")
    missed = [name for name, gradient in gradients.items() if gradient is None]
    if len(missed) == len(named):
        seen = f"No gradient reaches any of {letter}'s parameters, e.g. {missed[0]}. Does its forward round, detach or "
        seen += "draw classes, unless it is called as in training? Does a function set on it hold other weights?"
        raise unclear(seen, line(generate="G(z, ...)") if letter == "G" else line(score="D(x, ...)"))
    return missed


def learnable(G: nn.Module, fake: Any) -> list[str]:
    """Warns of parameters of G that get no gradient from its sample, whose graph must be there."""
    idle = unreached("G", G, sum(leaf.square().mean() for leaf in tree_leaves(fake)))
    release_graphs(G)
    shown = ", ".join(idle[:4]) + ", ..." * (len(idle) > 4)
    every = sum(parameter.requires_grad for parameter in G.parameters())
    warning = f"{len(idle)} of G's {every} parameters get no gradient ({shown}). If your loop trains them, it calls G "
    return [f"{warning}otherwise; say how: {line(generate='G(z, ...)')}."] if idle else []
