"""Find out how a pair of networks is called, prove it by forward passes, and say what was found.

Where two readings are possible nothing is guessed: the error names the hook to give and shows the line to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.calling.adapter import Adapter, fresh, infer_sign
from coopinit_plugin.calling.conditions import arguments, conditions_of
from coopinit_plugin.calling.data import Row, check, given_data, match, mismatch, ranges, refuse_no_data
from coopinit_plugin.calling.latents import Guess, first_layer, guesses, refuse_translation, unknown_latent
from coopinit_plugin.calling.scoring import Scoring
from coopinit_plugin.calling.traits import traits
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.networks import copies, device_of, unwrap
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.energy_mode import likelihood_mode
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import detached, per_sample, release_graphs
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.nests import batch_size, could_be_data, describe, first_line, move, parts

ATTEMPTS = 3  # forward passes of G that the search for what it takes may need
CLEAR = 1.0  # a difference of mean logits that a fresh D does not show
ABSURD = 1e4  # one that no trained D shows: a spectral norm's random vectors, which no training pass has turned yet


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


def look(
    G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter, loss_named: bool = False
) -> Adapter:
    """Complete `given` for networks that are copies; their buffers and modes are put back.

    Where the user has named the loss that follows, D is high on real as that loss has it, and no warning asks for it.
    """
    with kept(buffers(G, D), training(G, D)):
        G.train()
        likelihood_mode(D)
        return _Look(G, D, batch, device, given, loss_named).complete()


class _Look:
    """One look at one pair: what is given, and what has been found so far."""

    def __init__(
        self, G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter, loss_named: bool
    ) -> None:
        self.G, self.D, self.batch, self.device, self.given = G, D, batch, device, given
        self.loss_named = loss_named
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
        x, fake = tree_map(torch.clone, found.real(self.batch)), found.pick(out)  # D may work in place
        self.n = tree_leaves(x)[0].shape[0]
        check(x)
        fake = self._differentiable(fake)
        rows, warnings = ranges(self.G, x, fake, found.name)
        self.rows[1:1] = found.rows + rows
        self.warnings += found.warnings + warnings
        scoring = Scoring(self.D, self.batch, self.n, self.device, self.named, self.given, self.rows, self.warnings)
        score, sigmoid = scoring.found(x, guess, found.keys)
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
            try:
                with recorded(self.G) as record:
                    out = self._run(self.given.generate or guess.generate, z)
            except Exception as error:
                tried.append(f"  G({describe(z)}): {first_line(error)}")
                order = [(call.name, call.module) for call in record.begun]
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
            if misfit is not None:
                raise CoopInitError(mismatch(self.data, list(parts(misfit))) + "\nTried:\n" + "\n".join(tried))
            raise CoopInitError(unknown_latent(self.G, first, conditions, self.data, self.named, tried))
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
        return generate(self.G, fresh(z))

    def _differentiable(self, fake: Any) -> Any:
        """G's sample without its graph, which must have been there."""
        if not any(leaf.requires_grad for leaf in tree_leaves(fake)):
            optional = arguments(self.G)[1]
            more = f", {optional[0]}=True" if optional else ", ..."
            raise CoopInitError(
                "G's output carries no gradient, so that G cannot learn from it: does its forward draw classes, round "
                "or detach? Call it as your loop does in training: "
                f"adapter=coopinit_plugin.Adapter(generate=lambda G, z: G(z{more}))"
            )
        release_graphs(self.G)
        return detached(fake)

    def _fits(self, out: Any, source: tuple[Any, ...] | None) -> bool:
        """Whether some part of G's output has the shape of some part of the data."""
        wanted = {part.tensor.shape for part in self.data if self.given.real is not None or part.keys != source}
        return any(part.tensor.shape in wanted for part in parts(out))

    def _sign(self, sigmoid: bool) -> bool:
        """Whether D is high on real: told by the user's own loss, else as given."""
        if self.given.d_loss is not None:
            high, how = infer_sign(self.given.d_loss), "told by d_loss"
        else:
            high, how = self.given.real_is_high, "assumed"
            if not high:
                how = "given (real_is_high)"
            elif sigmoid or self.loss_named:
                how = "assumed, as after a sigmoid" if sigmoid else "as the loss named in the settings has it"
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
        if CLEAR < float(made.mean() - real.mean()) < ABSURD and float(made.min()) > float(real.max()):
            self.warnings.append(
                f"D scores every sample of G above every real one (mean {float(made.mean()):.2f} against "
                f"{float(real.mean()):.2f}). If D has been trained already, it is low on real: "
                f"Adapter(real_is_high={not adapter.real_is_high})."
            )


def describe_source(guess: Guess) -> str:
    """The batch's tensor that a guess rests on."""
    return guess.how.split(":")[0] if guess.condition is None or guess.condition.keys is None else guess.condition.text
