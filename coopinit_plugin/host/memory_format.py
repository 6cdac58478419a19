"""D's own copy in the memory format in which its convolutions run fastest: channels last, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def lay_out(discriminator: nn.Module, score: Callable[[], Tensor], x: Any) -> None:
    """Lay D, the warm-up's copy, out channels last if it has 2-D convolutions, runs on a CPU, and scores the same so.

    Not if a convolution's stride leaves pixels out, such as the 1×1 one of stride 2 beside a residual block: the
    gradient of its weights would write past its memory (oneDNN's AVX2 kernels in torch 2.14), and the process die.
    """
    images = any(isinstance(module, nn.Conv2d) for module in discriminator.modules())
    on_cpu = all(leaf.device.type == "cpu" for leaf in tree_leaves(x))
    if not (images and on_cpu and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return
    with torch.no_grad(), _Strides() as strides:  # type: ignore[no-untyped-call]
        expected = score()
        discriminator.to(memory_format=torch.channels_last)
        same = False
        with suppress(RuntimeError):
            same = bool((score() - expected).abs().max() <= 1e-3 * expected.abs().max())
    if strides.leave_pixels_out or not same:
        discriminator.to(memory_format=torch.contiguous_format)


class _Strides(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every convolution, also one that D calls as a function and not as a layer."""

    leave_pixels_out = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.leave_pixels_out |= any(step > size for step, size in zip(args[3], args[1].shape[2:], strict=True))
        return func(*args, **(kwargs or {}))
