"""Out of memory, said plainly, with nothing left behind that holds the memory."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import first_line

SIGNS = ("not enough memory", "can't allocate memory", "out of memory")  # of the CPU's and other devices' allocators


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn running out of memory inside into one clear error, which holds none of the memory.

    Raises:
        CoopInitError: saying what to change.
    """
    told = ""
    try:
        yield
    except Exception as error:
        cause = _out_of_memory(error)
        if cause is None:
            raise
        told = first_line(cause)
        _let_go(error)
    if told:  # raised out here: an error raised while another one is handled keeps that one, and its tensors, alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise CoopInitError(
            f"The warm-up ran out of memory ({told}). Your networks are untouched and what it had taken is free again. "
            "Give it a loader with a smaller batch: half the batch takes about half the memory. If one step of your "
            'own loop just fits, accelerator=Accelerator(mixed_precision="bf16") or a look at what else holds the '
            "device's memory helps too. langevin_steps costs time only: the chain keeps one step at a time."
        ) from None


def _out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error itself, or the one it explains, where that is about memory."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return error
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, CoopInitError)
            and any(sign in str(error).lower() for sign in SIGNS)
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that the errors' tracebacks keep."""
    while error is not None:
        if error.__traceback__ is not None:
            traceback.clear_frames(error.__traceback__)
            error.__traceback__ = None
        error = error.__cause__ or error.__context__
