"""DVAR's stopping rule (reference [56] of the paper): stop when a deterministic loss no longer varies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class VarianceRule:
    """Stops once the variance of the last losses is small beside that of all losses."""

    def __init__(
        self, evaluate: Callable[[], float], every: int = 5, window: int = 10, threshold: float = 0.15
    ) -> None:
        """Set the rule.

        Args:
            evaluate: computes the loss, always with the same noise and timesteps.
            every: steps between evaluations.
            window: number of last losses.
            threshold: share of the variance of all losses below which training stops; DVAR's is 0.15.
        """
        self.evaluate, self.every, self.window, self.threshold = evaluate, every, window, threshold
        self.losses: list[float] = []
        self.stopped_at: int | None = None

    def __call__(self, step: int) -> bool:
        """Tell whether to stop after `step` steps."""
        if step % self.every:
            return False
        self.losses.append(self.evaluate())
        recent = self.losses[-self.window :]
        if len(recent) == self.window and np.var(recent) < self.threshold * np.var(self.losses):
            self.stopped_at = step
        return self.stopped_at is not None
