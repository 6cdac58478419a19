"""How a generator is called, proved by a forward pass."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import (
    CONDITIONS,
    Condition,
    arguments,
    conditions_of,
    named_only,
    noise_argument,
)
from coopinit_plugin.calling.data import Held
from coopinit_plugin.calling.latents import Guess, Known, guesses
from coopinit_plugin.calling.layers import first_layer, noise_line, one_hot_line, rows_line
from coopinit_plugin.calling.misfits import LARGER_BATCH, ONE_SAMPLE, mismatch
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import could_be_data, could_be_labels, describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need


def find(G: nn.Module, held: Held, device: torch.device, given: Adapter) -> tuple[Guess, Any, Any]:
    """(How G is called, what it was given, what it gave), proved by a forward pass."""
    if given.latent is not None:
        return _given(
            G, held, device, Guess(given.latent, "given (latent)", argument=noise_argument(G), hook=given.generate)
        )
    conditions = [] if given.generate is not None else conditions_of(G, "G", held.others, () if held.known else None)
    known = Known(G, first_layer(G.named_modules()), held, conditions)
    waiting = guesses(known)
    tried: list[str] = []
    works: list[tuple[Guess, Any, Any]] = []
    misfit: Any = None
    while len(tried) + len(works) < ATTEMPTS and (guess := next(waiting, None)) is not None:
        guess, z = replace(guess, hook=given.generate), guess.latent(held.n, device, held.batch)
        try:
            with recorded(G) as record:
                out = guess.generate(G, fresh(z))
        except Exception as error:
            tried.append(f"  G({describe(z)}): {first_line(error)}")
            known = replace(known, ran=tuple(call.name for call in record.begun))
            if not works and (told := known.after(guess, record)) is not None:
                known, waiting = told, guesses(told)
            continue
        if {part.tensor.shape for part in held.without(z)} & {part.tensor.shape for part in parts(out)}:
            works.append((guess, z, out))
            if not guess.source:
                break
        else:
            tried.append(f"  G({describe(z)}) gave {describe(out)}")
            misfit = out
    if not works:
        shown = "\nTried:\n" + "\n".join(tried) if tried else ""
        if misfit is not None:
            raise mismatch(held.data, held.real is None, list(parts(misfit)), shown)
        raise _unknown(known, shown)
    if len(works) > 1:
        names = [guess.source for guess, *_ in works]
        seen = f"Which tensor of the batch does G take? {' and '.join(names)} go through it. Or which is the data?"
        raise unclear(seen, line(latent=names[0]), line(real=names[1]))
    guess, z, out = works[0]
    if not guess.source and not guess.named:
        _refuse_translation(held, z, out)
    return works[0]


def _given(G: nn.Module, held: Held, device: torch.device, guess: Guess) -> tuple[Guess, Any, Any]:
    with users_hook("latent", f"a batch, {describe(held.batch)}"):
        z = move(guess.latent(held.n, device, held.batch), device)
    try:
        return guess, z, guess.generate(G, fresh(z))
    except Exception as error:
        seen = f"G ({type(G).__name__}) does not take {describe(z)}: {first_line(error)}"
        raise unclear(seen, line(latent="...", generate="G(z)")) from error


def _refuse_translation(held: Held, z: Any, out: Any) -> None:
    """Refuse noise of the shape of one tensor in the batch for a G that gives the shape of another."""
    shapes = {leaf.shape for leaf in tree_leaves(z)}
    made = {part.tensor.shape for part in parts(out)}
    for part in held.others:
        rivals = {other.tensor.shape for other in held.data if held.real is not None or other.keys != part.keys}
        if could_be_data(part) and part.tensor.shape in shapes and rivals & made:
            noise = f"torch.randn(n, {', '.join(map(str, part.tensor.shape[1:]))}, device=device)"
            ask = f"Does G translate {part.name}, or does it start from noise? It takes both, {describe(z)}."
            raise unclear(ask, line(latent=part.name), line(latent=noise))


def _unknown(known: Known, tried: str) -> CoopInitError:
    """What is known of a G that took none of the guesses, and the line to write."""
    if ONE_SAMPLE in tried:
        return CoopInitError(f"G ({type(known.G).__name__}) fails in training mode. {LARGER_BATCH}{tried}")
    first, size = known.first, known.size
    if known.conditions or len(arguments(known.G)[0]) > 1:
        return _several(known, tried)
    maps = [part.name for part in known.held.others if part.tensor.ndim >= 3 and part not in known.held.data]
    why, hooks = "" if tried else " No size was found in its attributes or first layer.", {"latent": _noise(known)}
    takes = f" Its first layer, {first.name}, takes" if first is not None else ""
    if maps and first is not None and first.takes_images():
        why = f"{takes} {first.width} channels: made of {maps[0]} by your loop?"
        hooks = {"latent": f"{maps[0]}.float()"}
    elif known.images:
        why = f"{takes} images like the data: which, or noise of that shape?"
    elif first is not None and size is not None and first.width > size[1]:
        why = f" Its {size[0]} is {size[1]}, but its first layer, {first.name}, takes {first.width}: are labels joined?"
        labels = next((part for part in known.held.others if could_be_labels(part)), None)
        hooks = {"latent": f"torch.cat([{_noise(known)}, {rows_line(labels, first.width - size[1])}], 1)"}
    failed = re.search(rf"G\(\({known.held.n}, (\d+)\) ", tried)
    if (name := named_only(known.G)) is not None:
        why, hooks["generate"] = why + " Its forward takes arguments by name alone.", f"G({name}=z)"
    elif failed and hooks["latent"] == noise_line(int(failed[1])):  # that line was tried
        hooks["latent"] = f"torch.randn(n, ..., {failed[1]}, device=device)"
    return unclear(f"What does G ({type(known.G).__name__}) take?{why}{tried}", line(**hooks))


def _noise(known: Known, beside_images: bool = False) -> str:
    """Noise of the width that was found, as a user writes it; beside images, that of the first linear layer."""
    linear = [module.in_features for module in known.G.modules() if isinstance(module, nn.Linear)]
    if beside_images and linear:
        return noise_line(linear[0])
    found = known.width or (known.first.width if known.first is not None and not known.first.takes_images() else None)
    return noise_line(known.size[1] if known.size is not None else found)


def _as_rows(known: Known, condition: Condition) -> str:
    """The condition as a user writes it: class numbers one-hot, unless G embeds them."""
    y, embeds = condition.take(known.held.batch), any(isinstance(module, nn.Embedding) for module in known.G.modules())
    numbers = not (embeds or y.is_floating_point()) and y.numel() == y.shape[0]
    return one_hot_line(condition.code, int(y.max()) + 1) if numbers else condition.code


def _several(known: Known, tried: str) -> CoopInitError:
    """The question how a G of several arguments is called; what is known of each stands in the line."""
    conditions = {condition.name: condition for condition in reversed(known.conditions)}
    required = arguments(known.G)[0]
    sources = known.first.images([part for part in known.held.others if could_be_data(part)]) if known.first else []
    latent: list[str] = []
    named: list[str] = []
    begun = False
    for name in dict.fromkeys([*required, *conditions]):
        if name in conditions:
            latent.append(_as_rows(known, conditions[name]))
        elif not begun:
            latent.append(sources[0].name if sources else _noise(known))
            begun = True
        elif sources and not named:
            latent.append(_noise(known, beside_images=True))
            sources = []
        else:
            named.append(f"{name}=...")
    embeddings = [name for name, child in known.G.named_children() if isinstance(child, nn.Embedding) and conditions]
    embeds = [name for name in embeddings if known.ran and name not in known.ran]  # left to the loop, as in BigGAN
    hooks = {"latent": latent[0] if len(latent) == 1 else f"({', '.join(latent)})"}
    if embeds:
        hooks["generate"] = f"G(z[0], G.{embeds[0]}(z[1]))"
    elif named:
        hooks["generate"] = f"G({'z' if len(latent) == 1 else '*z'}, {', '.join(named)})"
    why = f" Its forward needs {', '.join(required)}."
    if conditions and tried:
        why = f" It was given {known.conditions[0].text} beside it." + " Does your loop embed that first?" * bool(
            embeds
        )
    return unclear(f"What does G ({type(known.G).__name__}) take?{why}{tried}", line(**hooks))


def unproved(G: nn.Module, fake: Any) -> list[str]:
    """A warning if parameters of G have no part in the sample `fake`; its graph is used up."""
    loss = sum(leaf.sum() for leaf in tree_leaves(fake))
    loss.backward()
    trained = [(name, parameter) for name, parameter in G.named_parameters() if parameter.requires_grad]
    idle = [name for name, parameter in trained if parameter.grad is None]
    for _, parameter in trained:
        parameter.grad = None
    if not idle:
        return []
    shown = ", ".join(idle[:4]) + ", ..." * (len(idle) > 4)
    return [
        f"{len(idle)} of G's {len(trained)} parameters get no gradient ({shown}). If your loop trains them, it calls G "
        f"otherwise; say how: {line(generate='G(z, ...)')}."
    ]


def ask_condition(G: nn.Module, guess: Guess, held: Held, z: Any) -> None:
    """Refuse noise alone for a G that may take labels, too, as its D does: joined to the noise, or as an argument."""
    labels = next((part for part in held.others if could_be_labels(part)), None)
    optional = [name for name in arguments(G)[1] if name.lower() in CONDITIONS]
    if labels is None or guess.width is None or guess.condition is not None or (guess.named and not optional):
        return
    rows = labels.tensor.ndim == 2 and labels.tensor.shape[1] > 1
    classes = int(labels.tensor.shape[1] if rows else labels.tensor.max() + 1)
    if not optional and classes >= guess.width:  # there is no room for noise beside them
        return
    noise = noise_line(guess.width)
    if not optional and guess.width <= classes:
        return  # beside the labels' rows there is no room for noise: they are not joined
    if optional:
        hooks = {"latent": f"({noise}, {labels.name})", "generate": f"G(z[0], {optional[0]}=z[1])"}
        seen = f"D is given labels. Is G, as its argument {optional[0]!r}?"
    else:
        tail = "".join(", None" for _ in range(z.ndim - 2)) if isinstance(z, torch.Tensor) else ""
        joined = f"torch.cat([{noise_line(guess.width - classes)}, {rows_line(labels, classes)}], 1)"
        hooks = {"latent": joined + f"[:, :{tail}]" * bool(tail)}
        seen = (
            f"D is given a condition. Is it joined to G's noise, too? {guess.how.split(';')[0]}, takes {guess.width}."
        )
    raise unclear(seen, line(**hooks), line(latent=noise))
