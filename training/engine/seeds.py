"""Seeds that depend on what they are for, never on what ran before."""

from __future__ import annotations


def derive_seed(*parts: int) -> int:
    """Mix numbers (seed, step, rank, ...) to one seed, so that nothing random depends on what ran before (SplitMix64)."""
    mixed = 0
    for part in parts:
        mixed = (mixed ^ part) + 0x9E3779B97F4A7C15
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63
