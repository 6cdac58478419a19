"""G slower than D: its layers before a normalisation get larger, which changes no sample.

A step of the adversarial loop's Adam moves each entry of a weight W by about its learning rate η, and so what the layer
does by η/σ(W) of itself, σ the largest singular value. So a layer that is so many times as large turns that much more
slowly, while the normalisation after it leaves what G gives as it is. After the warm-up G is the one that has more to
lose: at the speed that it has from random weights it leaves its modes within a hundred iterations, before D has learnt
to hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.energy_mode import normalisers
from coopinit_plugin.method.kept import buffers, kept, training, values
from coopinit_plugin.method.output_layers import alike, own_parameters
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.recorder import recorded
from coopinit_plugin.method.stopping import GOAL

SLOWER = 64.0  # G's layers before a normalisation, against their size before the warm-up, if it came to its goal
STEADY = 16.0  # the same, if the loss that follows has a gradient penalty, which keeps modes by itself
ROUNDING = 1e-5  # of the largest number in a sample: less does not tell one sample from another
SHARES = [tenths / 10 for tenths in range(10, 0, -1)]  # of the way under a normalisation, in logarithms
NEGLIGIBLE = 0.1  # a layer whose size is within a tenth of the one that is asked for stays as it is

Way = list[tuple[Tensor, Tensor | float]]  # what is multiplied by what


def slowed_generator(
    pair: Pair, z: Any, z_again: Any, sizes: list[float], distance: float | None, penalised: bool
) -> int:
    """Make G learn more slowly in the adversarial loop than D. Gives the number of weights that were changed.

    The farther the warm-up ended from the data, the less there is to lose, and the more G has yet to learn: the factor
    is `SLOWER` if the warm-up came to its goal, or `STEADY` if the loss that follows has a gradient penalty
    (`penalised`), and falls with the square of the distance, in σ, over the goal. If the distance was never read, the
    warm-up was too short to have come anywhere, and G keeps its speed; so does a G that translates, by the latents `z`
    and `z_again` of one batch.

    `sizes` are those that :func:`layer_sizes` read of G before the warm-up. G's samples of the latents `z` have to stay
    as they are, so G has to give the same for the same at every call.
    """
    if follows_a_source(z, z_again):
        return 0

    def samples(training_mode: bool) -> Tensor:
        with kept(training(pair.G), buffers(pair.G)):
            pair.G.train(training_mode)
            return torch.cat([leaf.flatten() for leaf in tree_leaves(pair.generate(z))])

    most = STEADY if penalised else SLOWER
    slower = max(1.0, most * min(1.0, (GOAL / distance) ** 2)) if distance else 1.0
    return _set_sizes(pair.G, [slower * size for size in sizes], [partial(samples, True), partial(samples, False)])


def follows_a_source(z: Any, again: Any) -> bool:
    """Whether G starts from an image or a series that is given, as in translation from one domain to another.

    Such a G has more to learn from the adversarial loop than the data's distribution: what belongs to which source.
    `z` and `again` are drawn for one batch: what is alike in both is no noise.
    """
    pairs = zip(tree_leaves(z), tree_leaves(again), strict=False)  # StyleGAN2 draws one latent or two
    return any(a.ndim > 2 and a.is_floating_point() and torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


@torch.no_grad()
def layer_sizes(network: nn.Module) -> list[float]:
    """σ of each of its weights that are matrices or kernels, taken as ``(rows, everything else)``."""
    return [_size(weight) for weight in _weights(network)]


@torch.no_grad()
def _set_sizes(network: nn.Module, sizes: list[float], outputs: Sequence[Callable[[], Tensor]]) -> int:
    """Give every layer the size that is asked for if each of the outputs, flat, stays; the number that changed."""
    wanted = dict(zip(map(id, _weights(network)), sizes, strict=True))
    with recorded(network) as record:
        before = [outputs[0]()]
    called = [call.module for call in record.ended if call.name and not _inside(call.name)]
    rounding = record.rounding
    del record  # which holds what every layer gave
    before += [f() for f in outputs[1:]]
    if any(float(base.std(correction=0)) <= max(ROUNDING, rounding) * float(base.abs().max()) for base in before):
        return 0  # they are all the same, and would be so whatever was done to the layers
    changed = 0
    for layer, norm, biases in _places(network, called):
        for weight in _matrices(layer):
            size, now = wanted.get(id(weight), 0.0), _size(weight)
            if size and now and abs(size / now - 1) > NEGLIGIBLE:
                ways = _ways(weight, size / now, norm, biases)
                changed += any(_multiplied(way, outputs, before, rounding) for way in ways)
    return changed


def _places(network: nn.Module, called: list[nn.Module]) -> Iterator[tuple[nn.Module, _NormBase | None, list[Any]]]:
    """Each layer, the normalisation called before the next one, the biases that stand before that one.

    They come in the order of the calls; last the layers whose call cannot be seen, as they are run by their ``forward``
    or by a function of torch.
    """
    modules = [*dict.fromkeys(called), network]  # last its own parameters, if it has some
    layers = [index for index, module in enumerate(modules) if _matrices(module)]
    for index, following in zip(layers, [*layers[1:], None], strict=False):
        between = modules[index + 1 : following]
        norm = next((m for m in between if m in normalisers(m)), None)
        before_norm = between if norm is None else between[: between.index(norm)]
        biases = [module._parameters.get("bias") for module in (modules[index], *before_norm)]
        yield modules[index], norm, [bias for bias in biases if bias is not None]
    for name, module in network.named_modules():
        if module not in modules and not _inside(name):
            yield module, None, [bias for bias in [module._parameters.get("bias")] if bias is not None]


def _inside(name: str) -> bool:
    """Whether it is a part of a parametrization, whose parameters are taken for those of its layer."""
    return "parametrizations." in f"{name}."


def _ways(weight: nn.Parameter, factor: float, norm: _NormBase | None, biases: list[Any]) -> Iterator[Way]:
    """What may have to be multiplied with a weight for the function to stay, the likeliest first."""
    if norm is not None and norm.running_mean is not None and norm.running_var is not None:
        for part in (factor**share for share in SHARES):
            way: Way = [(weight, part), *((bias, part) for bias in biases)]
            way += [(norm.running_mean, part), (norm.running_var, part**2)]
            if norm.weight is not None:  # ε weighs more in a smaller variance
                variance = norm.running_var
                way.append((norm.weight, ((variance + norm.eps / part**2) / (variance + norm.eps)).sqrt()))
            yield way
    yield [(weight, factor)]
    if biases:
        yield [(weight, factor), *((bias, factor) for bias in biases)]


def _multiplied(way: Way, outputs: Sequence[Callable[[], Tensor]], before: list[Tensor], rounding: float) -> bool:
    """Multiply, if nothing of it is frozen; whether the outputs stayed: if they did not, all is put back."""
    if any(isinstance(tensor, nn.Parameter) and not tensor.requires_grad for tensor, _ in way):
        return False
    undo = values(tensor for tensor, _ in way)
    for tensor, by in way:
        tensor.mul_(by)
    if all(alike(f(), base, rounding) for f, base in zip(outputs, before, strict=True)):
        return True
    undo()
    return False


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.ndim > 1 and p.requires_grad and p.is_floating_point()]


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in own_parameters(module) if p.ndim > 1 and p.requires_grad]


def _size(weight: Tensor) -> float:
    """σ; 0 if there is none to speak of: all zero, or not finite, which is for others to refuse."""
    matrix = weight.detach().flatten(1).float()
    top = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not 0.0 < top < math.inf:
        return 0.0
    matrix = matrix / top  # whose squares no float can overflow
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return top * float(torch.linalg.eigvalsh(gram)[-1].sqrt())  # ten times faster than the singular values
