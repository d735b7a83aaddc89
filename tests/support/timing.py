"""Two callables timed in turn, so that their ratio holds although the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Medians of two callables that ran in turn, and the median of their ratios."""

    first: float  # seconds
    second: float  # seconds
    ratio: float  # first / second


def time_in_turn(first: Callable, second: Callable, rounds: int = 15) -> Pair:
    """Call both in turn after a warm-up each, `rounds` times."""
    first(), second()
    times = [(_seconds(first), _seconds(second)) for _ in range(rounds)]
    firsts, seconds = zip(*times, strict=True)
    return Pair(
        statistics.median(firsts), statistics.median(seconds), statistics.median(a / b for a, b in times)
    )


def _seconds(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
