"""How a generator is called, proved by a forward pass; or the line to write."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import CONDITIONS, arguments, conditions_of, named_only, noise_argument
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.latents import Guess, Known, guesses
from coopinit_plugin.calling.layers import first_layer, noise_line, one_hot_line, rows_line
from coopinit_plugin.calling.misfits import LARGER_BATCH, ONE_SAMPLE, mismatch
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import detached, release_graphs
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import could_be_data, could_be_labels, describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need


def find(G: nn.Module, held: Held, device: torch.device, given: Adapter) -> tuple[Guess, Any, Any]:
    """(How G is called, what it was given, what it gave), proved by a forward pass."""
    if given.latent is not None:
        guess = Guess(given.latent, "given (latent)", given.generate, noise_argument(G))
        with users_hook("latent", f"a batch, {describe(held.batch)}"):
            z = move(guess.latent(held.n, device, held.batch), device)
        try:
            return guess, z, guess.generate(G, fresh(z))
        except Exception as error:
            seen = f"G ({type(G).__name__}) does not take {describe(z)}: {first_line(error)}"
            raise unclear(seen, line(latent="...", generate="G(z)")) from error
    conditions = [] if given.generate is not None else conditions_of(G, "G", held.others, () if held.known else None)
    known = Known(G, held, given.generate, conditions, first_layer(G.named_modules()))
    forms: list[Any] = []
    works: list[tuple[Guess, Any, Any]] = []
    tried, misfit = "", None
    while len(forms) < ATTEMPTS and (waiting := [guess for guess in guesses(known) if guess.form not in forms]):
        guess = waiting[0]
        forms.append(guess.form)
        z = guess.latent(held.n, device, held.batch)
        try:
            with recorded(G) as record:
                out = guess.generate(G, fresh(z))
        except Exception as error:
            tried += f"\n  G({describe(z)}): {first_line(error)}"
            known = known if works else known.after(guess, record)
            continue
        if {part.tensor.shape for part in held.without(z)} & {part.tensor.shape for part in parts(out)}:
            works.append((guess, z, out))
            if not guess.source:
                break
        else:
            tried += f"\n  G({describe(z)}) gave {describe(out)}"
            misfit = list(parts(out))
    tried = tried and f"\nTried:{tried}"
    if not works:
        raise _unknown(known, tried) if misfit is None else mismatch(held.data, held.real is None, misfit, tried)
    _refuse_rivals(held, works)
    return works[0]


def _refuse_rivals(held: Held, works: list[tuple[Guess, Any, Any]]) -> None:
    """Refuse a G that takes several tensors of the batch, or noise of the shape of one of them."""
    if len(works) > 1:
        names = [guess.source for guess, *_ in works]
        seen = f"Which tensor of the batch does G take? {' and '.join(names)} go through it. Or which is the data?"
        raise unclear(seen, line(latent=names[0]), line(real=names[1]))
    guess, z, out = works[0]
    shapes, made = {leaf.shape for leaf in tree_leaves(z)}, {part.tensor.shape for part in parts(out)}
    for part in [] if guess.source or guess.named else held.others:
        rivals = {other.tensor.shape for other in held.data if held.real is not None or other.keys != part.keys}
        if could_be_data(part) and part.tensor.shape in shapes and rivals & made:
            noise = f"torch.randn(n, {', '.join(map(str, part.tensor.shape[1:]))}, device=device)"
            ask = f"Does G translate {part.name}, or does it start from noise? It takes both, {describe(z)}."
            raise unclear(ask, line(latent=part.name), line(latent=noise))


def _unknown(known: Known, tried: str) -> CoopInitError:
    """What is known of a G that took none of the guesses, and the line to write."""
    if ONE_SAMPLE in tried:
        return CoopInitError(f"G ({type(known.G).__name__}) fails in training mode. {LARGER_BATCH}{tried}")
    several = known.conditions or len(arguments(known.G)[0]) > 1
    why, hooks = (_several if several else _single)(known, tried)
    return unclear(f"What does G ({type(known.G).__name__}) take?{why}{tried}", line(**hooks))


def _single(known: Known, tried: str) -> tuple[str, dict[str, str]]:
    """What is known of a G of one argument."""
    first, size = known.first, known.size
    maps = [part.name for part in known.held.others if part.tensor.ndim >= 3 and part not in known.held.data]
    why, hooks = "" if tried else " No size was found in its attributes or first layer.", {"latent": _noise(known)}
    takes = f" Its first layer, {first.name}, takes"
    failed = re.search(rf"G\(\({known.held.n}, (\d+)\) ", tried)
    if maps and first.takes_images:
        why, hooks["latent"] = f"{takes} {first.width} channels: made of {maps[0]} by your loop?", f"{maps[0]}.float()"
    elif known.images:
        why = f"{takes} images like the data: which, or noise of that shape?"
    elif size is not None and first.width > size[1]:
        why = f" Its {size[0]} is {size[1]}, but its first layer, {first.name}, takes {first.width}: are labels joined?"
        labels = next((part for part in known.held.others if could_be_labels(part)), None)
        hooks["latent"] = f"torch.cat([{_noise(known)}, {rows_line(labels, first.width - size[1])}], 1)"
    if (name := named_only(known.G)) is not None:
        why, hooks["generate"] = why + " Its forward takes arguments by name alone.", f"G({name}=z)"
    elif failed and hooks["latent"] == noise_line(int(failed[1])):  # that line was tried
        hooks["latent"] = f"torch.randn(n, ..., {failed[1]}, device=device)"
    return why, hooks


def _noise(known: Known) -> str:
    """Noise of the width that was found, as a user writes it."""
    found = known.width or (0 if known.first.takes_images else known.first.width)
    return noise_line(known.size[1] if known.size is not None else found)


def _several(known: Known, tried: str) -> tuple[str, dict[str, str]]:
    """What is known of each argument of a G that takes several."""
    G, held, required = known.G, known.held, arguments(known.G)[0]
    conditions = {condition.name: condition for condition in reversed(known.conditions)}
    sources = known.first.images([part for part in held.others if could_be_data(part)])
    widths = [module.in_features for module in G.modules() if isinstance(module, nn.Linear)]
    embeds = any(isinstance(module, nn.Embedding) for module in G.modules())
    free = [_noise(known)]  # for the arguments that take no condition: the source, if there is one, and noise
    if sources:
        free = [sources[0].name, noise_line(widths[0]) if widths else free[0]]
    latent, named = [], []
    for name in dict.fromkeys([*required, *conditions]):
        if name in conditions:
            code, y = conditions[name].code, conditions[name].take(held.batch)
            numbers = not (embeds or y.is_floating_point()) and y.numel() == y.shape[0]
            latent.append(one_hot_line(code, int(y.max()) + 1) if numbers else code)
        elif free:
            latent.append(free.pop(0))
        else:
            named.append(f"{name}=...")
    hooks = {"latent": latent[0] if len(latent) == 1 else f"({', '.join(latent)})"}
    children = [name for name, child in G.named_children() if isinstance(child, nn.Embedding) and conditions]
    unused = [name for name in children if known.ran and name not in known.ran]  # left to the loop, as in BigGAN
    if unused:
        hooks["generate"] = f"G(z[0], G.{unused[0]}(z[1]))"
    elif named:
        hooks["generate"] = f"G({'z' if len(latent) == 1 else '*z'}, {', '.join(named)})"
    if not (conditions and tried):
        return f" Its forward needs {', '.join(required)}.", hooks
    asked = " Does your loop embed that first?" * bool(unused)
    return f" It was given {known.conditions[0].text} beside it.{asked}", hooks


def learnable(G: nn.Module, fake: Any) -> tuple[Any, list[str]]:
    """G's sample without its graph, which must have been there; a warning if parameters of G have no part in it."""
    if not any(leaf.requires_grad for leaf in tree_leaves(fake)):
        optional, seen = arguments(G)[1], "G's output carries no gradient, so that G cannot learn from it"
        ask = f"{seen}: does its forward draw classes, round or detach? Call it as your loop does in training."
        raise unclear(ask, line(generate=f"G(z, {optional[0]}=True)" if optional else "G(z, ...)"))
    sum(leaf.sum() for leaf in tree_leaves(fake)).backward()
    trained = [(name, parameter) for name, parameter in G.named_parameters() if parameter.requires_grad]
    idle = [name for name, parameter in trained if parameter.grad is None]
    for _, parameter in trained:
        parameter.grad = None
    release_graphs(G)
    shown = ", ".join(idle[:4]) + ", ..." * (len(idle) > 4)
    warning = (
        f"{len(idle)} of G's {len(trained)} parameters get no gradient ({shown}). If your loop trains them, it calls G "
        f"otherwise; say how: {line(generate='G(z, ...)')}."
    )
    return detached(fake), [warning] if idle else []


def ask_condition(G: nn.Module, guess: Guess, held: Held, z: Any) -> None:
    """Refuse noise alone for a G that may take labels, too, as its D does: joined to the noise, or as an argument."""
    labels = next((part for part in held.others if could_be_labels(part)), None)
    optional = [name for name in arguments(G)[1] if name.lower() in CONDITIONS]
    if labels is None or guess.width is None or guess.condition is not None or (guess.named and not optional):
        return
    rows = labels.tensor.ndim == 2 and labels.tensor.shape[1] > 1
    classes = int(labels.tensor.shape[1] if rows else labels.tensor.max() + 1)
    noise = noise_line(guess.width)
    if optional:
        hooks = {"latent": f"({noise}, {labels.name})", "generate": f"G(z[0], {optional[0]}=z[1])"}
        raise unclear(f"D is given labels. Is G, as its argument {optional[0]!r}?", line(**hooks), line(latent=noise))
    if guess.width <= classes:  # there is no room for noise beside them
        return
    tail = ", None" * (z.ndim - 2) if isinstance(z, torch.Tensor) else ""
    joined = f"torch.cat([{noise_line(guess.width - classes)}, {rows_line(labels, classes)}], 1)"
    seen = f"D is given a condition. Is it joined to G's noise, too? {guess.how.split(';')[0]}, takes {guess.width}."
    raise unclear(seen, line(latent=joined + f"[:, :{tail}]" * bool(tail)), line(latent=noise))
