"""Find out how a pair of networks is called, prove it by forward passes, and say what was found.

Where two readings are possible nothing is guessed: the error names the hook to give and shows the line to write.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.adapter import Adapter, executed, fresh, infer_sign, per_sample
from coopinit_plugin.batch_parts import (
    Part,
    batch_size,
    could_be_data,
    could_be_labels,
    describe,
    first_line,
    get,
    move,
    parts,
)
from coopinit_plugin.batches import Batches
from coopinit_plugin.borrowed import borrowed_randomness, copies, device_of, unwrap
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.latents import Condition, Guess, arguments, condition_of, first_layer, guesses, takes_images
from coopinit_plugin.modes import kept_buffers, kept_modes, likelihood_mode
from coopinit_plugin.scores import Sigmoids, ends_in_sigmoid, logit_score, pick_score
from coopinit_plugin.traits import bounded_output, traits

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
        found = look(G.to(device), D, Batches(loader, device).peek(), device, adapter or Adapter())
    wrapped = [
        (letter, type(module).__name__, f"seen through, to {type(unwrap(module)).__name__}")
        for letter, module in (("wrapper of G", generator), ("wrapper of D", discriminator))
        if unwrap(module) is not module
    ]
    return dataclasses.replace(found, findings=found.findings + tuple(wrapped))


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
        self.data = [part for part in self.named if could_be_data(part) and not could_be_labels(part)]
        self.n = batch_size(batch) or 0
        self.findings: list[tuple[str, str, str]] = []
        self.warnings: list[str] = []

    def complete(self) -> Adapter:
        """The adapter with every hook."""
        if self.given.real is None:
            self._refuse_what_is_no_data()
        else:
            self._given_real()
        guess, generate, out = self._generator()
        real, pick = self._data(out, guess.source)
        x, fake = real(self.batch), pick(out)
        self.n = tree_leaves(x)[0].shape[0]
        self._check_data(x)
        self._ranges(x, fake)
        score, sigmoid = self._discriminator(x, guess)
        high = self._sign(sigmoid)
        adapter = dataclasses.replace(
            self.given,
            real=real,
            latent=guess.latent,
            generate=lambda G, z: pick(generate(G, z)),
            score=score,
            real_is_high=high,
            ends_in_sigmoid=sigmoid,
        )
        self._compare(adapter, x, fake)
        self.findings += traits(self.G, self.D)
        self._found("batch", f"{self.n} samples", "kept throughout; smaller batches are left out")
        return dataclasses.replace(adapter, findings=tuple(self.findings), warnings=tuple(self.warnings))

    def _found(self, what: str, value: str, how: str) -> None:
        self.findings.append((what, value, how))

    # --- the data

    def _refuse_what_is_no_data(self) -> None:
        if not self.named:
            raise CoopInitError(
                f"A batch of your loader is a {type(self.batch).__name__} in which no tensor was found. Say where the "
                'data are: adapter=coopinit_plugin.Adapter(real=lambda batch: batch["image"])'
            )
        if self.data:
            return
        shown = "; ".join(f"{part.name} is {describe(part.tensor)}" for part in self.named)
        whole = [part for part in self.named if part.tensor.ndim >= 3]
        if whole:
            raise CoopInitError(
                f"The data are whole numbers ({shown}), but D and the Langevin chain need floating point in the range "
                "that G produces. Say how your loop scales them, e.g. for a G that ends in tanh: "
                f"adapter=coopinit_plugin.Adapter(real=lambda batch: {whole[0].name}.float() / 127.5 - 1)"
            )
        raise CoopInitError(
            f"No data found in a batch: {shown}. Expected a floating-point tensor of shape (N, ...), such as images "
            "(N, C, H, W); these look like labels. Let the loader yield the data too, or say where they are: "
            "adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0])"
        )

    def _given_real(self) -> None:
        assert self.given.real is not None
        try:
            x = self.given.real(self.batch)
        except Exception as error:
            raise CoopInitError(
                f"Adapter.real failed on a batch, {describe(self.batch)}: {first_line(error)}\n"
                "It is a function of one batch of the loader, e.g. real=lambda batch: batch[0]"
            ) from error
        leaves = tree_leaves(x)
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
            raise CoopInitError(
                f"Adapter.real returned {describe(x)}; expected a floating-point tensor (N, ...) or a nest of such, "
                "in the range that G produces, e.g. real=lambda batch: batch[0].float() / 127.5 - 1"
            )
        self.data = [part._replace(name=part.name.replace("batch", "real(batch)")) for part in parts(x)]
        self.n = leaves[0].shape[0] if leaves[0].ndim else 0

    def _data(self, out: Any, source: tuple[Any, ...] | None) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Which part of the batch is the data, and which of G's output the sample: those of one shape."""
        given = self.given.real
        made = list(parts(out, "out"))
        shapes = [part.tensor.shape for part in self.data]
        if len(made) > 1 and [part.tensor.shape for part in made] == shapes and source is None:
            nest = tree_flatten(given(self.batch) if given else out)[1]
            where = [part.keys for part in self.data]
            self._found("data", ", ".join(describe(part.tensor) for part in self.data), "as G gives them")
            real = given or (lambda batch: tree_unflatten([get(batch, keys) for keys in where], nest))
            return real, (lambda out: tree_unflatten([part.tensor for part in parts(out)], nest))
        fits = [
            (ours, theirs)
            for ours in self.data
            for theirs in made
            if theirs.tensor.shape == ours.tensor.shape and (given is not None or ours.keys != source)
        ]
        if not fits or (given is not None and len(shapes) > 1):
            raise CoopInitError(self._mismatch(made))
        candidates = list(dict.fromkeys(ours.name for ours, _ in fits))
        if len(candidates) > 1:
            raise CoopInitError(
                f"Which tensor of the batch is the data? {' and '.join(candidates)} have the shape of G's output, "
                f"{tuple(fits[0][0].tensor.shape)}. Say it: adapter=coopinit_plugin.Adapter(real=lambda batch: "
                f"{candidates[0]})"
            )
        if len(fits) > 1:
            names = " and ".join(theirs.name for _, theirs in fits)
            raise CoopInitError(
                f"Which part of G's output is the sample? {names} have the data's shape. Say it: "
                f"adapter=coopinit_plugin.Adapter(generate=lambda G, z: G(z)[{fits[0][1].keys[0]!r}])"
            )
        ours, theirs = fits[0]
        how = "given (real)" if given else f"{ours.name}, has the shape of G's output"
        self._found("data", describe(ours.tensor), how)
        if theirs.keys:
            self._found("G's sample", theirs.name, "the part of its output that has the data's shape")
        keys, where_out = ours.keys, theirs.keys
        return given or (lambda batch: get(batch, keys)), (lambda out: get(out, where_out))

    def _mismatch(self, made: list[Part]) -> str:
        gave = ", ".join(str(tuple(part.tensor.shape)) for part in made) or "no tensor"
        have = ", ".join(f"{part.name} {tuple(part.tensor.shape)}" for part in self.data)
        return (
            f"G's output does not match the data: G gave {gave}, the loader gives {have}. D compares the two, so "
            "their shapes must be the same. Resize or reorder the loader's data, or G; or say how your own loop "
            "makes them alike: adapter=coopinit_plugin.Adapter(real=lambda batch: ..., generate=lambda G, z: ...)"
        )

    def _check_data(self, x: Any) -> None:
        for leaf in tree_leaves(x):
            if leaf.ndim < 2:
                raise CoopInitError(
                    f"The data have shape {tuple(leaf.shape)}; expected (N, ...) with at least two dimensions. For one "
                    "number per sample: adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0].unsqueeze(1))"
                )
            if not torch.isfinite(leaf).all():
                raise CoopInitError(
                    f"The data are not finite: {int((~torch.isfinite(leaf)).sum())} of {leaf.numel()} numbers of the "
                    "first batch are NaN or infinite. Clean or drop those samples in the dataset (torch.nan_to_num)."
                )
            if leaf.numel() and float(leaf.max()) == float(leaf.min()):
                raise CoopInitError(
                    f"The data are constant: every number of the first batch is {float(leaf.max()):g}. There is "
                    "nothing to learn from it; check the loader's transforms and its scaling."
                )

    def _ranges(self, x: Any, fake: Any) -> None:
        for ours, theirs in zip(tree_leaves(fake), tree_leaves(x), strict=True):
            low, high = float(theirs.min()), float(theirs.max())
            start = f"G starts at [{float(ours.min()):.3g}, {float(ours.max()):.3g}]"
            self._found("range", f"[{low:.3g}, {high:.3g}]", f"of the data; {start}")
        bound = bounded_output(self.G)
        if bound is None or len(tree_leaves(x)) > 1:
            return
        name, bottom, top = bound
        spans = f"G's output spans [{bottom:g}, {top:g}] ({name}), your data"
        if low < bottom - 0.01 * (top - bottom) or high > top + 0.01 * (top - bottom):
            self.warnings.append(
                f"{spans} [{low:.3g}, {high:.3g}]: G can never reach them. Scale the data as your loop does, e.g. "
                "Adapter(real=lambda batch: batch[0] / 127.5 - 1)."
            )
        elif bottom < 0 <= low:
            self.warnings.append(
                f"{spans} only [{low:.3g}, {high:.3g}]. If your loop scales them first, say so: "
                "Adapter(real=lambda batch: batch[0] * 2 - 1)."
            )

    # --- the generator

    def _generator(self) -> tuple[Guess, Callable[[nn.Module, Any], Any], Any]:
        """(What G takes, how it is called, its output), proved by a forward pass."""
        generate = self.given.generate or call_generator
        if self.given.latent is not None:
            guess = Guess(self.given.latent, "given (latent)")
            z = move(guess.latent(self.n, self.device, self.batch), self.device)
            try:
                out = self._run(generate, z)
            except Exception as error:
                raise CoopInitError(
                    f"G ({type(self.G).__name__}) does not take {describe(z)}: {first_line(error)}\nGive what your "
                    "loop passes to it: adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: ..., "
                    "generate=lambda G, z: G(z))"
                ) from error
            self._found("latent", describe(z), guess.how)
            return guess, generate, out
        condition = None if self.given.generate is not None else condition_of(self.G, "G", self.named)
        tried: list[str] = []
        works: list[tuple[Guess, Any]] = []
        misfit: Any = None
        for guess in list(guesses(self.G, self.named, condition))[:ATTEMPTS]:
            z = guess.latent(self.n, self.device, self.batch)
            try:
                out = self._run(generate, z)
            except Exception as error:
                tried.append(f"  G({describe(z)}): {first_line(error)}")
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
                raise CoopInitError(self._mismatch(list(parts(misfit))))
            raise CoopInitError(self._unknown_latent(tried))
        sources = [guess for guess, _ in works if guess.source is not None]
        if len(sources) > 1 or (sources and len(works) > len(sources)):
            raise CoopInitError(
                f"Which tensor of the batch does G translate? {' and '.join(g.how.split(':')[0] for g in sources)} go "
                "through it. Say it, e.g. adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: batch['A'], "
                "real=lambda batch: batch['B'])"
            )
        guess, out = works[0]
        z = guess.latent(self.n, self.device, self.batch)
        self._found("latent" if guess.source is None else "source", describe(z), guess.how)
        if condition is not None:
            self._found("G's condition", condition[1].text, f"argument {condition[0] + 1} of its forward")
        return guess, generate, out

    def _unknown_latent(self, tried: list[str]) -> str:
        first = first_layer(self.G)
        if first is not None and takes_images(first, self.data) and not tried:
            why = f" Its first layer, {first[2]}, takes images like the data: which, or noise of that shape?"
        elif len(arguments(self.G)[0]) > 1 and not tried:
            why = f" Its forward needs {', '.join(arguments(self.G)[0])}."
        else:
            why = "" if tried else " No size was found in its attributes or first layer."
        lines = "\nTried:\n" + "\n".join(tried) if tried else ""
        return (
            f"What does G ({type(self.G).__name__}) take?{why}{lines}\nSay what your loop passes to it, e.g. "
            "adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: torch.randn(n, 100, device=device))"
        )

    def _run(self, generate: Callable[[nn.Module, Any], Any], z: Any) -> Any:
        with torch.no_grad():
            return generate(self.G, fresh(z))

    def _fits(self, out: Any, source: tuple[Any, ...] | None) -> bool:
        """Whether some part of G's output has the shape of some part of the data."""
        wanted = {part.tensor.shape for part in self.data if self.given.real is not None or part.keys != source}
        return any(part.tensor.shape in wanted for part in parts(out))

    # --- the discriminator

    def _discriminator(self, x: Any, guess: Guess) -> tuple[Callable[..., Tensor], bool]:
        """(score, whether D ends in a sigmoid), proved by a forward pass."""
        if self.given.score is not None:
            return self._given_score(x, guess), False
        condition = condition_of(self.D, "D", self.named)
        call = call_discriminator(condition)
        seen: list[tuple[str, nn.Module, Any, Any]] = []
        sigmoids = Sigmoids()
        try:
            with executed(self.D, seen), sigmoids:
                out = call(self.D, fresh(x), self.batch)
        except Exception as error:
            raise CoopInitError(
                f"D ({type(self.D).__name__}) does not take the data {describe(x)}: {first_line(error)}\n"
                "Show how your loop calls it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: "
                "D(x, batch[1])) or, where D sees a condition beside x, D(torch.cat([batch['A'], x], 1))"
            ) from error
        pick, how = pick_score(out, self.n, [tuple(leaf.shape[1:]) for leaf in tree_leaves(x)])
        f = pick(out)
        self._finite(f)
        if condition is not None:
            self._found("D's condition", condition[1].text, f"argument {condition[0] + 1} of its forward")
        if ends_in_sigmoid(f):
            score, logit = logit_score(call, f, seen, sigmoids.taken)
            self._found("D's score", describe(f), f"{how}; {logit}")
            return score, True
        self._found("D's score", describe(f), how)
        f = f.detach()
        if f.numel() > 1 and float(f.min()) >= 0 and 0 < float(f.max()) <= 1:
            self.warnings.append(
                "All of D's scores lie in [0, 1] but no sigmoid was seen. If they are probabilities, give the logit: "
                "Adapter(score=lambda D, x, z, batch: torch.logit(D(x), 1e-6))."
            )
        return (lambda D, x, z, batch: pick(call(D, x, batch))), False

    def _given_score(self, x: Any, guess: Guess) -> Callable[..., Tensor]:
        score = self.given.score
        assert score is not None
        z = guess.latent(self.n, self.device, self.batch)
        try:
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
        self._found("D's score", describe(f), "given (score)")
        if ends_in_sigmoid(f):
            self.warnings.append(
                "Adapter.score returns a probability, whose gradient dies where D is sure. Return the logit, e.g. "
                "torch.logit(D(x), 1e-6), or leave score out: a final sigmoid is seen through."
            )
        return score

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


def call_generator(G: nn.Module, z: Any) -> Any:
    """``G(*z)`` for a tuple, else ``G(z)``."""
    return G(*z) if isinstance(z, tuple) else G(z)


def call_discriminator(condition: tuple[int, Condition] | None) -> Callable[[nn.Module, Any, Any], Any]:
    """``D(x)``, with the condition where it belongs."""
    if condition is None:
        return lambda D, x, batch: D(x)
    position, labels = condition
    if position == 0:
        return lambda D, x, batch: D(labels.take(batch), x)
    return lambda D, x, batch: D(x, labels.take(batch))
