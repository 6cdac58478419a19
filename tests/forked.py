"""Processes that need not import torch again: forks of this one, which has imported it already."""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


class Forked:
    """A function that runs in a fork of this process, in a session of its own.

    Args:
        function: Is called there, and may exit.
        variables: Of its environment, beside those of this process and one thread.
    """

    def __init__(self, function: Callable[[], object], **variables: str) -> None:
        self._files = [tempfile.TemporaryFile() for _ in ("out", "err")]  # noqa: SIM115 - of this object's life
        self._ended = False
        self._pid = os.fork()
        if self._pid:
            return
        status = 70  # if this very code fails
        try:
            os.setsid()
            for number, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
            faulthandler.enable(self._files[1])
            os.environ.update(OMP_NUM_THREADS="1", **variables)
            status = _status_of(function)
        finally:
            os._exit(status)

    def wait(self, limit: float = 240) -> subprocess.CompletedProcess[str]:
        """Its status, what it wrote to its standard output, and to its standard error; a failed test if it hangs."""
        end = time.monotonic() + limit
        while True:
            pid, ended = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.killpg(self._pid, signal.SIGABRT)  # faulthandler says where it was
                os.waitpid(self._pid, 0)
                self._ended = True
                pytest.fail("hung: " + "".join(self._said())[-6000:])
            time.sleep(0.01)
        self._ended = True
        return subprocess.CompletedProcess([], os.waitstatus_to_exitcode(ended), *self._said())

    def kill(self) -> None:
        """End it, if it has not ended."""
        if not self._ended:
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._ended = True

    def _said(self) -> list[str]:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
        return texts


def started(module: str, *args: str, cwd: Path = ROOT, **variables: str) -> Forked:
    """``python -m module args`` in a folder, in a process that need not import torch again."""

    def run() -> None:
        os.chdir(cwd)
        sys.argv = [module, *args]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return Forked(run, PYTHONPATH=str(ROOT), **variables)


def python_m(module: str, *args: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """What it gives, once it has ended."""
    return started(module, *args, **given).wait()


def together(processes: int, start: Callable[..., Forked]) -> list[subprocess.CompletedProcess[str]]:
    """What each of so many processes gives, in the environment and with the store that torchrun gives them.

    The store is this process's: each group that they make finds it, also if the first of them has left the one before.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common |= {"GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(processes)}
    running = [start(**common, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    try:
        return [process.wait() for process in running]
    finally:
        for process in running:
            process.kill()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def _status_of(function: Callable[[], object]) -> int:
    """The status with which an interpreter of its own would end after this function."""
    try:
        function()
    except SystemExit as left:
        if left.code is not None and not isinstance(left.code, int):
            sys.stderr.write(f"{left.code}\n")
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
