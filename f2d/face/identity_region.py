"""A face's square for refining words, and M in it: which part of the square is the face.

photo (H, W, 3) with a located face, and optionally a mask of the user's
  -> crop_identity   FFHQ's crop (S, S, 3) and its mask (S, S)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..image import Photo, mirror
from .alignment import ARCFACE_TEMPLATE, move_points, similarity_transform
from .cropping import LocatedFace
from .ffhq import align_ffhq_mask, ffhq_transform, resize_ffhq_mask

# An oval in ArcFace's 112 px crop, from the hair line over the brows to the chin.
_CENTER = 55.95, 59.5  # px
_RADII = 37.0, 55.0  # px


@dataclass(frozen=True, eq=False)
class IdentityCrop:
    """A face's square, and what of it is the face."""

    image: Photo  # (S, S, 3)
    mask: np.ndarray  # (S, S) bool

    def mirrored(self) -> IdentityCrop:
        """Flip both horizontally."""
        return IdentityCrop(mirror(self.image), np.ascontiguousarray(self.mask[:, ::-1]))


def crop_identity(located: LocatedFace, size: int, mask: np.ndarray | None = None) -> IdentityCrop:
    """Crop a face as FFHQ does, with its mask.

    Args:
        located: the face.
        size: side of the crop in px.
        mask: shape (H, W), bool, of the photo; None = an oval from the landmarks.

    Returns:
        The crop of shape (size, size, 3) and its mask of shape (size, size).

    Raises:
        ValueError: a 112 px crop, which is only the face, a face outside the photo, or a mask without the
            face.
    """
    if located.alignment == "112 px":
        raise ValueError(
            "A 112 px crop shows too little around the face to refine with. "
            "Use the whole photo, or an FFHQ crop."
        )
    if mask is None:
        landmarks = move_points(located.landmarks, ffhq_transform(located.landmarks, size))
        return IdentityCrop(located.align_ffhq(size), face_oval(landmarks, size, size))
    height, width = located.photo.shape[:2]
    if mask.shape != (height, width):
        raise ValueError(
            f"The mask has {mask.shape[1]}x{mask.shape[0]} px, but its photo {width}x{height}. "
            "Make the mask from the photo."
        )
    if located.alignment == "FFHQ":
        cropped = resize_ffhq_mask(mask, size)
    else:
        cropped = align_ffhq_mask(mask, located.landmarks, size)
    if not cropped.any():
        raise ValueError("The mask is empty where the face is. Paint the face, or leave the mask out.")
    return IdentityCrop(located.align_ffhq(size), cropped)


def face_oval(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """Mark a face, from the hair line over the brows to the chin, as an oval that tilts with it.

    Args:
        landmarks: shape (5, 2), px: eyes, nose tip, mouth corners.
        width: of the image, px.
        height: of the image, px.

    Returns:
        shape (height, width), bool.
    """
    to_template = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    points = move_points(np.stack([x, y], axis=-1).reshape(-1, 2), to_template)
    return (np.hypot(*((points - _CENTER) / _RADII).T) <= 1).reshape(height, width)


def draw_region(crop: IdentityCrop) -> Photo:
    """Darken what is not the face: shape (size, size, 3), uint8."""
    return np.where(crop.mask[..., None], crop.image, crop.image // 3)
