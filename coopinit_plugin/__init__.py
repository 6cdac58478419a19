"""Warm starts for GANs: a short cooperative maximum-likelihood warm-up, in two lines, for the code you have.

    >>> result = coopinit_plugin.warm_start(G, D, loader, handover="logistic")  # or "hinge", "least_squares", ...
    >>> result.save_pretrained("init/")
    >>> ...  # your adversarial loop, unchanged

warm_start             the warm-up; G and D have their new weights when it returns
WarmStart              what it returns: weights, summary, history; saved, loaded, plotted, shared on the Hub
WarmStartConfig        its settings; the default needs no number
StepReport             the statistics of one iteration, as a callback gets them
inspect                how G and D are called, as a table; changes nothing
Adapter                how G and D are called, where it has to be said
infer_sign             whether D is high on real samples, asked of your own loss
presets                ready adapters for well-known codebases
pilot                  is it worth it here? your own training step from three starts, at the same cost, and a verdict
PilotReport            what it found; printed, saved as a page, a picture and a table
Watch                  for the adversarial loop that follows: measures it, and warns of collapse in words
SlicedWasserstein      the distance between samples and data that the warm-up stops by
CoopInitError          the one error: what was given, what was expected, what to try next
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coopinit_plugin._version import __version__ as __version__
from coopinit_plugin.calling import presets
from coopinit_plugin.calling.adapter import Adapter, infer_sign
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.first_look import inspect
from coopinit_plugin.method.distance import SlicedWasserstein
from coopinit_plugin.result.step_report import StepReport

if TYPE_CHECKING:
    from coopinit_plugin.result.warm_start import WarmStart
    from coopinit_plugin.trial.pilot import pilot
    from coopinit_plugin.trial.report import PilotReport
    from coopinit_plugin.trial.watch import Watch
    from coopinit_plugin.warmup import warm_start
else:
    LATER = {  # where the names are that stand on huggingface_hub or are not for everybody: loaded at their first use
        "PilotReport": "trial.report",
        "WarmStart": "result.warm_start",
        "Watch": "trial.watch",
        "pilot": "trial.pilot",
        "warm_start": "warmup",
    }

    def __getattr__(name: str) -> Any:
        if name not in LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{LATER[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["Adapter", "CoopInitError", "SlicedWasserstein", "StepReport", "WarmStartConfig", "infer_sign", "inspect"]
__all__ += ["PilotReport", "WarmStart", "Watch", "pilot", "presets", "warm_start"]
