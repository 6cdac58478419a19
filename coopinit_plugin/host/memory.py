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
        chain: list[BaseException] = []  # the error, what it came from, and so on
        cause: BaseException | None = error
        while cause is not None and cause not in chain:
            chain.append(cause)
            cause = cause.__cause__ or cause.__context__
        told = next((first_line(cause) for cause in chain if _is_out_of_memory(cause)), "")
        if not told:
            raise
        for cause in chain:  # the frames of a traceback keep the tensors in them alive
            traceback.clear_frames(cause.__traceback__)
            cause.__traceback__ = None
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


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and not isinstance(error, CoopInitError):
        return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in SIGNS)
    return isinstance(error, MemoryError)
