"""How a generator is called, proved by a forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, fresh, line, unclear, users_hook
from coopinit_plugin.calling.conditions import CONDITIONS, arguments, conditions_of
from coopinit_plugin.calling.data import Held, mismatch
from coopinit_plugin.calling.latents import Guess, Known, first_layer, first_run, guesses
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import could_be_data, describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need


def find(G: nn.Module, held: Held, device: torch.device, given: Adapter) -> tuple[Guess, Any, Any]:
    """(How G is called, what it was given, what it gave), proved by a forward pass."""
    if given.latent is not None:
        return _given(G, held, device, Guess(given.latent, "given (latent)", hook=given.generate))
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
            ran = first_run(record)
            if ran and known.first and ran.layer is not known.first.layer and not works:  # it was not registered first
                known = replace(known, first=ran)
                waiting = guesses(known)
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
        raise _unknown(known, shown) if misfit is None else mismatch(held.data, list(parts(misfit)), shown)
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
    first, size, required = known.first, known.size, arguments(known.G)[0]
    noise = f"torch.randn(n, {size[1] if size else 100}, device=device)"
    why, hooks = "" if tried else " No size was found in its attributes or first layer.", {"latent": noise}
    maps = [part for part in known.held.others if part.tensor.ndim >= 3 and part not in known.held.data]
    takes = f" Its first layer, {first.name}, takes" if first is not None else ""
    if maps and first is not None and first.takes_images():
        why = f"{takes} {first.width} channels: made of {maps[0].name} by your loop?"
        hooks = {"latent": f"{maps[0].name}.float()"}
    elif known.images:
        why = f"{takes} images like the data: which, or noise of that shape?"
    elif first is not None and size is not None and first.width > size[1] and len(required) == 1:
        why = f" Its {size[0]} is {size[1]}, but its first layer, {first.name}, takes {first.width}: are labels joined?"
        labels = f"torch.nn.functional.one_hot(batch[1], {first.width - size[1]}).float()"
        hooks = {"latent": f"torch.cat([{noise}, {labels}], 1)"}
    elif len(required) > 1 and not tried:
        why = f" Its forward needs {', '.join(required)}."
        rest = ["batch[1]" if name.lower() in CONDITIONS else name for name in required[1:]]
        hooks = {"latent": f"({', '.join([noise, *rest])})"}
    elif known.conditions:
        why = f" It was given {known.conditions[0].text} beside it; does your loop embed that first?"
        hooks = {"latent": f"({noise}, batch[1])"}
        for name in [name for name, child in known.G.named_children() if isinstance(child, nn.Embedding)][:1]:
            hooks["generate"] = f"G(z[0], G.{name}(z[1]))"
    return unclear(f"What does G ({type(known.G).__name__}) take?{why}{tried}", line(**hooks))
