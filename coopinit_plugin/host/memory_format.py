"""The memory layout in which D's convolutions run fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def lay_out(discriminator: nn.Module, score: Callable[[], Tensor], x: Any) -> None:
    """Lay D's 2-D convolutions out with the channels of a pixel together, where they run faster so: on the CPU.

    A step of the chain takes 0.7 to 0.83 of the time then, D's training step 0.84 to 0.95; G's would take longer. On an
    H100 a step of the chain would take 1.02 to 1.16 of it, and nothing is changed. D goes back to what it was where it
    cannot work so (it reads its features by ``.view``), or gives another score.

    A D with a convolution that steps over pixels, such as the 1×1 one of stride 2 beside a residual block, is left
    alone: so laid out, with few channels, the gradient of its weights writes past its memory (torch 2.14, x86_64; the
    process dies of "double free or corruption").

    Args:
        discriminator: D, the warm-up's own copy.
        score: f of real samples.
        x: Those samples.
    """
    images = any(isinstance(module, nn.Conv2d) for module in discriminator.modules())
    on_cpu = all(leaf.device.type == "cpu" for leaf in tree_leaves(x))
    if not (images and on_cpu and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return
    with torch.no_grad():
        with _Convolutions() as convolutions:  # type: ignore[no-untyped-call]
            expected = score()
        if convolutions.step_over:
            return
        discriminator.to(memory_format=torch.channels_last)
        try:
            found = score()
        except RuntimeError:
            found = torch.full_like(expected, torch.inf)
    if not (found - expected).abs().max() <= 1e-3 * expected.abs().max():
        discriminator.to(memory_format=torch.contiguous_format)


class _Convolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches for convolutions whose stride leaves pixels out.

    Attributes:
        step_over: Whether there was one.
    """

    step_over = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            size, stride = args[1].shape[2:], args[3]
            self.step_over |= any(step > pixels for step, pixels in zip(stride, size, strict=True))
        return func(*args, **(kwargs or {}))
