"""The optimizer of every training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..config import TrainingConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainingConfig, fused: bool | None = None
) -> torch.optim.Optimizer:
    """Build AdamW.

    Args:
        parameters: what is trained.
        config: of the run.
        fused: update in one pass over the weights; None = where torch has it.

    Returns:
        The optimizer.
    """
    if fused is None:
        fused = torch.cuda.is_available() or not torch.backends.mps.is_available()
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )
