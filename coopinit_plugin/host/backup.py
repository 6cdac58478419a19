"""For large networks: the warm-up in the user's own tensors, whose values wait elsewhere until all has gone well."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from coopinit_plugin.host.networks import state_of
from coopinit_plugin.host.signals import held


@contextmanager
def backed_up(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put every value back, bit for bit, where what is done inside fails or is interrupted.

    The values wait on the CPU or, where they are there already, in a temporary file.

    Raises:
        OSError: where the file cannot be written.
    """
    tensors = {id(t): t for module in modules if isinstance(module, nn.Module) for t in state_of(module).values()}
    in_file = [tensor for tensor in tensors.values() if _can_be_filed(tensor)]
    others = [tensor for tensor in tensors.values() if not _can_be_filed(tensor)]
    with torch.inference_mode(False), tempfile.TemporaryDirectory(prefix="coopinit-") as folder:
        file = Path(folder) / "weights.pt"
        torch.save([tensor.detach() for tensor in in_file], file)
        kept = [tensor.detach().to("cpu", copy=True) for tensor in others]
        try:
            yield
        except BaseException:
            with held(signal.SIGINT):
                _put_back([*in_file, *others], file, kept)
            raise


def _can_be_filed(tensor: Tensor) -> bool:
    """Whether it takes up the CPU's memory, and is of a kind that a file of weights may hold."""
    return tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter)


@torch.no_grad()
def _put_back(tensors: list[Tensor], file: Path, kept: list[Tensor]) -> None:
    """The file is let go of at the end: Windows removes none that is mapped."""
    values = [*torch.load(file, weights_only=True, mmap=True), *kept]
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
