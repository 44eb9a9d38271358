"""Ctrl-C as a wish: the first is noted, so that a step can be finished and saved; the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from medseg3d.termination import Interrupted


class TrainingInterrupted(Interrupted):
    """Training was stopped by the user or a scheduler; its state is saved."""


class Interruption:
    """While entered, the first SIGINT or SIGTERM sets ``wished`` and ``number`` instead of raising."""

    def __init__(self) -> None:
        self.wished = False
        self.number: int = signal.SIGINT
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wished, self.number = True, number
        self.__exit__()
