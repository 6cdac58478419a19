"""Sizes of layers: D's as they were, so that it goes on learning as fast, and G's larger, so that it learns slower.

A step of the adversarial loop's Adam moves each entry of a weight W by about its learning rate η, and so what the layer
does by η/σ(W) of itself, σ the largest singular value. The warm-up makes layers two to three times larger; left so, D
learns two to three times more slowly than from random weights, and G runs away from it in the first hundred iterations.

How large a layer is can often be chosen freely: a normalisation after it undoes any factor, and where the activation is
positively homogeneous (ReLU, LeakyReLU) the next layer can make up for it. So every layer, from the first on, gets the
size it had, where that leaves D's logits as they are; the last layer keeps what is left over. Under BatchNorm, whose ε
weighs more the smaller the variance, it gets as near to that size as the logits let it. By the same means G's layers
before a normalisation get the larger size that the hand-over asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from coopinit_plugin.method.energy_mode import normalisers
from coopinit_plugin.method.kept import Undo, values
from coopinit_plugin.method.output_layers import own_parameters
from coopinit_plugin.method.recorder import recorded

ALIKE = 0.1  # of the logits' standard deviation: what they may move, beside rounding
ROUNDING = 1e-5  # of the largest logit: less does not tell one sample from another
SHARES = [tenths / 10 for tenths in range(10, 0, -1)]  # of the way back under a normalisation, in logarithms
NEGLIGIBLE = 0.1  # a layer whose size is within a tenth of what it was stays as it is

Way = list[tuple[Tensor, Tensor | float]]  # what is multiplied by what


@torch.no_grad()
def layer_sizes(network: nn.Module) -> list[float]:
    """σ of each of its weights that are matrices or kernels, taken as ``(rows, everything else)``."""
    return [_size(weight) for weight in _weights(network)]


@torch.no_grad()
def set_sizes(
    network: nn.Module, sizes: list[float], outputs: Sequence[Callable[[], Tensor]], *, pass_on: bool = True
) -> int:
    """Give every layer the size that is asked for, if what the network gives stays the same.

    Each of the outputs gives what the network makes of fixed samples, flat, and the same at every call; all have to
    stay, the first is asked first. `pass_on` says whether the next layer may make up for a layer's new size. Gives the
    number of weights that were changed.
    """
    wanted = dict(zip(map(id, _weights(network)), sizes, strict=True))
    with recorded(network) as record:
        before = [outputs[0]()]
    called = [call.module for call in record.ended if call.name and not _inside(call.name)]
    rounding = record.rounding
    del record  # which holds what every layer gave
    before += [f() for f in outputs[1:]]
    if any(_std(base) <= max(ROUNDING, rounding) * float(base.abs().max()) for base in before):
        return 0  # they are all the same, and would be so whatever was done to the layers
    passed_on: list[Undo] = []  # to layers further back, of which none has its own size yet
    changed = 0
    for layer, between, following in _places(network, called):
        for weight in _matrices(layer):
            size, now = wanted.get(id(weight), 0.0), _size(weight)
            if not size or not now or abs(size / now - 1) <= NEGLIGIBLE:
                continue
            for way, passes_on in _ways(weight, size / now, layer, between, following):
                if (passes_on and not pass_on) or any(_is_frozen(tensor) for tensor, _ in way):
                    continue
                if undo := _multiplied(way, outputs, before, rounding):
                    changed += 1
                    passed_on = [*passed_on, undo] if passes_on else []
                    break
            else:
                if following:  # it must not be left with what those before it passed on
                    changed -= len(passed_on)
                    while passed_on:
                        passed_on.pop()()
    return changed


def _places(
    network: nn.Module, called: list[nn.Module]
) -> Iterator[tuple[nn.Module, list[nn.Module], list[nn.Parameter]]]:
    """Each layer, what is called between it and the next one, the next one's weights; in the order of the calls.

    Last come the layers whose call cannot be seen, as they are run by their ``forward`` or by a function of torch.
    """
    modules = [*dict.fromkeys(called), network]  # last its own parameters, where it has some
    layers = [index for index, module in enumerate(modules) if _matrices(module)]
    for index, after in zip(layers, [*layers[1:], None], strict=False):
        yield modules[index], modules[index + 1 : after], [] if after is None else _matrices(modules[after])
    for name, module in network.named_modules():
        if module not in modules and not _inside(name):
            yield module, [], []


def _inside(name: str) -> bool:
    """Whether it is a part of a parametrization, whose parameters are taken for those of its layer."""
    return "parametrizations." in f"{name}."


def _ways(
    weight: nn.Parameter, factor: float, layer: nn.Module, between: list[nn.Module], following: list[nn.Parameter]
) -> Iterator[tuple[Way, bool]]:
    """What may have to be multiplied with a weight for the function to stay; whether the next layer makes up for it."""
    norm = next((m for m in between if m in normalisers(m)), None)
    before_norm = between if norm is None else between[: between.index(norm)]
    biases = [module._parameters.get("bias") for module in (layer, *before_norm)]
    own: Way = [(weight, factor), *((bias, factor) for bias in biases if bias is not None)]
    if norm is not None and norm.running_mean is not None and norm.running_var is not None:
        for part in (factor**share for share in SHARES):
            after: Way = [(tensor, part) for tensor, _ in own]
            after += [(norm.running_mean, part), (norm.running_var, part**2)]
            if norm.weight is not None:  # ε weighs more in a smaller variance
                variance = norm.running_var
                after.append((norm.weight, ((variance + norm.eps / part**2) / (variance + norm.eps)).sqrt()))
            yield after, False
    yield own[:1], False
    if len(own) > 1:
        yield own, False
    if norm is None and following:
        yield own + [(parameter, 1 / factor) for parameter in following], True


def alike(now: Tensor, before: Tensor, rounding: float) -> bool:
    """Whether logits are the same, to a tenth of their standard deviation and the rounding of the network's numbers."""
    moved = float((now - before).abs().max())
    return moved <= ALIKE * _std(before) + 4 * rounding * float(before.abs().max())


def _multiplied(way: Way, logits: Sequence[Callable[[], Tensor]], before: list[Tensor], rounding: float) -> Undo | None:
    """Multiply; where the logits are not the same any more, put everything back."""
    undo = values(tensor for tensor, _ in way)
    for tensor, by in way:
        tensor.mul_(by)
    if all(alike(f(), base, rounding) for f, base in zip(logits, before, strict=True)):
        return undo
    undo()
    return None


def _is_frozen(tensor: Tensor) -> bool:
    """Whether it is a parameter that the user has frozen, which nothing may change."""
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _std(logits: Tensor) -> float:
    return float(logits.std(correction=0))


def _weights(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.ndim > 1 and p.requires_grad and p.is_floating_point()]


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in own_parameters(module) if p.ndim > 1 and p.requires_grad]


def _size(weight: Tensor) -> float:
    """σ; 0 where there is none to speak of: all zero, or not finite, which is for others to refuse."""
    matrix = weight.detach().flatten(1).float()
    top = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not 0.0 < top < math.inf:
        return 0.0
    matrix = matrix / top  # whose squares no float can overflow
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    return top * float(torch.linalg.eigvalsh(gram)[-1].sqrt())  # ten times faster than the singular values
