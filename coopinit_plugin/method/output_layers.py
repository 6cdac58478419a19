"""D's last layers: found by what they do to the logit, proved by forward passes, then scaled and shifted."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coopinit_plugin.method.kept import kept, values
from coopinit_plugin.method.logit_map import Affine
from coopinit_plugin.method.recorder import traced

DEEPEST = 16  # layers looked at, from the last one back
NEAR = 4  # of these, those whose bias may shift the logit
ALIKE = 0.1  # of the outputs' standard deviation: what they may move, beside rounding, and still count as the same


@dataclass(frozen=True)
class OutputLayers:
    """What of D to change so that its logit goes through an affine map."""

    scaled: list[nn.Parameter]  # that scale the logit when all are multiplied; empty if none do (spectral norm)
    shifted: nn.Parameter | None  # a bias that shifts the logit of every sample alike
    per_unit: float  # by how much it does so, for a change of the bias by 1
    rounding: float  # of D's numbers, relative to their size

    @torch.no_grad()
    def apply(self, affine: Affine) -> None:
        """Make D's logit f into scale·(f + shift)."""
        for parameter in self.scaled:
            parameter.mul_(affine.scale)
        if self.shifted is not None:
            self.shifted.add_(affine.scale * affine.shift / self.per_unit)


@torch.no_grad()
def find_output_layers(D: nn.Module, f: Callable[[], Tensor], spared: Collection[nn.Parameter] = ()) -> OutputLayers:
    """Find the layers in which the logit is linear; f gives it for a fixed batch, ``(N,)``, the same at every call.

    From the last layer back, layers are taken as long as the logit is linear in a common factor of their parameters,
    until it is multiplied by that factor itself: one layer of most D's, several of a multi-scale or projection D, none
    if a spectral norm undoes the factor. Layers of `spared` parameters, G's, are left out. D stays as it is.
    """
    base, called, rounding = traced(D, f)
    last_first = [D, *reversed(called), *reversed([*D.modules()])]  # last those run by `forward`, which no hook sees
    layers = [layer for layer in dict.fromkeys(last_first) if own_parameters(layer)]
    layers = [layer for layer in layers if {*own_parameters(layer)}.isdisjoint(spared)][:DEEPEST]
    size = float(base.abs().max().clamp_min(1e-12))
    error = max(1e-3, 2 * rounding)

    def moved(parameters: list[nn.Parameter], *, by: float = 1.0, plus: float = 0.0) -> Tensor:
        with kept(values(parameters)):
            for parameter in parameters:
                parameter.mul_(by).add_(plus)
            return f() - base

    def equal(a: Tensor, b: Tensor) -> bool:
        return float((a - b).abs().max()) <= error * max(size, float(b.abs().max()))

    scaled: list[nn.Parameter] = []
    for layer in layers:
        tried = [*dict.fromkeys([*scaled, *own_parameters(layer)])]
        twice, fourfold = moved(tried, by=2.0), moved(tried, by=4.0)  # powers of two, which no precision rounds
        if equal(fourfold, 3 * twice) and not equal(twice, torch.zeros_like(base)):
            scaled = tried
            if equal(twice, base):
                layers = [layer for layer in layers if not {*scaled}.isdisjoint(own_parameters(layer))]
                break
    else:
        scaled = []

    step = max(1.0, size)  # less would be lost in the rounding of large logits
    for bias in [layer._parameters.get("bias") for layer in layers[:NEAR]]:
        if bias is not None:
            up, down = moved([bias], plus=step) / step, -moved([bias], plus=-step) / step
            per_unit = float(up.mean())
            off = max(float((each - per_unit).abs().max()) for each in (up, down))  # a ReLU after it would bend one way
            if abs(per_unit) > 1e-6 and off <= error * abs(per_unit):
                return OutputLayers(scaled, bias, per_unit, rounding)
    return OutputLayers(scaled, None, 1.0, rounding)


def alike(now: Tensor, before: Tensor, rounding: float) -> bool:
    """Whether outputs are the same, to a tenth of their standard deviation and the rounding of the numbers."""
    moved = float((now - before).abs().max())
    return moved <= ALIKE * float(before.std(correction=0)) + 4 * rounding * float(before.abs().max())


def own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """A layer's own parameters, those under a parametrization of them included."""
    inside = getattr(layer, "parametrizations", None)
    own = [*layer.parameters(recurse=False), *(inside.parameters() if isinstance(inside, nn.ModuleDict) else ())]
    return [p for p in own if p.is_floating_point()]
