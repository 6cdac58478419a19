"""Find out how a pair of networks is called, prove it by forward passes, and say what was found.

Where two readings are possible nothing is guessed: the error names the hook to give and shows the line to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.adapter import Adapter, executed, fresh, infer_sign, per_sample
from coopinit_plugin.batch_parts import batch_size, could_be_data, describe, first_line, move, parts
from coopinit_plugin.batches import Batches
from coopinit_plugin.borrowed import copies, device_of, unwrap
from coopinit_plugin.conditions import arguments, conditions_of
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.latents import Guess, entered, first_layer, guesses, refuse_translation, unknown_latent
from coopinit_plugin.modes import kept_buffers, kept_modes, likelihood_mode
from coopinit_plugin.randomness import borrowed_randomness
from coopinit_plugin.samples import Row, check, given_data, match, mismatch, ranges, refuse_no_data
from coopinit_plugin.scores import Call, Sigmoids, logit_score, pick_score, refused_input
from coopinit_plugin.traits import traits

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need
CLEAR = 1.0  # a difference of mean logits that a fresh D does not show


def inspect(generator: nn.Module, discriminator: nn.Module, loader: Any, *, adapter: Adapter | None = None) -> Adapter:
    """Run one small batch through both networks and report how they are called. Nothing is changed.

    Args:
        generator: G.
        discriminator: D.
        loader: Any iterable of batches; one batch is taken.
        adapter: Hooks already known; the others are inferred.

    Returns:
        A complete adapter; ``print`` it for the table of what was found, how, and the warnings.

    Raises:
        CoopInitError: where something cannot be known; the message shows the line to write.
    """
    with torch.inference_mode(False), torch.enable_grad(), borrowed_randomness(0, loader):
        G, D = copies(generator, discriminator)
        device = device_of(D) or torch.device("cpu")
        batches = Batches(loader, device)
        found = look(G.to(device), D, batches.peek(), device, adapter or Adapter())
    rows = list(found.findings)
    if batches.once:
        rows.append(("loader", f"{type(loader).__name__}, an iterator", "this batch was taken out of it"))
    for letter, module in (("G", generator), ("D", discriminator)):
        if unwrap(module) is not module:
            rows.append(
                (f"wrapper of {letter}", type(module).__name__, f"seen through, to {type(unwrap(module)).__name__}")
            )
        if not any(parameter.requires_grad for parameter in module.parameters()):
            rows.append((f"{letter}'s flags", "all frozen", "trained in the warm-up all the same; the flags stay"))
    return dataclasses.replace(found, findings=tuple(rows))


def look(G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter) -> Adapter:
    """Complete `given` for networks that are copies; their buffers and modes are put back."""
    with kept_buffers(G, D), kept_modes(G, D):
        G.train()
        likelihood_mode(D)
        return _Look(G, D, batch, device, given).complete()


class _Look:
    """One look at one pair: what is given, and what has been found so far."""

    def __init__(self, G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter) -> None:
        self.G, self.D, self.batch, self.device, self.given = G, D, batch, device, given
        self.named = list(parts(batch))
        self.data = [part for part in self.named if could_be_data(part)]
        self.n = batch_size(batch) or 0
        self.given_x: Any = None
        self.target_known = False  # the user named one tensor of the batch as it is
        self.rows: list[Row] = []
        self.warnings: list[str] = []

    def complete(self) -> Adapter:
        """The adapter with every hook."""
        self._found("batch", describe(self.batch), "of the loader")
        self._given()
        guess, generate, out = self._generator()
        found = match(self.data, out, guess.source, self.given.real, self.given_x)
        x, fake = found.real(self.batch), found.pick(out)
        self.n = tree_leaves(x)[0].shape[0]
        check(x)
        rows, warnings = ranges(self.G, x, fake)
        self.rows[1:1] = found.rows + rows
        self.warnings += found.warnings + warnings
        score, sigmoid = self._discriminator(x, guess, found.keys)
        high = self._sign(sigmoid)
        pick = found.pick
        adapter = dataclasses.replace(
            self.given,
            real=found.real,
            latent=guess.latent,
            generate=lambda G, z: pick(generate(G, z)),
            score=score,
            real_is_high=high,
            ends_in_sigmoid=sigmoid,
        )
        self._compare(adapter, x, fake)
        self.rows += traits(self.G, self.D)
        self._found("batch rule", f"{self.n} samples", "kept throughout; smaller batches are left out")
        return dataclasses.replace(adapter, findings=tuple(self.rows), warnings=tuple(self.warnings))

    def _found(self, what: str, value: str, how: str) -> None:
        self.rows.append((what, value, how))

    def _given(self) -> None:
        """What `real` makes of the batch; without it, the batch's tensors that may be the data."""
        if self.given.real is None:
            refuse_no_data(self.batch, self.named, self.data)
            return
        self.given_x = move(given_data(self.given.real, self.batch), None)
        self.data = [part._replace(name=part.name.replace("batch", "real(batch)")) for part in parts(self.given_x)]
        self.n = batch_size(self.given_x) or 0
        own = {id(part.tensor) for part in self.data}
        others = [part for part in self.named if id(part.tensor) not in own]
        self.target_known, self.named = len(others) < len(self.named), others

    # --- the generator

    def _generator(self) -> tuple[Guess, Callable[[nn.Module, Any], Any], Any]:
        """(What G takes, how it is called, its output), proved by a forward pass."""
        if self.given.latent is not None:
            return self._given_latent(self.given.latent)
        known = () if self.target_known else None
        conditions = [] if self.given.generate is not None else conditions_of(self.G, "G", self.named, known)
        first = first_layer(self.G.named_modules())
        waiting = guesses(self.G, first, self.named, conditions, self.data, self.target_known)
        tried: list[str] = []
        works: list[tuple[Guess, Any]] = []
        misfit: Any = None
        while len(tried) + len(works) < ATTEMPTS and (guess := next(waiting, None)) is not None:
            if works and guess.source is None:
                break
            z = guess.latent(self.n, self.device, self.batch)
            order: list[tuple[str, nn.Module]] = []
            try:
                with entered(self.G, order):
                    out = self._run(self.given.generate or guess.generate, z)
            except Exception as error:
                tried.append(f"  G({describe(z)}): {first_line(error)}")
                ran = first_layer(order[1:]) or (first_layer(order[-1][1].named_modules()) if order else None)
                if ran is not None and first is not None and ran[0] is not first[0]:  # it was not registered first
                    first = ran
                    waiting = guesses(self.G, first, self.named, conditions, self.data, self.target_known)
                continue
            if not self._fits(out, guess.source):
                tried.append(f"  G({describe(z)}) gave {describe(out)}")
                misfit = out
                continue
            works.append((guess, out))
            if guess.source is None:
                break
        if not works:
            if misfit is not None and len(tried) == sum(" gave " in line for line in tried):
                raise CoopInitError(mismatch(self.data, list(parts(misfit))))
            raise CoopInitError(unknown_latent(self.G, first, conditions, self.data, tried))
        if len(works) > 1:
            names = [describe_source(guess).split(",")[0] for guess, _ in works]
            raise CoopInitError(
                f"Which tensor of the batch does G take? {' and '.join(names)} go through it. Say it, e.g. adapter="
                f"coopinit_plugin.Adapter(latent=lambda n, device, batch: {names[0]}), or say which is the data: "
                f"Adapter(real=lambda batch: {names[1]})"
            )
        guess, out = works[0]
        z = guess.latent(self.n, self.device, self.batch)
        if guess.source is None and not guess.named_noise:
            refuse_translation(self.named, self.data, self.given.real is not None, z, out)
        noise = z[0] if guess.condition is not None else z
        self._found("latent" if " normal " in guess.how else "source", describe(noise), guess.how)
        if guess.condition is not None:
            self._found("G's condition", guess.condition.text, guess.condition.place)
        return guess, self.given.generate or guess.generate, out

    def _given_latent(
        self, latent: Callable[[int, torch.device, Any], Any]
    ) -> tuple[Guess, Callable[[nn.Module, Any], Any], Any]:
        try:
            z = move(latent(self.n, self.device, self.batch), self.device)
        except Exception as error:
            raise CoopInitError(
                f"Adapter.latent failed on a batch, {describe(self.batch)}: {first_line(error)}\n"
                "It is called as latent(n, device, batch), e.g. "
                "latent=lambda n, device, batch: torch.randn(n, 100, device=device)"
            ) from error
        guess = Guess(latent, "given (latent)")
        generate = self.given.generate or guess.generate
        try:
            out = self._run(generate, z)
        except Exception as error:
            raise CoopInitError(
                f"G ({type(self.G).__name__}) does not take {describe(z)}: {first_line(error)}\nGive what your "
                "loop passes to it: adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: ..., "
                "generate=lambda G, z: G(z))"
            ) from error
        self._found("latent", describe(z), guess.how)
        own = {id(leaf) for leaf in tree_leaves(z)}
        if self.given.real is None:  # what G translates is not the data
            self.data = [part for part in self.data if id(part.tensor) not in own]
        return guess, generate, out

    def _run(self, generate: Callable[[nn.Module, Any], Any], z: Any) -> Any:
        with torch.no_grad():
            return generate(self.G, fresh(z))

    def _fits(self, out: Any, source: tuple[Any, ...] | None) -> bool:
        """Whether some part of G's output has the shape of some part of the data."""
        wanted = {part.tensor.shape for part in self.data if self.given.real is not None or part.keys != source}
        return any(part.tensor.shape in wanted for part in parts(out))

    # --- the discriminator

    def _discriminator(self, x: Any, guess: Guess, keys: tuple[Any, ...] | None) -> tuple[Callable[..., Tensor], bool]:
        """(score, whether D ends in a sigmoid), proved by a forward pass."""
        if self.given.score is not None:
            return self._given_score(self.given.score, x, guess)
        call = self._call(x, guess, keys)
        seen: list[tuple[str, nn.Module, Any, Any]] = []
        sigmoids = Sigmoids()
        try:
            with executed(self.D, seen), sigmoids:
                out = call(self.D, fresh(x), None, self.batch)
        except Exception as error:
            why, line = refused_input(self.D, x, self.n, error)
            raise CoopInitError(
                f"D ({type(self.D).__name__}) does not take the data {describe(x)}: {first_line(error)}\n{why}"
                f"Show how your loop calls it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: {line}"
            ) from error
        unit = all(float(leaf.min()) >= 0 and float(leaf.max()) <= 1 for leaf in tree_leaves(x))
        pick, how = pick_score(out, self.n, [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)], unit)
        f = pick(out)
        self._finite(f)
        logit = logit_score(call, f, seen, sigmoids)
        if logit is not None:
            self._found("D's score", describe(f), f"{how}; {logit[1]}")
            return logit[0], True
        self._found("D's score", describe(f), how)
        if how.startswith("sum of the means"):
            self.warnings.append(
                "D gives a list: read as one score map per scale, their means summed. If one of them is another task's "
                "head, say which counts: Adapter(score=lambda D, x, z, batch: D(x)[0])."
            )
        f = f.detach()
        if f.numel() > 1 and float(f.min()) >= 0 and 0 < float(f.max()) <= 1:
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
            condition = conditions[0]
            if condition.position is None and guess.condition is None and self.given.latent is None:
                raise CoopInitError(
                    f"D may take labels ({condition.name!r}, optional), but G takes none. Does your loop pass them? "
                    "Say it: adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x)), or D(x, batch[1])"
                )
            self._found("D's condition", condition.text, condition.place)
            return lambda D, x, z, batch: condition.call(D, x, condition.take(batch))
        if isinstance(x, (tuple, list)) and len(x) > 1 and len(required) == len(x):
            self._found("D's input", ", ".join(required), "one argument for each part of x")
            return lambda D, x, z, batch: D(*x)
        return lambda D, x, z, batch: D(x)

    def _given_score(self, score: Callable[..., Tensor], x: Any, guess: Guess) -> tuple[Callable[..., Tensor], bool]:
        z = guess.latent(self.n, self.device, self.batch)
        seen: list[tuple[str, nn.Module, Any, Any]] = []
        sigmoids = Sigmoids()
        try:
            with executed(self.D, seen), sigmoids:
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
        logit = logit_score(score, f, seen, sigmoids)
        self._found("D's score", describe(f), "given (score)" + (f"; {logit[1]}" if logit else ""))
        return (logit[0], True) if logit else (score, False)

    def _finite(self, f: Tensor) -> None:
        if not torch.isfinite(f).all():
            raise CoopInitError(
                "D's logits on the first real batch are not finite. Check D's weights (were they loaded from a run "
                "that had diverged?) and the range of the data."
            )

    def _sign(self, sigmoid: bool) -> bool:
        """Whether D is high on real: told by the user's own loss, else as given."""
        if self.given.d_loss is not None:
            high, how = infer_sign(self.given.d_loss), "told by d_loss"
        else:
            high = self.given.real_is_high
            how = "given (real_is_high)" if not high else "assumed, as after a sigmoid" if sigmoid else "assumed"
        self._found("sign", "real is high" if high else "real is low", how)
        if how == "assumed":
            self.warnings.append(
                "I cannot know whether D is high on real: assumed yes. Check with "
                "coopinit_plugin.infer_sign(your_d_loss), or give Adapter(d_loss=your_d_loss)."
            )
        return high

    @torch.no_grad()
    def _compare(self, adapter: Adapter, x: Any, fake: Any) -> None:
        """See whether D has already been trained the other way round."""
        assert adapter.score is not None
        assert adapter.latent is not None
        z = adapter.latent(self.n, self.device, self.batch)
        real, made = (
            per_sample(adapter.score(self.D, fresh(nest), fresh(z), self.batch), self.n) for nest in (x, fake)
        )
        if not adapter.real_is_high:
            real, made = -real, -made
        if float(made.mean() - real.mean()) > CLEAR and float(made.min()) > float(real.max()):
            self.warnings.append(
                f"D scores every sample of G above every real one (mean {float(made.mean()):.2f} against "
                f"{float(real.mean()):.2f}). If D has been trained already, it is low on real: "
                f"Adapter(real_is_high={not adapter.real_is_high})."
            )


def describe_source(guess: Guess) -> str:
    """The batch's tensor that a guess rests on."""
    return guess.how.split(":")[0] if guess.condition is None or guess.condition.keys is None else guess.condition.text
