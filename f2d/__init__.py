"""Face2Diffusion as a library: from a face photo to two words in CLIP's text space. See `encoder.py` for the data flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .encoder import FaceEncoder
    from .identity import FaceExpression, FaceIdentity

__all__ = ["ALIGNMENTS", "ORDERS", "Alignment", "FaceEncoder", "FaceExpression", "FaceIdentity", "Order"]

Alignment = Literal["detect", "FFHQ", "112 px"]  # look for the face, or take a picture that is already aligned
ALIGNMENTS: tuple[Alignment, ...] = ("detect", "FFHQ", "112 px")
Order = Literal["largest", "left to right"]  # how the faces in a photo are counted
ORDERS: tuple[Order, ...] = ("largest", "left to right")


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first used: timm and OpenCV take seconds to load."""
    if name == "FaceEncoder":
        from .encoder import FaceEncoder

        return FaceEncoder
    if name in ("FaceExpression", "FaceIdentity"):
        from . import identity

        return getattr(identity, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
