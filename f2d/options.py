"""The choices that nodes, commands and functions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

# Look for the face, or take an image that is already aligned: an FFHQ crop, or ArcFace's.
Alignment = Literal["detect", "FFHQ", "112 px"]
ALIGNMENTS: tuple[Alignment, ...] = ("detect", "FFHQ", "112 px")
Order = Literal["largest", "left to right"]  # how the faces in a photo are counted
ORDERS: tuple[Order, ...] = ("largest", "left to right")
Faces = Literal["all", "largest", "index"]  # which faces of an image are cropped
FACES: tuple[Faces, ...] = ("all", "largest", "index")


@dataclass(frozen=True, eq=False)
class FaceChoice:
    """Which face of a photo is taken."""

    order: Order = "largest"  # how faces are counted
    index: int = 0  # from 0
    min_score: float = 0.6  # of the detector, in [0, 1]
    landmarks: np.ndarray | Sequence[Sequence[float]] | None = (
        None  # (5, 2) or (68, 2) px, instead of detection
    )
    faces: Sequence[Any] | None = None  # each a face.face.Face, found elsewhere, instead of detection
    box: np.ndarray | Sequence[float] | None = None  # x, y, width, height px: the face in it, not the index


LARGEST_FACE = FaceChoice()
