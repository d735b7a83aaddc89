"""Stochastic depth whose masks derive from the samples, whichever process a sample is in.

"drop path": each sample skips a layer's branch with a probability that rises with depth [Huang et al. 2016].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...f2d.networks.msid import MSIDEncoder
from ..engine.seeds import uniform


@contextmanager
def sampled_drop_path(encoder: MSIDEncoder, rate: float, seeds: Tensor) -> Iterator[None]:
    """Let each sample skip branches of its own while the block runs.

    Args:
        encoder: in training mode; each layer has two branches, attention and MLP.
        rate: of the deepest layer, in [0, 1); it rises linearly from 0 at the first.
        seeds: shape (B,), of the samples.

    Yields:
        Nothing.
    """
    blocks: Any = encoder.blocks
    draws = uniform(seeds, 0, 2 * len(blocks))  # (B, 2 * layers)
    rates = torch.linspace(0, rate, len(blocks)).repeat_interleave(2).tolist()
    branches = [branch for block in blocks for branch in (block.drop_path1, block.drop_path2)]

    def skip(place: int) -> Any:
        kept = (draws[:, place] >= rates[place]) / (1 - rates[place])  # (B,)
        return lambda module, inputs, output: output * kept[:, None, None].to(output.dtype)

    handles = [branch.register_forward_hook(skip(place)) for place, branch in enumerate(branches)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
