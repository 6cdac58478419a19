"""The hand-over: D's layers back to their size, and its logits made fit for the adversarial loss that follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.method.energy_mode import likelihood_mode, normalisers
from coopinit_plugin.method.kept import buffers, frozen, kept, training
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.layer_sizes import set_sizes
from coopinit_plugin.method.logit_map import Affine, Loss, critic_scale, line_search, unit_scale
from coopinit_plugin.method.output_layers import OutputLayers, find_output_layers
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.team import Team

Drawn = tuple[Any, Any, Any]  # (x, z, batch)

SAMPLES = 1024  # real ones, and as many generated ones
BATCHES, FEWEST = 32, 128  # in small batches no more than the 32 first, but 128 samples at least
SLOWER = 16.0  # G's layers before a normalisation, against their size before the warm-up
POSITIONS = 8  # scores that are looked at of each sample's patch map or time series of scores
UNKNOWN = (
    "Which adversarial loss follows is not known, so D's logits get standard deviation 1, which suits none best. Say "
    'it by one word, config=WarmStartConfig(handover="logistic") (or "hinge", "least_squares", "wasserstein", '
    '"relativistic"), or give yours, adapter=Adapter(d_loss=lambda f_real, f_fake: ...).'
)


class HandedOver(NamedTuple):
    """What was done.

    Attributes:
        summary: The map that was applied and how the logits lie now.
        worries: What the user should know.
    """

    summary: dict[str, Any]
    worries: list[str]


def restored_sizes(pair: Pair, samples: list[Drawn], sizes: list[float]) -> int:
    """Give D's layers the sizes they had, judged by its logits of the given samples and of as many generated ones.

    Args:
        pair: G and D after the warm-up.
        samples: Real samples, with latents.
        sizes: What :func:`coopinit_plugin.method.layer_sizes.layer_sizes` said before the warm-up.

    Returns:
        The number of weights that were changed.
    """
    with torch.no_grad(), kept(buffers(pair.G)):
        fake = [(pair.generate(z), z, batch) for _, z, batch in samples]
    alone = [layer for layer in normalisers(pair.D) if not isinstance(layer, nn.SyncBatchNorm)]  # wait for no process

    def on_own_statistics(pair: Pair, drawn: list[Drawn]) -> Tensor:
        """On the statistics of each batch, as in the adversarial loop."""
        with kept(training(*alone), buffers(*alone)):
            for layer in alone:
                layer.train()
            return _scores(pair, drawn)

    ways = [_scores, on_own_statistics] if alone else [_scores]
    with kept(training(pair.D)):
        likelihood_mode(pair.D)
        return set_sizes(pair.D, sizes, [partial(way, pair, drawn) for way in ways for drawn in (samples, fake)])


def slowed_generator(pair: Pair, z: Any, sizes: list[float]) -> int:
    """Make G learn more slowly in the adversarial loop than D: its layers before a normalisation get larger.

    A step of Adam moves a weight by about the learning rate, whatever the weight's size, so a layer that is `SLOWER`
    times as large turns that much more slowly, while the normalisation after it leaves what G gives as it is. After the
    warm-up G is the one that has more to lose: at the speed that it has from random weights it leaves its modes within
    a hundred iterations, before D has learnt to hold it.

    Args:
        pair: G and D after the warm-up.
        z: Latents by which it is judged that G's samples stay.
        sizes: What :func:`coopinit_plugin.method.layer_sizes.layer_sizes` said of G before the warm-up.

    Returns:
        The number of weights that were changed.
    """

    def samples(training_mode: bool) -> Tensor:
        with kept(training(pair.G), buffers(pair.G)), torch.random.fork_rng():
            torch.manual_seed(0)  # a G with noise of its own gives the same samples again
            pair.G.train(training_mode)
            return torch.cat([leaf.flatten() for leaf in tree_leaves(pair.generate(z))])

    wanted = [SLOWER * size for size in sizes]
    return set_sizes(pair.G, wanted, [partial(samples, True), partial(samples, False)], pass_on=False)


def hand_over(
    pair: Pair,
    few: list[Drawn],
    draw: Callable[[], Drawn],
    kind: str,
    loss: Loss | None,
    r1: float,
    team: Team,
) -> HandedOver:
    """Scale and shift D's last layer so that the user's D loss is smallest.

    Args:
        pair: G and D after the warm-up; D's last layer changes.
        few: Samples by which the layers that scale and shift the logit are found.
        draw: Gives more of them.
        kind: The adversarial loss that follows, ``"none"``, or ``"unit"`` if it is not known.
        loss: D's loss ``(f_real, f_fake) -> loss`` on logits, if the kind has one.
        r1: γ of an R1 penalty on real samples.
        team: The processes that share the samples.
    """
    real, fake = _logits(pair, draw, team)
    affine, moved, worries = Affine(1.0, 0.0), "", []
    if kind != "none":
        layers = _output_layers(pair, few)
        affine = _best_map(pair, few[-1], layers, (real, fake), kind, loss, r1, team)
        layers.apply(affine)
        real, fake = affine.scale * (real + affine.shift), affine.scale * (fake + affine.shift)
        moved = " and ".join(["scale"] * layers.scales + ["shift"] * layers.shifts)
        if loss is None and kind != "wasserstein":
            worries.append(UNKNOWN)
        if not moved:
            worries.append(
                "No layer of D's alone was found that scales or shifts its logits (spectral norm and no bias, or G's "
                f"layer, too?): they stay as the warm-up left them, of standard deviation {float(real.std()):.2g}."
            )
    summary = {
        "handover": kind,
        "handover_moved": moved,
        "handover_scale": affine.scale,
        "handover_shift": affine.shift,
        "logit_real_mean": float(real.mean()),
        "logit_real_std": float(real.std(correction=0)),
        "logit_fake_mean": float(fake.mean()),
        "logit_fake_std": float(fake.std(correction=0)),
    }
    return HandedOver(summary, worries)


def _output_layers(pair: Pair, few: list[Drawn]) -> OutputLayers:
    """Those of D alone, not of a G that shares layers with it."""
    with kept(training(pair.D)):
        likelihood_mode(pair.D)
        return find_output_layers(pair.D, lambda: _scores(pair, few)).without(pair.G.parameters())


def _best_map(
    pair: Pair,
    drawn: Drawn,
    layers: OutputLayers,
    logits: tuple[Tensor, Tensor],
    kind: str,
    loss: Loss | None,
    r1: float,
    team: Team,
) -> Affine:
    """The map that suits the loss best, of those that the layers allow."""
    x, z, batch = drawn
    real, fake = logits
    if kind == "wasserstein":
        norms = _gradient_norms(pair, _between(pair, x, z), z, batch)
        best = critic_scale(real, fake, team.gather(norms).flatten().cpu().double())
    elif loss is None:
        best = unit_scale(real, fake)
    else:
        penalty = 0.0
        if r1 and layers.scales:
            penalty = r1 / 2 * float(team.gather(_gradient_norms(pair, x, z, batch).square()).mean())
        best = line_search(loss, real, fake, penalty=penalty, scalable=layers.scales, shiftable=layers.shifts)
    return Affine(best.scale if layers.scales else 1.0, best.shift if layers.shifts else 0.0)


def _scores(pair: Pair, samples: list[Drawn]) -> Tensor:
    """D's logits of all samples, ``(N,)``."""
    return torch.cat([pair.score(*drawn) for drawn in samples])


def _logits(pair: Pair, draw: Callable[[], Drawn], team: Team) -> tuple[Tensor, Tensor]:
    """D's logits of up to about a thousand real and as many generated samples, in training mode as in the loop to come.

    They are not averaged over a patch map: the user's loss is taken at each position.
    """
    real: list[Tensor] = []
    fake: list[Tensor] = []
    with torch.no_grad(), kept(training(pair.D), buffers(pair.G, pair.D)):
        pair.D.train()
        found = 0
        while found < FEWEST or (found < SAMPLES and len(real) < BATCHES):
            x, z, batch = draw()
            real.append(_thinned(pair.logits(x, z, batch)))
            fake.append(_thinned(pair.logits(pair.generate(z), z, batch)))
            found += len(real[-1]) * team.count
    rows = team.gather(torch.stack([torch.cat(real).flatten(), torch.cat(fake).flatten()])).transpose(0, 1).flatten(1)
    return rows[0].cpu().double(), rows[1].cpu().double()


def _thinned(f: Tensor) -> Tensor:
    """At most `POSITIONS` scores of each sample, spread evenly over its map."""
    if f.ndim < 2:
        return f.flatten()
    rows = f.flatten(1)
    return rows[:, :: -(-rows.shape[1] // POSITIONS)]


def _between(pair: Pair, x: Any, z: Any) -> Any:
    """Samples half-way between real and generated ones, where a critic's gradient penalty looks."""
    with torch.no_grad(), kept(buffers(pair.G)):
        fake = pair.generate(z)
    real, nest = tree_flatten(x)
    return tree_unflatten([(a + b) / 2 for a, b in zip(real, tree_leaves(fake), strict=True)], nest)


def _gradient_norms(pair: Pair, samples: Any, z: Any, batch: Any) -> Tensor:
    """‖∇f‖ of each sample; of a patch map, that of the sum of its positions, as penalties on gradients are written."""
    leaves, nest = tree_flatten(samples)
    inputs = [leaf.detach().requires_grad_() for leaf in leaves]
    with kept(training(pair.D), frozen(pair.D)):
        likelihood_mode(pair.D)
        gradients, _ = input_gradient(lambda moved: pair.logits(moved, z, batch), inputs, nest)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
