"""What every table has to say of where it comes from."""

from __future__ import annotations

import datetime
import os
import platform
import sys

import torch


def here() -> str:
    """The command, the device, the date, and how busy the machine was."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, one thread"
    module = sys.modules["__main__"].__spec__
    given = ["PATH" if word.startswith("/") else word for word in sys.argv[1:]]
    command = " ".join(["python -m", module.name if module else "", *given])
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return f"`{command}`, {device}, torch {torch.__version__}, {datetime.date.today()}, load {load}."
