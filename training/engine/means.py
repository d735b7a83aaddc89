"""Means of what many samples report, over an interval of steps and over all processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .processes import Processes


class RunningMeans:
    """Weighted means by name; nothing leaves the device until they are read."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add values.

        Args:
            values: by name, shape (..., 2): a sum and its weight; all steps add the same names.
        """
        for name, pairs in values.items():
            total = pairs.detach().reshape(-1, 2).sum(0)
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def take(self, processes: Processes) -> dict[str, float]:
        """Compute the means over all processes, which all call this, and start over.

        Returns:
            by name; what has no weight is left out.
        """
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))  # (N, 2)
        processes.add_up([sums])
        names, self._sums = list(self._sums), {}
        return {
            name: total / weight for name, (total, weight) in zip(names, sums.tolist(), strict=True) if weight
        }
