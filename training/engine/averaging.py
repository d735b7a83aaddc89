"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average, on the network's device; entries that are no floating-point numbers are copied."""

    def __init__(self, network: nn.Module, decay: Callable[[int], float]) -> None:
        """Begin with the network's weights.

        Args:
            network: whose weights are averaged.
            decay: share that the average keeps in a step, by the number of steps done, from 1.
        """
        self.network, self.decay = network, decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after a step."""
        share = 1 - self.decay(step)
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, share)
            else:
                self.tensors[name].copy_(tensor)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume with a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
