"""The classifier W of Eq. 3 with its rows divided among the processes (PartialFC): any number of them fits.

Dimension letters: b batch of this process, B batch of all processes, C feature width,
K classes, k classes of this process.

    features (b,C) --gather--> (B,C) --cosines with own rows (k,C)--> (B,k)
        --margin, softmax over all shards--> loss

Every process computes the same loss, that of the whole batch over all classes. Its gradient for own rows and
own features is exact; gradients of what lies before the features (the encoder) have to be summed, not
averaged, over the processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TrainingConfig
from ..engine.optimizer import make_optimizer
from ..engine.seeds import derive_seed
from ..losses import arcface_loss
from .collectives import gather, gather_features, reduce

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
        """Initialize this process's rows of W.

        Args:
            classes: K, over all processes.
            width: C.
            scale: s of Eq. 3.
            margin: m of Eq. 3.
            sample_rate: share of the classes in a step's softmax; those of the batch are always in it. The
                others' rows get no gradient, but the optimizer's momentum still moves them.
            seed: of the rows and of the sampling.
            rank: of this process.
            world: number of processes; more than one needs `torch.distributed`.

        Raises:
            ValueError: fewer than two classes, or no share between 0 and 1.
        """
        super().__init__()
        if classes < 2:
            raise ValueError(f"A classifier needs at least 2 people; there are {classes}. Add more.")
        if not 0 < sample_rate <= 1:
            raise ValueError(
                f"The sample rate {sample_rate} is not above 0 and up to 1. Use 1 for all classes."
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
        features, labels = gather_features(features), gather(labels)  # (B, C), (B,)
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
        """Choose the own rows of this step, (k',), and give the labels as places among them."""
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


class ClassifierTraining:
    """A classifier with its optimizer, as the part of a training that is divided among the processes."""

    def __init__(self, classifier: ShardedClassifier, config: TrainingConfig) -> None:
        """Build the optimizer.

        Args:
            classifier: on its device.
            config: of the run.
        """
        self.classifier = classifier
        on_gpu = classifier.weight.is_cuda
        self.optimizer = make_optimizer(classifier.parameters(), config, fused=on_gpu)

    def state(self) -> dict[str, Any]:
        """Return this process's rows of W and of AdamW's moments."""
        (state,) = self.optimizer.state_dict()["state"].values() or ({},)
        return {"classes": self.classifier.classes, "weight": self.classifier.weight.detach(), **state}

    def load(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Extract this process's rows from the states of all former processes, in order.

        Args:
            parts: of `state`; tensors of shape (k, C).
        """
        optimizer = self.optimizer.state_dict()
        moments = {
            name: self._own_rows(parts, name) for name in ("exp_avg", "exp_avg_sq") if name in parts[0]
        }
        if moments:
            optimizer["state"] = {0: {"step": parts[0]["step"].clone(), **moments}}
        self.optimizer.load_state_dict(optimizer)
        with torch.no_grad():
            self.classifier.weight.copy_(self._own_rows(parts, "weight"))

    def _own_rows(self, parts: Sequence[Mapping[str, Any]], name: str) -> Tensor:
        first, last = self.classifier.first, self.classifier.first + self.classifier.count
        rows, start = [parts[0][name][:0]], 0
        for part in parts:
            tensor = part[name]  # (k, C); only what is taken is read from the file
            rows.append(tensor[max(first - start, 0) : max(last - start, 0)])
            start += len(tensor)
        return torch.cat(rows)


def _initial_rows(seed: int, first: int, count: int, width: int) -> Tensor:
    """Return rows [first, first + count) of the initial W, (count, width), independent of the sharding."""
    blocks = [torch.empty(0, width)]
    for block in range(first // _INITIAL_BLOCK, -(-(first + count) // _INITIAL_BLOCK) if count else 0):
        generator = torch.Generator().manual_seed(derive_seed(seed, _ROWS, block))
        rows = torch.randn(_INITIAL_BLOCK, width, generator=generator) * _INITIAL_STD
        start = block * _INITIAL_BLOCK
        blocks.append(rows[max(first - start, 0) : first + count - start])
    return torch.cat(blocks)


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
        largest = reduce(
            torch.cat([logits, lowest], dim=1).amax(dim=1, keepdim=True), dist.ReduceOp.MAX
        )  # (B, 1)
        softmax = (logits - largest).exp()  # (B, k), still to be divided
        true = logits.new_zeros(len(logits))  # (B,)
        true[rows] = logits[rows, labels[rows]]
        total, true = reduce(torch.stack([softmax.sum(dim=1), true]))  # (B,), (B,)
        context.save_for_backward(softmax.div_(total[:, None]), rows, labels)
        return (total.log() + largest[:, 0] - true).mean()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        softmax, rows, labels = context.saved_tensors
        gradient = gradient / len(softmax)
        own = softmax * gradient  # (B, k)
        own[rows, labels[rows]] -= gradient
        return own, None
