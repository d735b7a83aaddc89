"""Where networks run, and how much they are given at once."""

from __future__ import annotations

import torch


def best_device() -> str:
    """Name the best available device: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_device(name: str | None = None) -> str:
    """Check that a device works.

    Args:
        name: such as "cuda:1", "mps" or "cpu"; None or "" = the best available.

    Returns:
        Its name.

    Raises:
        ValueError: this machine or this build of PyTorch does not have it.
    """
    if not name:
        return best_device()
    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # each backend raises its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"The device '{name}' is not available here ({reason}). Use '{best_device()}', or leave the "
            "device out."
        ) from error
    return name


def describe_device(device: str) -> str:
    """Name a device for reports, such as "NVIDIA H100 80GB HBM3", "mps" or "8 CPU threads"."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda.get_device_name(device)
    if kind != "cpu":
        return kind
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"


def pass_size(device: torch.device) -> int:
    """Images per forward pass; on a CPU the activations of more than a few do not stay in its cache."""
    return 8 if device.type == "cpu" else 64
