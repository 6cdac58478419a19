"""Signals that must not arrive in the middle: held back for a moment, or until a last checkpoint is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from coopinit_plugin.errors import CoopInitError


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[Callable[[], None]]:
    """Hold signals back, where this is the main thread; gives what lets them through to the handlers that were there.

    What has not been let through inside arrives at the end.
    """
    previous = {number: signal.getsignal(number) for number in numbers} if _is_main_thread() else {}
    previous = {number: handler for number, handler in previous.items() if handler is not None}  # None: not Python's
    arrived: list[tuple[int, FrameType | None]] = []

    def let_through() -> None:
        if arrived and callable(handler := previous[signal.Signals(arrived[0][0])]):
            handler(*arrived.pop(0))

    def keep(number: int, frame: FrameType | None) -> None:
        if all(number != known for known, _ in arrived):
            arrived.append((number, frame))

    for caught in previous:
        signal.signal(caught, keep)
    try:
        yield let_through
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
        for number, _ in arrived:
            signal.raise_signal(signal.Signals(number))


class Termination:
    """SIGTERM, as a scheduler sends it, put off to a moment at which a checkpoint can be written.

    Args:
        wanted: Whether to watch for it; it is not watched outside the main thread, nor where it is ignored.

    Attributes:
        asked: Whether it has arrived.
    """

    def __init__(self, wanted: bool) -> None:
        self.asked = False
        self._previous: Any = None
        self._watches = wanted and _is_main_thread() and signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN)

    def __enter__(self) -> Termination:
        if self._watches:
            self._previous = signal.signal(signal.SIGTERM, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watches:
            signal.signal(signal.SIGTERM, self._previous)
            if self.asked:
                signal.raise_signal(signal.SIGTERM)

    def obey(self, where: object) -> None:
        """Do as the handler that was there before does; come back where that one does.

        Raises:
            CoopInitError: where another process was asked, not this one.
        """
        if not self.asked:
            raise CoopInitError(
                f"Another process was asked to end (SIGTERM), so the warm-up ends in all. {where} holds all of it: "
                "call warm_start with resume=True to go on."
            )
        self.asked = False
        signal.signal(signal.SIGTERM, self._previous)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
