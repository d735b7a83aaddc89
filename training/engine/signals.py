"""A clean way to stop a run: SIGTERM and Ctrl-C let it finish the step and save."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_GRACE = 20  # seconds that a loader process keeps serving after a SIGTERM


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
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def outlive_signals() -> None:
    """Let a loader process serve the last step of a main process that was asked to stop.

    Ctrl-C on a terminal and the SIGTERM of a cluster's scheduler go to all processes of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))
