"""``python -m`` without what it costs to import torch again: a fork of this process, which has imported it already."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python_m(module: str, *args: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module as ``python -m module args`` in a child process; nothing that it does is seen here.

    Returns:
        Its status, and what it wrote to its standard output and its standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            status = 70  # of the runner itself
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                status = _run(module, args, cwd, variables)
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([module, *args], os.waitstatus_to_exitcode(ended), *texts)


def _run(module: str, args: tuple[str, ...], cwd: Path, variables: dict[str, str]) -> int:
    """The status with which an interpreter of its own would end."""
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = [module, *args]
    os.chdir(cwd)
    os.environ.update(variables)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
