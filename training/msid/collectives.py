"""Exchanges between processes that gradients flow through; with one process they do nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Return whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors of all processes, each (b, ...), to (B, ...); without gradient."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_features(features: Tensor) -> Tensor:
    """Concatenate the features of all processes; gradient flows back to each process's own.

    Args:
        features: shape (b, C).

    Returns:
        shape (B, C); the same tensor if there is one process.
    """
    return _GatherFeatures.apply(features) if is_distributed() else features


class _GatherFeatures(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:  # (b, C) -> (B, C)
        context.size = len(features)
        return gather(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # (B, C) -> (b, C)
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # what all shards want of each feature
        return gradient[dist.get_rank() * context.size :][: context.size]


def reduce(tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    """Reduce a tensor over all processes, in place; without gradient."""
    if is_distributed():
        dist.all_reduce(tensor, operation)
    return tensor


def add_up(tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes; gradient flows back to all."""
    return _Sum.apply(tensor)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return reduce(tensor.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return reduce(gradient.clone())
