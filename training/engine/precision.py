"""Number formats of a training: autocast, the loss scale of float16, and TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..config import Precision

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_LOWEST_SCALE = 2.0**-16


def compute_dtype(precision: Precision) -> torch.dtype:
    """Name the dtype of frozen networks and of autocast."""
    return _DTYPES[precision]


def autocast(device: str, precision: Precision) -> AbstractContextManager:
    """Compute in half precision where PyTorch holds it for safe; nothing changes for "no".

    Args:
        device: "cuda", "cuda:0", "cpu", ...
        precision: of the run.
    """
    if precision == "no":
        return nullcontext()
    return torch.autocast(torch.device(device).type, compute_dtype(precision))


@contextmanager
def tf32(device: str) -> Iterator[None]:
    """Let float32 products on a GPU run in TF32 while the block runs."""
    before = torch.get_float32_matmul_precision()
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def make_scaler(device: str, precision: Precision) -> torch.amp.GradScaler:
    """Build the loss scaler of float16; it does nothing for other formats."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")


def scale_is_lost(scaler: torch.amp.GradScaler) -> bool:
    """Return whether the scale has fallen so far that no gradient in float16 is finite at any."""
    return scaler.is_enabled() and scaler.get_scale() < _LOWEST_SCALE
