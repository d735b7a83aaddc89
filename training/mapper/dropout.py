"""Dropout whose masks derive from the samples, whichever process a sample is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..engine.seeds import uniform


@contextmanager
def sampled_dropout(network: nn.Module, seeds: Tensor) -> Iterator[None]:
    """Let each sample bring its own masks to every `nn.Dropout` of a network while the block runs.

    Args:
        network: takes a batch of B rows; every dropout in it sees shape (B, N).
        seeds: shape (B,), of the samples.

    Yields:
        Nothing.
    """
    first = 0

    def drop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        nonlocal first
        (x,), rate = inputs, getattr(module, "p", 0.0)
        if not module.training or not rate:
            return None
        keep = uniform(seeds, first, x.shape[1]) >= rate  # (B, N)
        first += x.shape[1]
        return x * keep / (1 - rate)

    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    handles = [module.register_forward_hook(drop) for module in dropouts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
