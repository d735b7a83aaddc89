"""Face2Diffusion as a library: a face photo becomes two words in CLIP's text space (`encoder.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import ALIGNMENTS, ORDERS, Alignment, Order

if TYPE_CHECKING:
    from .encoder import FaceEncoder
    from .identity import FaceExpression, FaceIdentity

__all__ = ["ALIGNMENTS", "ORDERS", "Alignment", "FaceEncoder", "FaceExpression", "FaceIdentity", "Order"]


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first used: timm and OpenCV take seconds to load."""
    if name == "FaceEncoder":
        from .encoder import FaceEncoder

        return FaceEncoder
    if name in ("FaceExpression", "FaceIdentity"):
        from . import identity

        return getattr(identity, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
