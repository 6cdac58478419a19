"""D's own copy in the memory format in which its convolutions run fastest: channels last, on a CPU."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def lay_out(discriminator: nn.Module, score: Callable[[], Tensor], x: Any) -> None:
    """Lay D, the warm-up's copy, out channels last if it has 2-D convolutions, runs on a CPU, and scores the same so.

    Not if a convolution's stride leaves pixels out, such as the 1×1 one of stride 2 beside a residual block: the
    gradient of its weights would write past its memory (oneDNN's AVX2 kernels in torch 2.14), and the process die. What
    is done with weights that belong to no such layer is not known: not then, either.
    """
    layers = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    leave_out = any(step > size for layer in layers for step, size in zip(layer.stride, layer.kernel_size, strict=True))
    known = {weight for layer in layers for weight in layer.parameters()}
    others = any(weight.ndim == 4 and weight not in known for weight in discriminator.parameters())
    on_cpu = all(leaf.device.type == "cpu" for leaf in tree_leaves(x))
    fast = on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not layers or leave_out or others or not fast:
        return
    with torch.no_grad():
        expected = score()
        discriminator.to(memory_format=torch.channels_last)
        with suppress(RuntimeError):
            if (score() - expected).abs().max() <= 1e-3 * expected.abs().max():
                return
    discriminator.to(memory_format=torch.contiguous_format)
