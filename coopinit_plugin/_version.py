"""The version, where every room can read it without a circle."""

__version__ = "0.1.0"
