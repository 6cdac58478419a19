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
    command = f"python -m {module.name} {' '.join(sys.argv[1:])}".strip() if module else sys.argv[0]
    load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    return f"`{command}`, {device}, torch {torch.__version__}, {datetime.date.today()}, load {load}."
