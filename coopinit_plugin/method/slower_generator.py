"""G slower than D: its layers get larger against what they are given, which changes no sample.

A step of Adam moves what a layer of weight W does by a share of about η/σ(W), η the learning rate, σ the largest
singular value. So a layer before a normalisation that is so many times as large turns that much more slowly; and the
last layer, which none follows, moves less if the normalisation before it gives smaller numbers.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from coopinit_plugin.method.energy_mode import normalisers
from coopinit_plugin.method.kept import buffers, kept, training, values
from coopinit_plugin.method.output_layers import alike, own_parameters
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.method.recorder import traced
from coopinit_plugin.method.stopping import GOAL

SLOWER = 64.0  # G's layers before a normalisation, against their size before the warm-up, if it came to its goal
STEADY = 16.0  # the same, if the loss that follows has a gradient penalty, which keeps modes by itself
ROUNDING = 1e-5  # of the largest number in a sample: less does not tell one sample from another
SHARES = [tenths / 10 for tenths in range(10, 0, -1)]  # of the way under a normalisation, in logarithms
NEGLIGIBLE = 0.1  # a layer whose size is within a tenth of the one that is asked for stays as it is

Way = list[tuple[Tensor, Tensor | float]]  # what is multiplied by what


def slowed_generator(
    pair: Pair, z: Any, z_again: Any, sizes: list[float], distance: float | None, penalised: bool
) -> int | None:
    """Make G learn more slowly in the adversarial loop than D.

    Gives the number of weights that were changed; ``None`` in place of 0 if G was to keep its speed. They get so many
    times the `sizes` of before the warm-up: the farther it ended from the data, the less. A G that translates, by two
    draws of latents for one batch, keeps its speed. G has to give the same at every call.
    """
    if follows_a_source(z, z_again):
        return None
    most = STEADY if penalised else SLOWER
    slower = max(1.0, most * min(1.0, (GOAL / distance) ** 2)) if distance else 1.0
    changed = _set_sizes(pair, z, [slower * size for size in sizes], levelled=slower > 1)
    return None if slower == 1 and not changed else changed


def follows_a_source(z: Any, again: Any) -> bool:
    """Whether G translates an image or series that is given: what is alike in two draws for one batch is no noise."""
    pairs = zip(tree_leaves(z), tree_leaves(again), strict=False)  # StyleGAN2 draws one latent or two
    return any(a.ndim > 2 and a.is_floating_point() and torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


@torch.no_grad()
def layer_sizes(network: nn.Module) -> list[float]:
    """σ of each of its weights that are matrices or kernels, taken as ``(rows, everything else)``."""
    return [_size(weight) for weight in _weights(network)]


@torch.no_grad()
def _set_sizes(pair: Pair, z: Any, sizes: list[float], levelled: bool) -> int:
    """Give every weight the size that is asked for, if G's samples stay in both modes; the number that changed.

    The last one, which no normalisation follows, is to be `levelled` with its input.
    """
    G = pair.G

    def samples(mode: bool) -> Tensor:
        with kept(training(G), buffers(G)):
            G.train(mode)
            return torch.cat([leaf.flatten() for leaf in tree_leaves(pair.generate(z))])

    in_training, called, rounding = traced(G, lambda: samples(True))
    before = {True: in_training, False: samples(False)}
    if not all(base.std(correction=0) > max(ROUNDING, rounding) * base.abs().max() for base in before.values()):
        return 0  # they are all the same, and would be so whatever was done to the layers

    def stays(way: Way) -> bool:
        """Multiply, if nothing of it is frozen; whether the samples stayed: if they did not, all is put back."""
        if any(isinstance(tensor, nn.Parameter) and not tensor.requires_grad for tensor, _ in way):
            return False
        undo = values(tensor for tensor, _ in way)
        for tensor, by in way:
            tensor.mul_(by)
        if all(alike(samples(mode), base, rounding) for mode, base in before.items()):
            return True
        undo()
        return False

    wanted, changed = dict(zip(_weights(G), sizes, strict=True)), 0
    for weight, norm, biases in _places(G, called):
        size, now = wanted.get(weight, 0.0), _size(weight)
        if size and now and abs(size / now - 1) > NEGLIGIBLE:
            changed += any(stays(way) for way in _ways(weight, size / now, norm, biases))
    last = _last(called) if levelled else []
    return changed + bool(last and stays(last))


def _places(network: nn.Module, called: list[nn.Module]) -> Iterator[tuple[nn.Parameter, _NormBase | None, list[Any]]]:
    """Each weight, in the order of the calls; the normalisation before the next layer; the biases before that.

    Last come the layers whose call cannot be seen, as they are run by their ``forward`` or by a function of torch.
    """
    modules, norms = [*dict.fromkeys([*called, *network.modules()])], normalisers(network)
    matrices = {module: _matrices(module) for module in modules}
    layers = [index for index, module in enumerate(modules) if matrices[module]]
    for index, following in zip(layers, [*layers[1:], None], strict=True):
        after = modules[index:following]
        norm = next((module for module in after if module in norms), None)
        before_norm = after if norm is None else after[: after.index(norm)]
        biases = [bias for module in before_norm if (bias := module._parameters.get("bias")) is not None]
        for weight in matrices[modules[index]]:
            yield weight, norm, biases


def _last(called: list[nn.Module]) -> Way:
    """What makes the last layer and its input equally large, if a normalisation precedes it and none follows.

    A step of Adam moves its entries, and so all samples, the farther the smaller they are against what they are given.
    A factor passes through a ReLU between the two, which lets half of γ² + β² through; of others the samples tell.
    """
    index = max((i for i, module in enumerate(called) if _matrices(module)), default=0)
    norms = [m for m in called if m in normalisers(m) and m.weight is not None and m.bias is not None]
    if not norms or any(module in called[index:] for module in norms):
        return []
    gain, shift, weight = norms[-1].weight, norms[-1].bias, _matrices(called[index])[0]
    given = (gain.square() + shift.square()).mean() / 2
    factor = float((given / weight.square().mean()) ** 0.25)
    return [(weight, factor), (gain, 1 / factor), (shift, 1 / factor)] if factor > 1 else []


def _ways(weight: nn.Parameter, factor: float, norm: _NormBase | None, biases: list[Any]) -> Iterator[Way]:
    """What may have to be multiplied with a weight for the function to stay, the likeliest first."""
    if norm is not None and norm.running_mean is not None and norm.running_var is not None:
        for part in (factor**share for share in SHARES):
            way: Way = [(tensor, part) for tensor in (weight, *biases, norm.running_mean)]
            way.append((norm.running_var, part**2))
            if norm.weight is not None:  # ε weighs more in a smaller variance
                variance = norm.running_var
                way.append((norm.weight, ((variance + norm.eps / part**2) / (variance + norm.eps)).sqrt()))
            yield way
    yield [(weight, factor)]
    if biases:
        yield [(tensor, factor) for tensor in (weight, *biases)]


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in own_parameters(module) if p.ndim > 1]


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.ndim > 1 and p.requires_grad and p.is_floating_point()]


def _size(weight: Tensor) -> float:
    """σ; 0 if there is none to speak of: all zero, or not finite, which is for others to refuse."""
    matrix = weight.detach().flatten(1).float()
    top = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not 0.0 < top < math.inf:
        return 0.0
    matrix = matrix / top  # whose squares no float can overflow
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return top * float(torch.linalg.eigvalsh(gram)[-1].sqrt())  # ten times faster than the singular values
