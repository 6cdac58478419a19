"""The one error class of the library."""

from __future__ import annotations


class CoopInitError(RuntimeError):
    """What was given, what was expected, and the next thing to try."""
