"""The optimizer of the mapper and of the miniature's networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def make_optimizer(network: nn.Module, config: Any) -> torch.optim.Optimizer:
    """Make AdamW for a network; in one fused pass over the weights where torch has it.

    Args:
        network: all its parameters are trained.
        config: of the run, with `lr` and `weight_decay`.

    Returns:
        The optimizer.
    """
    fused = torch.cuda.is_available() or not torch.backends.mps.is_available()
    return torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
    )
