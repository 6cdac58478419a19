"""The affine map of D's logits written into D's last layers, as far as it holds there.

What the user's loop does after each step of D, such as clipping its weights, is part of the question: a map that it
would take back erases D at the loop's first step. So every map is tried on D as it is after that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from coopinit_plugin.method.kept import buffers, kept, values
from coopinit_plugin.method.logit_map import Affine
from coopinit_plugin.method.output_layers import OutputLayers, alike, find_output_layers
from coopinit_plugin.method.pair import Pair

COARSE = 1e-3  # relative rounding of the logits from which on they are not single precision
HALVINGS = 8

TURNED = (
    "After the warm-up D scored real samples below generated ones (means {:.3g} and {:.3g}), so its last layer was "
    "turned round: real is high now. That is usual after few iterations; after a full warm-up look at "
    'result.plot("report.png") before you go on.'
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


@torch.no_grad()
def fit(
    pair: Pair,
    f: Callable[[], Tensor],  # D's logits of a few samples, (N,), the same at every call
    real: Tensor,  # D's logits of real samples
    fake: Tensor,  # of generated ones
    best: Callable[[Tensor, Tensor, OutputLayers], Affine],  # of those two: the best map that the layers allow
) -> tuple[Affine, str, list[str]]:
    """Write the best map into D's last layers; of one that does not hold there, the largest share that does.

    If the logits of generated samples are higher in the mean, D is turned round. Layers that G has, too, stay as they
    are. Gives the map that D's logits went through, which of "scale and shift" moved, and what the user should know.
    """
    layers = find_output_layers(pair.D, f).without(pair.G.parameters())

    def after_a_step(affine: Affine) -> Tensor:
        with kept(values(pair.D.parameters()), buffers(pair.D)):
            layers.apply(affine)
            pair.after_d_step()
            return f()

    before = after_a_step(Affine(1.0, 0.0))

    def holds(affine: Affine) -> bool:
        return alike(after_a_step(affine), affine.scale * (before + affine.shift), layers.rounding)

    sign = -1.0 if real.mean() < fake.mean() and layers.scales and holds(Affine(-1.0, 0.0)) else 1.0
    whole = best(sign * real, sign * fake, layers)
    scale, shift = sign * whole.scale, sign * whole.shift
    worries = [TURNED.format(float(real.mean()), float(fake.mean()))] if sign < 0 else []
    if not holds(Affine(scale, shift)):
        if not holds(Affine(1.0, 0.0)):
            return Affine(1.0, 0.0), "", [UNSTEADY.format(float(real.std()))]
        scale = sign * whole.scale ** _largest_share(lambda share: holds(Affine(sign * whole.scale**share, 0.0)))
        of_this_scale = best(scale * real, scale * fake, replace(layers, scaled=[]))
        shift = of_this_scale.shift / scale
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
