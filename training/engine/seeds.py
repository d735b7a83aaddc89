"""Seeds that depend on what they are for, never on what ran before."""

from __future__ import annotations

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64


def derive_seed(*parts: int) -> int:
    """Mix numbers (seed, step, rank, ...) to one seed (SplitMix64)."""
    mixed = 0
    for part in parts:
        mixed = (mixed ^ part) + _STEP
        mixed = (mixed ^ (mixed >> 30)) * _FIRST % 2**64
        mixed = (mixed ^ (mixed >> 27)) * _SECOND % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63


def uniform(seeds: Tensor, first: int, count: int) -> Tensor:
    """Compute numbers of each seed's own random stream (SplitMix64), the same on every device.

    Args:
        seeds: shape (B,), int64, of `derive_seed`.
        first: place in the stream.
        count: N.

    Returns:
        shape (B, N), float32, in [0, 1).
    """
    places = torch.arange(first + 1, first + count + 1, device=seeds.device)  # (N,)
    mixed = seeds[:, None] + places * _signed(_STEP)  # (B, N); int64 wraps as uint64 does
    mixed = (mixed ^ _shift(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shift(mixed, 27)) * _signed(_SECOND)
    mixed = mixed ^ _shift(mixed, 31)
    return _shift(mixed, 40).float() * 2.0**-24


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def _shift(numbers: Tensor, bits: int) -> Tensor:
    """Shift to the right as unsigned numbers."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
