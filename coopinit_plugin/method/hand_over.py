"""The hand-over: D's layers back to their size, G slower than D, and D's logits fit for the loss that follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from coopinit_plugin.method.energy_mode import normalisers
from coopinit_plugin.method.fitting import fit
from coopinit_plugin.method.kept import buffers, frozen, kept, training, values
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.layer_sizes import set_sizes
from coopinit_plugin.method.logit_map import Affine, Loss, critic_scale, line_search, unit_scale
from coopinit_plugin.method.output_layers import OutputLayers
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.stopping import GOAL
from coopinit_plugin.method.team import Team

Drawn = tuple[Any, Any, Any]  # (x, z, batch)

SAMPLES = 1024  # real ones, and as many generated ones
BATCHES, FEWEST = 32, 128  # in small batches no more than the 32 first, but 128 samples at least
SLOWER = 64.0  # G's layers before a normalisation, against their size before the warm-up, if it came to its goal
STEADY = 16.0  # the same, if the loss that follows has a gradient penalty, which keeps modes by itself
POSITIONS = 8  # scores that are looked at of each sample's patch map or time series of scores
INVERTED = (
    "D scores real samples below generated ones (means {:.3g} and {:.3g}) and would push G away from the data. Warm up "
    "longer, config=WarmStartConfig(iterations=...), or train D alone before G until real samples score higher."
)


def restored_sizes(pair: Pair, samples: list[Drawn], sizes: list[float]) -> int:
    """Give D's layers the sizes that `layer_sizes` read before the warm-up, if its logits stay as they are.

    They are those of the given samples and of as many generated ones; G and D have to give the same for the same at
    every call. Gives the number of weights that were changed.
    """
    with torch.no_grad():
        fake = [(pair.generate(z), z, batch) for _, z, batch in samples]
    alone = [layer for layer in normalisers(pair.D) if not isinstance(layer, nn.SyncBatchNorm)]  # wait for no process

    def logits(on_own_statistics: bool, drawn: list[Drawn]) -> Tensor:
        """After what the loop does after a step of D; also on the statistics of each batch, as in that loop."""
        with kept(values(pair.D.parameters()), buffers(pair.D), training(*alone)):
            pair.after_d_step()
            for layer in alone if on_own_statistics else ():
                layer.train()
            return _scores(pair, drawn)

    ways = [False, True] if alone else [False]
    changed = set_sizes(pair.D, sizes, [partial(logits, way, drawn) for way in ways for drawn in (samples, fake)])
    if changed:
        pair.after_d_step()
    return changed


def slowed_generator(
    pair: Pair, z: Any, z_again: Any, sizes: list[float], distance: float | None, penalised: bool
) -> int:
    """Make G learn more slowly in the adversarial loop than D: its layers before a normalisation get larger.

    A step of Adam moves a weight by about the learning rate, whatever the weight's size, so a layer that is so many
    times as large turns that much more slowly, while the normalisation after it leaves what G gives as it is. After the
    warm-up G is the one that has more to lose: at the speed that it has from random weights it leaves its modes within
    a hundred iterations, before D has learnt to hold it. The farther the warm-up ended from the data, the less there
    is to lose, and the more G has yet to learn: the factor is `SLOWER` if the warm-up came to its goal, or `STEADY` if
    the loss that follows has a gradient penalty (`penalised`), and falls with the square of the distance, in σ, over
    the goal. If the distance was never read, the warm-up was too short to have come anywhere, and G keeps its speed;
    so does a G that translates, by the latents `z` and `z_again` of one batch.

    `sizes` are those that `layer_sizes` read of G before the warm-up. G's samples of the latents `z` have to stay as
    they are, so G has to give the same for the same at every call. Gives the number of weights that were changed.
    """
    if follows_a_source(z, z_again):
        return 0

    def samples(training_mode: bool) -> Tensor:
        with kept(training(pair.G), buffers(pair.G)):
            pair.G.train(training_mode)
            return torch.cat([leaf.flatten() for leaf in tree_leaves(pair.generate(z))])

    most = STEADY if penalised else SLOWER
    slower = max(1.0, most * min(1.0, (GOAL / distance) ** 2)) if distance else 1.0
    wanted = [slower * size for size in sizes]
    return set_sizes(pair.G, wanted, [partial(samples, True), partial(samples, False)], pass_on=False)


def follows_a_source(z: Any, again: Any) -> bool:
    """Whether G starts from an image or a series that is given, as in translation from one domain to another.

    Such a G has more to learn from the adversarial loop than the data's distribution: what belongs to which source.
    `z` and `again` are drawn for one batch: what is alike in both is no noise.
    """
    pairs = zip(tree_leaves(z), tree_leaves(again), strict=False)  # StyleGAN2 draws one latent or two
    return any(a.ndim > 2 and a.is_floating_point() and torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def hand_over(
    pair: Pair,  # after the warm-up, D in evaluation mode
    still: Pair,  # the same two, which give the same for the same at every call
    few: list[Drawn],  # samples by which the layers that scale and shift the logit are found
    draw: Callable[[], Drawn],  # gives more of them
    kind: str,  # the adversarial loss that follows, "none", or "unit" if it is not known
    loss: Loss | None,  # D's on logits, if the kind has one
    r1: float,  # γ of an R1 penalty on real samples
    team: Team,
) -> tuple[dict[str, Any], list[str]]:
    """Scale and shift D's last layer so that the user's D loss is smallest.

    Gives the map that was applied and how the logits lie now, for the summary; and what the user should know.
    """
    real, fake = _logits(pair, draw, team)
    affine, moved, worries = Affine(1.0, 0.0), "", list[str]()
    if kind != "none":
        asked = kind == "wasserstein" or r1
        norms = team.gather(_gradient_norms(pair, *few[-1], kind)).flatten().cpu().double() if asked else torch.zeros(1)

        def best_map(real: Tensor, fake: Tensor, layers: OutputLayers) -> Affine:
            """The map that suits the loss best, of those that the layers allow."""
            if kind == "wasserstein":
                best = critic_scale(real, fake, norms)
            elif loss is None:
                best = unit_scale(real, fake)
            else:
                penalty = r1 / 2 * float(norms.square().mean())
                best = line_search(loss, real, fake, penalty=penalty, scalable=layers.scales, shiftable=layers.shifts)
            return Affine(best.scale if layers.scales else 1.0, best.shift if layers.shifts else 0.0)

        affine, moved, worries = fit(still, partial(_scores, still, few), real, fake, best_map)
        real, fake = affine.scale * (real + affine.shift), affine.scale * (fake + affine.shift)
    if real.mean() < fake.mean():
        worries.append(INVERTED.format(float(real.mean()), float(fake.mean())))
    return {
        "handover": kind,
        "handover_moved": moved,
        "handover_scale": affine.scale,
        "handover_shift": affine.shift,
        "logit_real_mean": float(real.mean()),
        "logit_real_std": float(real.std(correction=0)),
        "logit_fake_mean": float(fake.mean()),
        "logit_fake_std": float(fake.std(correction=0)),
    }, worries


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


def _gradient_norms(pair: Pair, x: Any, z: Any, batch: Any, kind: str) -> Tensor:
    """‖∇f‖ of each sample: at x, as R1 has it, or half-way between x and G(z), where a critic's gradient penalty looks.

    Of a patch map it is that of the sum of its positions, as penalties on gradients are written.
    """
    inputs, nest = tree_flatten(x)
    with kept(frozen(pair.D), buffers(pair.G, pair.D)):
        if kind == "wasserstein":
            with torch.no_grad():
                inputs = [(a + b) / 2 for a, b in zip(inputs, tree_leaves(pair.generate(z)), strict=True)]
        inputs = [leaf.detach().requires_grad_() for leaf in inputs]
        gradients, _ = input_gradient(lambda moved: pair.logits(moved, z, batch), inputs, nest)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
