"""The one error class of the library."""


class CoopInitError(RuntimeError):
    """What was given, what was expected, and the next thing to try."""
