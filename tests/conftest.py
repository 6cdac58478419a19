"""What every test runs in: one thread, the CPU, no network, and Accelerate's singletons as a fresh process has them.

Nearly a second of CPU time goes into the picture of a result, so that a test of pictures says so by
``@pytest.mark.pictures``; all others get a blank one beside the weights they save.
"""

from __future__ import annotations

import io
import os
import signal

os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background ignores it

settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", parent=settings.get_profile("default"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config):
    config.addinivalue_line("markers", "pictures: the pictures of results are drawn, not left blank")


@pytest.fixture(autouse=True)
def _world():
    """Seeded randomness at the start, Accelerate forgotten at the end."""
    import torch

    torch.manual_seed(0)
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def pytest_collectstart():
    """Before any test is imported, and not in the process that only hands the tests out: it needs no torch."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def blank() -> bytes:
    """A PNG without anything on it."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, format="png")
    return file.getvalue()


@pytest.fixture(autouse=True)
def _blank_pictures(request, monkeypatch, blank):
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("coopinit_plugin.result.warm_start.draw", lambda path, *_: path.write_bytes(blank))
