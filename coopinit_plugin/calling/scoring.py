"""How the score of a discriminator is found: what D is called with, and what of its output counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, fresh
from coopinit_plugin.calling.conditions import arguments, conditions_of
from coopinit_plugin.calling.latents import Guess
from coopinit_plugin.calling.scores import (
    Call,
    Sigmoids,
    logit_score,
    may_be_probability,
    one_number,
    pick_score,
    refused_input,
)
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import Part, describe, first_line


@dataclass
class Scoring:
    """One look at one D.

    Attributes:
        D: The discriminator.
        batch: One batch of the loader.
        n: Samples in it.
        device: Where it is.
        named: Its tensors that may be conditions.
        given: The user's hooks.
        rows: What was found, added to.
        warnings: What is doubtful, added to.
    """

    D: nn.Module
    batch: Any
    n: int
    device: torch.device
    named: list[Part]
    given: Adapter
    rows: list[tuple[str, str, str]]
    warnings: list[str]

    def _row(self, what: str, value: str, how: str) -> None:
        self.rows.append((what, value, how))

    def found(self, x: Any, guess: Guess, keys: tuple[Any, ...] | None) -> tuple[Callable[..., Tensor], bool]:
        """(score, whether D ends in a sigmoid), proved by a forward pass."""
        if self.given.score is not None:
            return self._given_score(self.given.score, x, guess)
        call = self._call(x, guess, keys)
        sigmoids = Sigmoids()
        try:
            with recorded(self.D) as record, sigmoids:
                out = call(self.D, fresh(x), None, self.batch)
        except Exception as error:
            why, line = refused_input(self.D, x, self.n, error, [(call.name, call.module) for call in record.begun])
            raise CoopInitError(
                f"D ({type(self.D).__name__}) does not take the data {describe(x)}: {first_line(error)}\n{why}"
                f"Show how your loop calls it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: {line}"
            ) from error
        unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
        pick, how = pick_score(out, self.n, [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)], unit)
        f = pick(out)
        self._finite(f)
        logit = logit_score(call, f, record.ended, sigmoids)
        if logit is not None:
            self._row("D's score", describe(f), f"{how}; {logit[1]}")
            return logit[0], True
        self._row("D's score", describe(f), how)
        if how.startswith("sum of the means"):
            self.warnings.append(
                "D gives a list: read as one score map per scale, their means summed. If one of them is another task's "
                "head, say which counts: Adapter(score=lambda D, x, z, batch: D(x)[0])."
            )
        if may_be_probability(f):
            self.warnings.append(
                "All of D's scores lie in [0, 1] but no final sigmoid was seen. If they are probabilities, give the "
                "logit: Adapter(score=lambda D, x, z, batch: torch.logit(D(x), 1e-6))."
            )
        return (lambda D, x, z, batch: pick(call(D, x, z, batch))), False

    def _call(self, x: Any, guess: Guess, keys: tuple[Any, ...] | None) -> Call:
        """How D is called: ``D(x)``, with its condition, or with a nested x spread over its arguments."""
        required, _ = arguments(self.D)
        theirs = guess.condition
        same = theirs is not None and theirs.keys is not None
        named = [part for part in self.named if not same or theirs is None or part.keys == theirs.keys]
        conditions = conditions_of(self.D, "D", named, keys if keys is not None else ())
        if conditions:
            condition = next((c for c in conditions if theirs is not None and c.text == theirs.text), conditions[0])
            if condition.position is None and guess.condition is None and self.given.latent is None:
                raise CoopInitError(
                    f"D may take labels ({condition.name!r}, optional), but G takes none. Does your loop pass them? "
                    "Say it: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x)), or D(x, batch[1])"
                )
            self._row("D's condition", condition.text, condition.place)
            return lambda D, x, z, batch: condition.call(D, x, condition.take(batch))
        if isinstance(x, (tuple, list)) and len(x) > 1 and len(required) == len(x):
            self._row("D's input", ", ".join(required), "one argument for each part of x")
            return lambda D, x, z, batch: D(*x)
        return lambda D, x, z, batch: D(x)

    def _given_score(self, score: Callable[..., Tensor], x: Any, guess: Guess) -> tuple[Callable[..., Tensor], bool]:
        z = guess.latent(self.n, self.device, self.batch)
        sigmoids = Sigmoids()
        try:
            with recorded(self.D) as record, sigmoids:
                f = score(self.D, fresh(x), fresh(z), self.batch)
        except Exception as error:
            raise CoopInitError(
                f"Adapter.score failed on a real batch, x = {describe(x)}: {first_line(error)}\n"
                "It is called as score(D, x, z, batch), e.g. score=lambda D, x, z, batch: D(x)"
            ) from error
        if not isinstance(f, Tensor) or not f.is_floating_point():
            raise CoopInitError(
                f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample, e.g. "
                "score=lambda D, x, z, batch: D(x)[0]"
            )
        self._finite(f)
        if f.ndim == 2:  # heads or classes, averaged as if they were positions
            one_number(f, self.n, [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)], "D(x)")
        logit = logit_score(score, f, record.ended, sigmoids)
        self._row("D's score", describe(f), "given (score)" + (f"; {logit[1]}" if logit else ""))
        return (logit[0], True) if logit else (score, False)

    def _finite(self, f: Tensor) -> None:
        if not f.requires_grad:
            raise CoopInitError(
                "D's score carries no gradient, so that neither the chain nor D can follow it: does it round, compare "
                "or detach? Give what it does so to: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)"
            )
        if not torch.isfinite(f).all():
            raise CoopInitError(
                "D's logits on the first real batch are not finite. Check D's weights (were they loaded from a run "
                "that had diverged?) and the range of the data."
            )
