"""Out of memory, said plainly, with nothing left behind that holds the memory."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import first_line

SIGNS = ("not enough memory", "can't allocate memory", "out of memory", "memoryerror")  # in any allocator's errors


@contextmanager
def explained_memory() -> Iterator[None]:
    """Turn running out of memory inside into one clear error, which holds none of the memory."""
    try:
        yield
    except Exception as error:
        chain: list[BaseException] = [error]
        while (cause := chain[0].__cause__ or chain[0].__context__) is not None and cause not in chain:
            chain.insert(0, cause)
        found = next((cause for cause in chain if any(sign in repr(cause).lower() for sign in SIGNS)), None)
        if found is None:
            raise
        for cause in chain:  # the frames of a traceback keep the tensors in them alive
            traceback.clear_frames(cause.__traceback__)
        gc.collect()
        torch.cuda.empty_cache()
        raise CoopInitError(
            f"The warm-up ran out of memory ({first_line(found)}); your networks are untouched, and what it had taken "
            "is free again. Give it a loader with a smaller batch (half the batch takes about half the memory) or "
            'accelerator=Accelerator(mixed_precision="bf16"); langevin_steps costs time only.'
        ) from None
