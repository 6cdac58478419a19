"""Warm starts for GANs: a short cooperative maximum-likelihood warm-up, in two lines, for the code you have."""

from coopinit_plugin._version import __version__ as __version__
from coopinit_plugin.calling import presets
from coopinit_plugin.calling.adapter import Adapter, infer_sign
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.dry_run import inspect
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.warm_start import WarmStart
from coopinit_plugin.warmup import warm_start

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
