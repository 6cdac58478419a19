"""For large networks: the warm-up in the user's own tensors, whose values wait elsewhere until all has gone well."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from coopinit_plugin.batch_parts import HALF
from coopinit_plugin.borrowed import state_of
from coopinit_plugin.signals import held


def aliases(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """Tensors that share their memory with the user's, by the id of theirs: what ``copy.deepcopy`` takes for copies.

    Left out is what cannot be trained in place: half precision, inference tensors, subclasses of Parameter.
    """
    found: dict[int, Tensor] = {}
    for module in modules:
        for tensor in state_of(module).values():
            if tensor.dtype in HALF or tensor.is_inference():
                continue
            if type(tensor) is nn.Parameter:
                found[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
            elif type(tensor) is Tensor:
                found[id(tensor)] = tensor.detach()
    return found


@contextmanager
def backed_up(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put every value back, bit for bit, where what is done inside fails or is interrupted.

    The values wait on the CPU or, where they are there already, in a temporary file.

    Raises:
        OSError: where the file cannot be written.
    """
    tensors = list({id(t): t for module in modules if isinstance(module, nn.Module) for t in _all(module)}.values())
    with torch.inference_mode(False), tempfile.TemporaryDirectory(prefix="coopinit-") as folder:
        file = Path(folder) / "weights.pt"
        on_cpu = [tensor.detach() for tensor in tensors if tensor.device.type == "cpu"]
        elsewhere = [tensor.detach().to("cpu", copy=True) for tensor in tensors if tensor.device.type != "cpu"]
        torch.save(on_cpu, file)
        try:
            yield
        except BaseException:
            with held(signal.SIGINT), torch.no_grad():
                kept = iter(torch.load(file, weights_only=True, mmap=True)), iter(elsewhere)
                for tensor in tensors:
                    tensor.copy_(next(kept[tensor.device.type != "cpu"]))
                del kept  # Windows removes no file that is mapped
            raise


def _all(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in state_of(module).values() if type(tensor) in (nn.Parameter, Tensor)]
