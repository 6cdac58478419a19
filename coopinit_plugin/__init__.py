"""Warm starts for GANs: a short cooperative maximum-likelihood warm-up, in two lines, for the code you have."""

from coopinit_plugin import presets
from coopinit_plugin.adapter import Adapter, infer_sign
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.inspection import inspect
from coopinit_plugin.report import StepReport
from coopinit_plugin.result import WarmStart
from coopinit_plugin.warmup import warm_start

__version__ = "0.1.0"
__all__ = [
    "Adapter",
    "CoopInitError",
    "StepReport",
    "WarmStart",
    "WarmStartConfig",
    "infer_sign",
    "inspect",
    "presets",
    "warm_start",
]
