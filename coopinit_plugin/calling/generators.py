"""How a generator is called, proved by a forward pass; or the line to write."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import CONDITIONS, arguments, conditions_of
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.latents import Guess, Search
from coopinit_plugin.calling.layers import first_layer, joined_line, noise_line, one_hot_line
from coopinit_plugin.calling.misfits import LARGER_BATCH, ONE_SAMPLE, mismatch
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.pair import detached, release_graphs
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need


def find(G: nn.Module, held: Held, device: torch.device, given: Adapter) -> tuple[Guess, Any, Any]:
    """(How G is called, what it was given, what it gave), proved by a forward pass."""
    said = given.latent is not None or given.generate is not None
    conditions = [] if said else conditions_of(G, "G", held.others, () if held.known else None)
    search = Search(G, held, given, conditions, first_layer(G.named_modules()))
    works: list[tuple[Guess, Any, Any]] = []
    misfit, failure = None, None
    while len(search.tried) < ATTEMPTS and (waiting := [g for g in search.guesses() if g not in search.tried]):
        guess = waiting[0]
        search.tried.append(guess)
        with users_hook("latent", f"a batch, {describe(held.batch)}"):
            z = move(guess.latent(held.n, device, held.batch), device)
        try:
            with recorded(G) as record:
                out = guess.generate(G, fresh(z))
        except Exception as error:
            search.said += f"\n  G({describe(z)}): {first_line(error)}"
            failure = error
            if not works:
                search.learn(guess, record)
            continue
        if {part.tensor.shape for part in held.without(z)} & {part.tensor.shape for part in parts(out)}:
            works.append((guess, z, out))
            if not guess.source:
                break
        else:
            search.said += f"\n  G({describe(z)}) gave {describe(out)}"
            misfit = held.without(z) or held.data, list(parts(out))
    tried = search.said and f"\nTried:{search.said}"
    if not works:
        raise (mismatch(*misfit, held.real is None, tried) if misfit else _unknown(search, tried)) from failure
    _refuse_rivals(held, works)
    return works[0]


def _refuse_rivals(held: Held, works: list[tuple[Guess, Any, Any]]) -> None:
    """Refuse a G that takes several tensors of the batch, or noise of the shape of one of them."""
    if len(works) > 1:
        names = [guess.source for guess, *_ in works]
        seen = f"Which tensor of the batch does G take? {' and '.join(names)} go through it. Or which is the data?"
        raise unclear(seen, line(latent=names[0]), line(real=names[1]))
    guess, z, out = works[0]
    shapes, made = {part.tensor.shape for part in parts(z)}, {part.tensor.shape for part in parts(out)}
    for part in held.floats if guess.width and not (guess.source or guess.named) else []:
        rivals = {other.tensor.shape for other in held.data if held.real is not None or other.keys != part.keys}
        if part.tensor.shape in shapes and rivals & made:
            ask = f"Does G translate {part.name}, or does it start from noise? It takes both, {describe(z)}."
            raise unclear(ask, line(latent=part.name), line(latent=noise_line(*part.tensor.shape[1:])))


def _unknown(search: Search, tried: str) -> CoopInitError:
    """What is known of a G that took none of the guesses, and the line to write."""
    name, required, size, first = type(search.G).__name__, arguments(search.G)[0], search.size, search.first
    if ONE_SAMPLE in tried:
        return CoopInitError(f"G ({name}) fails in training mode. {LARGER_BATCH}{tried}")
    seen = f"What does G ({name}) take?"
    if len(required) > 1:
        seen += f" Its forward needs {', '.join(required)}."
    if size is not None:
        seen += f" Its {size[0]} is {size[1]}."
    if first.width:
        unit = "channels" if first.takes_images else "numbers"
        seen += f" Its first layer, {first.name}, takes {first.width} {unit}."
    elif size is None:
        seen += " No size was found in its attributes or first layer."
    return unclear(seen + tried, line(**_likely(search)))


def _likely(search: Search) -> dict[str, str]:
    """What each argument of G may be, as a user writes it."""
    G, held, first, size = search.G, search.held, search.first, search.size
    conditions = {condition.name: condition for condition in reversed(search.conditions)}
    embeddings = [name for name, module in G.named_modules() if isinstance(module, nn.Embedding)]
    found = search.width or (0 if first.takes_images else first.width)
    width = size[1] if size is not None else found
    free = [noise_line(width)]  # for the arguments that take no condition
    maps = [f"{part.name}.float()" for part in held.others if part.tensor.ndim >= 3 and part not in held.data]
    sources = [part.name for part in search.sources if part.name not in [guess.name for guess in search.tried]]
    if first.takes_images and sources + maps:
        linear = [module.in_features for module in G.modules() if isinstance(module, nn.Linear)]
        free = [(sources + maps)[0], noise_line(linear[0] if linear else width)]
    elif images := first.images(held.data):
        free = [f"torch.randn_like({images[0].name})"]
    elif size is not None and first.width > width and not conditions:
        free = [joined_line(free[0], held.labels, first.width - width)]
    elif (width,) in [guess.tail for guess in search.tried]:
        free = [f"torch.randn(n, ..., {width}, device=device)"]
    latent, named = [], []
    for name in dict.fromkeys([*arguments(G)[0], *conditions]) or ["z"]:
        if name in conditions:
            code, y = conditions[name].code, conditions[name].take(held.batch)
            numbers = not (embeddings or y.is_floating_point()) and y.numel() == y.shape[0]
            latent.append(one_hot_line(code, int(y.max()) + 1) if numbers else code)
        elif free:
            latent.append(free.pop(0))
        else:
            named.append(f"{name}=...")
    hooks = {"latent": latent[0] if len(latent) == 1 else f"({', '.join(latent)})"}
    unused = [name for name in embeddings if search.ran and name not in search.ran and conditions]
    if unused:  # left to the loop, as in BigGAN
        hooks["generate"] = f"G(z[0], G.{unused[0]}(z[1]))"
    elif named:
        hooks["generate"] = f"G({'z' if len(latent) == 1 else '*z'}, {', '.join(named)})"
    elif search.given.latent is not None:
        hooks["generate"] = "G(z)"
    return hooks


def learnable(G: nn.Module, fake: Any) -> tuple[Any, list[str]]:
    """G's sample without its graph, which must have been there; a warning if parameters of G have no part in it."""
    if not any(leaf.requires_grad for leaf in tree_leaves(fake)):
        optional, seen = arguments(G)[1], "G's output carries no gradient, so that G cannot learn from it"
        ask = f"{seen}: does its forward draw classes, round or detach? Call it as your loop does in training."
        raise unclear(ask, line(generate=f"G(z, {optional[0]}=True)" if optional else "G(z, ...)"))
    sum(leaf.sum() for leaf in tree_leaves(fake)).backward()
    trained = [(name, parameter) for name, parameter in G.named_parameters() if parameter.requires_grad]
    idle = [name for name, parameter in trained if parameter.grad is None]
    G.zero_grad()
    release_graphs(G)
    shown = ", ".join(idle[:4]) + ", ..." * (len(idle) > 4)
    warning = (
        f"{len(idle)} of G's {len(trained)} parameters get no gradient ({shown}). If your loop trains them, it calls G "
        f"otherwise; say how: {line(generate='G(z, ...)')}."
    )
    return detached(fake), [warning] if idle else []


def ask_condition(G: nn.Module, guess: Guess, held: Held, z: Any) -> None:
    """Refuse noise alone for a G that may take labels, too, as its D does: joined to the noise, or as an argument."""
    labels, optional = held.labels, [name for name in arguments(G)[1] if name.lower() in CONDITIONS]
    if labels is None or not guess.width or guess.condition is not None or (guess.named and not optional):
        return
    noise, y = noise_line(guess.width), labels.tensor
    classes = y.shape[1] if labels.has_rows else int(y.max()) + 1
    if optional:
        hooks = {"latent": f"({noise}, {labels.name})", "generate": f"G(z[0], {optional[0]}=z[1])"}
        raise unclear(f"D is given labels. Is G, as its argument {optional[0]!r}?", line(**hooks), line(latent=noise))
    if guess.width <= classes:  # there is no room for noise beside them
        return
    joined = joined_line(noise_line(guess.width - classes), labels, classes)
    if isinstance(z, torch.Tensor) and z.ndim > 2:
        joined += f"[:, :{', None' * (z.ndim - 2)}]"
    seen = f"D is given a condition. Is it joined to G's noise, too? {guess.how}, takes {guess.width}."
    raise unclear(seen, line(latent=joined), line(latent=noise))
