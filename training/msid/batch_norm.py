"""Batch normalization over the batch of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .collectives import add_up, is_distributed


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the batch of all processes, on any device; tensor names stay."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    @classmethod
    def of(cls, norm: nn.BatchNorm1d) -> SynchronizedBatchNorm:
        """Build one with the weights and statistics of another, which it shares."""
        synchronized = cls(norm.num_features, norm.eps, norm.momentum)
        synchronized.weight, synchronized.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            synchronized.register_buffer(name, buffer)
        return synchronized.train(norm.training)

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Normalize.

        Args:
            x: shape (b, C); b is the same on every process.

        Returns:
            shape (b, C).
        """
        if not (self.training and is_distributed()):
            return super().forward(x)
        dtype, x = x.dtype, x.float()
        world = dist.get_world_size()
        size = len(x) * world
        mean = add_up(x.mean(dim=0)) / world  # (C,)
        variance = add_up((x - mean).square().mean(dim=0)) / world  # (C,)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * size / max(size - 1, 1), self.momentum)
        return ((x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(dtype)


def synchronize_norms(module: nn.Module) -> None:
    """Replace every `nn.BatchNorm1d` in a module by a synchronized one with its weights.

    Args:
        module: changed in place; its tensor names stay.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                parent.register_module(name, SynchronizedBatchNorm.of(child))
