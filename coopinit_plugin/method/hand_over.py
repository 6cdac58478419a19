"""The hand-over: D's logits made fit for the adversarial loss that follows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from coopinit_plugin.method.kept import buffers, frozen, kept, training, values
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.logit_map import Affine, Loss, critic_scale, line_search, unit_scale
from coopinit_plugin.method.output_layers import alike, find_output_layers
from coopinit_plugin.method.pair import Pair, Team

Drawn = tuple[Any, Any, Any]  # (x, z, batch)
Best = Callable[[Tensor, Tensor, bool, bool], Affine]  # of logits of real and generated samples; what may move

SAMPLES = 1024  # real ones, and as many generated ones
BATCHES, FEWEST = 32, 128  # in small batches no more than the 32 first, but 128 samples at least
POSITIONS = 8  # scores that are looked at of each sample's patch map or time series of scores
COARSE = 1e-3  # relative rounding of the logits from which on they are not single precision
HALVINGS = 8

INVERTED = (
    "D scores real samples below generated ones (means {:.3g} and {:.3g}) and would push G away from the data. Warm up "
    "longer, config=WarmStartConfig(iterations=...), or train D alone before G until real samples score higher."
)
TURNED = (
    "After the warm-up D scored real samples below generated ones (means {:.3g} and {:.3g}), so its last layer was "
    'turned round: real is high now. After more than a few iterations look at result.plot("report.png") first.'
)
TAKEN_BACK = (
    "adapter.after_d_step (or what follows D's last layer) takes back what would suit the loss best: D's logits were "
    "scaled by {:.3g} and shifted by {:.3g}, the most that it leaves, and not by {:.3g} and {:.3g}."
)
UNSTEADY = (
    "D's score of the same samples differs between two calls with the same random state and buffers. No layer could be "
    "proved to scale or shift its logits: they stay as the warm-up left them, of standard deviation {:.2g}. Give the "
    "score without what changes it, adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: ...)."
)
NONE_FOUND = (
    "No layer of D's alone was found that scales or shifts its logits ({}spectral norm and no bias, a bound such as "
    "tanh after the last layer, noise that changes from call to call, or G's layer, too?): they stay as the warm-up "
    "left them, of standard deviation {:.2g}."
)


def hand_over(
    pair: Pair,  # after the warm-up, D in evaluation mode
    still: Pair,  # the same two, which give the same for the same at every call
    probes: list[Drawn],  # samples by which the layers that scale and shift the logit are found
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
    affine, moved, worries = Affine(), "", list[str]()
    if kind != "none":
        norms = torch.zeros(1)
        if kind == "wasserstein" or r1:
            norms = team.gather(_gradient_norms(pair, *probes[-1], kind)).flatten().cpu().double()

        def best(real: Tensor, fake: Tensor, scalable: bool, shiftable: bool) -> Affine:
            if kind == "wasserstein":
                found = critic_scale(real, fake, norms)
            elif loss is None:
                found = unit_scale(real, fake)
            else:
                penalty = r1 / 2 * float(norms.square().mean())
                found = line_search(loss, real, fake, penalty=penalty, scalable=scalable, shiftable=shiftable)
            return Affine(found.scale if scalable else 1.0, found.shift if shiftable else 0.0)

        affine, moved, worries = _fitted(still, probes, real, fake, best)
        real, fake = affine(real), affine(fake)
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


@torch.no_grad()
def _fitted(pair: Pair, probes: list[Drawn], real: Tensor, fake: Tensor, best: Best) -> tuple[Affine, str, list[str]]:
    """Write the best map into D's last layers, or the largest share that holds there; turn an inverted D round."""

    def f() -> Tensor:
        return torch.cat([pair.score(*drawn) for drawn in probes])

    layers = find_output_layers(pair.D, f, [*pair.G.parameters()])
    scalable, shiftable = bool(layers.scaled), layers.shifted is not None

    def after_a_step(affine: Affine) -> Tensor:  # what the loop does then, such as clipping, may take the map back
        with kept(values(pair.D.parameters()), buffers(pair.D)):
            layers.apply(affine)
            pair.after_d_step()
            return f()

    before = after_a_step(Affine())

    def holds(affine: Affine) -> bool:
        return alike(after_a_step(affine), affine(before), layers.rounding)

    sign = -1.0 if real.mean() < fake.mean() and scalable and holds(Affine(-1.0)) else 1.0
    whole = best(sign * real, sign * fake, scalable, shiftable)
    scale, shift = sign * whole.scale, sign * whole.shift
    worries = [TURNED.format(float(real.mean()), float(fake.mean()))] if sign < 0 else []
    if not holds(Affine(scale, shift)):
        if not holds(Affine()):
            return Affine(), "", [UNSTEADY.format(float(real.std()))]
        scale = sign * whole.scale ** _largest_share(lambda share: holds(Affine(sign * whole.scale**share)))
        shift = best(scale * real, scale * fake, False, shiftable).shift / scale
        shift *= _largest_share(lambda share: holds(Affine(scale, share * shift)))
        worries.append(TAKEN_BACK.format(scale, shift, sign * whole.scale, sign * whole.shift))
    if moved := " and ".join(["scale"] * (scale != 1) + ["shift"] * (shift != 0)):
        layers.apply(Affine(scale, shift))
        pair.after_d_step()
    elif not worries:
        coarse = "numbers of low precision inside D, " if layers.rounding > COARSE else ""
        worries.append(NONE_FOUND.format(coarse, float(real.std())))
    return Affine(scale, shift), moved, worries


def _largest_share(holds: Callable[[float], bool]) -> float:
    """The largest share between 0 and 1 that holds, by bisection."""
    low, high = 0.0, 1.0
    if holds(high):
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _logits(pair: Pair, draw: Callable[[], Drawn], team: Team) -> tuple[Tensor, Tensor]:
    """D's logits of about a thousand real and as many generated samples, in training mode as in the loop to come."""
    both: list[Tensor] = []
    with torch.no_grad(), kept(training(pair.D), buffers(pair.G, pair.D)):
        pair.D.train()
        found = 0
        while found < FEWEST or (found < SAMPLES and len(both) < BATCHES):
            x, z, batch = draw()
            real = _thinned(pair.logits(x, z, batch))
            both.append(torch.stack([real, _thinned(pair.logits(pair.generate(z), z, batch))]))
            found += len(real) * team.count
    rows = team.gather(torch.cat(both, dim=1).flatten(1)).transpose(0, 1).flatten(1).cpu().double()
    return rows[0], rows[1]


def _thinned(f: Tensor) -> Tensor:
    """At most `POSITIONS` scores of each sample, spread evenly over its map: the loss is taken at each position."""
    if f.ndim < 2:
        return f.flatten()
    rows = f.flatten(1)
    return rows[:, :: -(-rows.shape[1] // POSITIONS)]


def _gradient_norms(pair: Pair, x: Any, z: Any, batch: Any, kind: str) -> Tensor:
    """‖∇f‖ of each sample, f summed over a patch map: at x for R1, half-way to G(z) for a critic's penalty."""
    inputs, nest = tree_flatten(x)
    with kept(frozen(pair.D), buffers(pair.G, pair.D)):
        if kind == "wasserstein":
            with torch.no_grad():
                inputs = [(a + b) / 2 for a, b in zip(inputs, tree_leaves(pair.generate(z)), strict=True)]
        inputs = [leaf.detach().requires_grad_() for leaf in inputs]
        gradients = input_gradient(lambda moved: pair.logits(moved, z, batch), inputs, nest)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
