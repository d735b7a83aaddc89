"""A clean way to stop a run: SIGTERM and Ctrl-C let it finish the step and save."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Listens for SIGTERM and Ctrl-C until it is closed."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.received = False
        self._before: dict[int, Any] = {number: signal.signal(number, self._stop) for number in _STOPPING}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received:  # a second Ctrl-C does not wait for the step to end
            raise KeyboardInterrupt
        self.received = True

    def close(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def ignore_signals() -> None:
    """Leave signals to the main process; for loader processes, which a signal to the whole group would end before the last step."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
