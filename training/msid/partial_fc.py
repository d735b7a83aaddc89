"""The classifier W of Eq. 3 with its rows divided among the processes (PartialFC), so that any number of identities fits.

Dimension letters: b batch of this process, B batch of all processes, C feature width, K classes, k classes of this process.

    features (b,C) --gather--> (B,C) --cosines with own rows (k,C)--> (B,k) --margin, softmax over all shards--> loss

Every process computes the same loss, that of the whole batch over all classes. Its gradient for own rows and own features is
exact; gradients of what lies before the features (the encoder) have to be summed, not averaged, over the processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.seeds import derive_seed
from ..losses import arcface_loss

_INITIAL_STD = 0.01  # of W, as insightface
_INITIAL_BLOCK = 1024  # rows drawn from one seed, so that W does not depend on the number of processes
_ROWS, _SAMPLE = range(2)  # what a seed is for


class ShardedClassifier(nn.Module):
    """The rows of W that belong to this process; with one process, all of them."""

    def __init__(
        self,
        classes: int,
        width: int,
        scale: float = 64.0,
        margin: float = 0.5,
        sample_rate: float = 1.0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Draw this process's rows.

        Args:
            classes: K, over all processes.
            width: C.
            scale: s of Eq. 3.
            margin: m of Eq. 3.
            sample_rate: share of the classes in a step's softmax; those of the batch are always in it. The others' rows get no
                gradient, but go on moving by the optimizer's momentum.
            seed: of the rows and of the sampling.
            rank: of this process.
            world: number of processes; more than one needs `torch.distributed`.

        Raises:
            ValueError: fewer than two classes, or no share between 0 and 1.
        """
        super().__init__()
        if classes < 2:
            raise ValueError(
                f"Expected at least 2 classes to tell apart, got {classes}. Train on photos of more people."
            )
        if not 0 < sample_rate <= 1:
            raise ValueError(
                f"Expected a sample rate above 0 and up to 1, got {sample_rate}. Use 1 for all classes."
            )
        self.classes, self.scale, self.margin, self.sample_rate = classes, scale, margin, sample_rate
        self.seed, self.rank, self.world = seed, rank, world
        share = -(-classes // world)
        self.first = min(rank * share, classes)
        self.count = min(share, classes - self.first)
        self.weight = nn.Parameter(_initial_rows(seed, self.first, self.count, width))  # (k, C)

    def forward(self, features: Tensor, labels: Tensor, step: int = 0) -> Tensor:
        """Compute the loss of the batch of all processes.

        Args:
            features: shape (b, C); b is the same on every process.
            labels: shape (b,), in [0, K).
            step: which sample of the classes to use.

        Returns:
            scalar, the same on every process: the mean over the B samples.
        """
        features, labels = gather_features(features), _gather(labels)  # (B, C), (B,)
        own = (labels >= self.first) & (labels < self.first + self.count)
        labels = torch.where(own, labels - self.first, -1)  # (B,) into own rows
        weight: Tensor = self.weight  # (k, C)
        if self.sample_rate < 1:
            kept, labels = self._sample(labels, step)
            weight = weight[kept]
        with torch.autocast(
            features.device.type, enabled=False
        ):  # in bf16 a logit would be wrong by an eighth
            cosines = F.linear(F.normalize(features.to(weight.dtype)), F.normalize(weight))  # (B, k)
            return arcface_loss(cosines, labels, self.scale, self.margin, _ShardedCrossEntropy.apply)

    def _sample(self, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Choose the own rows of this step, (k',), and give the labels as places among them; does not depend on the sharding."""
        generator = torch.Generator(labels.device).manual_seed(derive_seed(self.seed, _SAMPLE, step))
        draws = torch.rand(self.classes, generator=generator, device=labels.device)[
            self.first : self.first + self.count
        ]
        keep = draws < self.sample_rate
        keep[labels[labels >= 0]] = True
        place = keep.cumsum(0) - 1  # of each row among those kept
        places = torch.full_like(labels, -1)
        places[labels >= 0] = place[labels[labels >= 0]]
        return keep.nonzero().squeeze(1), places


def _initial_rows(seed: int, first: int, count: int, width: int) -> Tensor:
    """Draw rows [first, first + count) of the initial W, (count, width), which are the same whatever the number of processes."""
    blocks = [torch.empty(0, width)]
    for block in range(first // _INITIAL_BLOCK, -(-(first + count) // _INITIAL_BLOCK) if count else 0):
        generator = torch.Generator().manual_seed(derive_seed(seed, _ROWS, block))
        rows = torch.randn(_INITIAL_BLOCK, width, generator=generator) * _INITIAL_STD
        start = block * _INITIAL_BLOCK
        blocks.append(rows[max(first - start, 0) : first + count - start])
    return torch.cat(blocks)


def is_distributed() -> bool:
    """Tell whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gather(tensor: Tensor) -> Tensor:
    """Put the tensors of all processes, each (b, ...), one after another: (B, ...); without gradient."""
    if not is_distributed():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_features(features: Tensor) -> Tensor:
    """Put the features of all processes one after another; gradient flows back to each process's own.

    Args:
        features: shape (b, C).

    Returns:
        shape (B, C); the same tensor where there is one process.
    """
    return _GatherFeatures.apply(features) if is_distributed() else features


class _GatherFeatures(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor) -> Tensor:  # (b, C) -> (B, C)
        context.size = len(features)
        return _gather(features)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # (B, C) -> (b, C)
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # what all shards want of each feature
        return gradient[dist.get_rank() * context.size :][: context.size]


class _ShardedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of logits whose classes are divided among the processes."""

    @staticmethod
    def forward(
        context: Any, logits: Tensor, labels: Tensor
    ) -> Tensor:  # (B, k), (B,) with -1 for others' classes -> scalar
        rows = (labels >= 0).nonzero().squeeze(1)
        lowest = logits.new_full(
            (len(logits), 1), torch.finfo(logits.dtype).min
        )  # a process may have no class at all
        largest = _reduce(
            torch.cat([logits, lowest], dim=1).amax(dim=1, keepdim=True), dist.ReduceOp.MAX
        )  # (B, 1)
        softmax = (logits - largest).exp()  # (B, k), still to be divided
        true = logits.new_zeros(len(logits))  # (B,)
        true[rows] = logits[rows, labels[rows]]
        total, true = _reduce(torch.stack([softmax.sum(dim=1), true]), dist.ReduceOp.SUM)  # (B,), (B,)
        context.save_for_backward(softmax.div_(total[:, None]), rows, labels)
        return (total.log() + largest[:, 0] - true).mean()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        softmax, rows, labels = context.saved_tensors
        gradient = gradient / len(softmax)
        own = softmax * gradient  # (B, k)
        own[rows, labels[rows]] -= gradient
        return own, None


def _reduce(tensor: Tensor, operation: Any) -> Tensor:
    if is_distributed():
        dist.all_reduce(tensor, operation)
    return tensor


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """Batch normalization over the batch of all processes, on any device; tensor names as `nn.BatchNorm1d`."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

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
        mean = _sum(x.mean(dim=0)) / world  # (C,)
        variance = _sum((x - mean).square().mean(dim=0)) / world  # (C,)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * size / max(size - 1, 1), self.momentum)
        return ((x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(dtype)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return _reduce(tensor.clone(), dist.ReduceOp.SUM)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _reduce(gradient.clone(), dist.ReduceOp.SUM)


def _sum(tensor: Tensor) -> Tensor:
    return _Sum.apply(tensor)


def synchronize_norms(module: nn.Module) -> None:
    """Make every batch normalization in a module one over all processes; weights stay as they are.

    Args:
        module: changed in place.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = SynchronizedBatchNorm
