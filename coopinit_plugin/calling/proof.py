"""What one backward pass proves: that gradients reach the parameters; and what is said if a pass fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import release_graphs
from coopinit_plugin.nests import first_line

ONE_SAMPLE = "more than 1 value per channel"  # BatchNorm's words
LARGER_BATCH = "BatchNorm needs more than one sample: give a loader with a larger batch_size, and drop_last=True."


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


@contextmanager
def passes(what: str) -> Iterator[None]:
    """Say of an error inside which pass it was, and what to do about the usual ones."""
    try:
        yield
    except CoopInitError:
        raise
    except Exception as error:
        cures = {
            "use_reentrant": "Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False): the reentrant kind "
            "gives no gradient with respect to samples or weights alone, as the warm-up takes them.",
            ONE_SAMPLE: LARGER_BATCH,
        }
        cure = next((cure for sign, cure in cures.items() if sign in str(error)), "Your networks are untouched.")
        raise CoopInitError(f"A pass of {what}, fails: {first_line(error)}. {cure}") from error


def learnable(G: nn.Module, fake: Any) -> list[str]:
    """Warns of parameters of G that get no gradient from its sample, whose graph must be there."""
    with passes("G, backward"):
        idle = unreached("G", G, sum(leaf.square().mean() for leaf in tree_leaves(fake)))
    release_graphs(G)
    shown = ", ".join(idle[:4]) + ", ..." * (len(idle) > 4)
    every = sum(parameter.requires_grad for parameter in G.parameters())
    warning = f"{len(idle)} of G's {every} parameters get no gradient ({shown}). If your loop trains them, it calls G "
    return [f"{warning}otherwise; say how: {line(generate='G(z, ...)')}."] if idle else []
