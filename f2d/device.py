"""Where networks run, and how much they are given at once."""

from __future__ import annotations

import torch


def best_device() -> str:
    """Name the best available device: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pass_size(device: torch.device) -> int:
    """Images per forward pass; on a CPU the activations of more than a few do not stay in its cache."""
    return 8 if device.type == "cpu" else 64
