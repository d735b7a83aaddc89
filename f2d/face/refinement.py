"""A second look at each detected face, for exact landmarks of faces of any size and roll.

YuNet gives turned faces upright landmarks with high scores, and the landmarks of small and very large faces
waver.
  eight turns   the face's surroundings every 45 degrees: the turn with the best score is right
  aligned       the face upright at the size at which YuNet is most exact, until the landmarks stay
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..image import Photo
from .alignment import ARCFACE_TEMPLATE, TEMPLATE_SIZE, similarity_transform
from .face import Face
from .search import Look

_TURNS = 8  # with four, a face at 45 degrees lies between two turns, and a wrong one may win
_TURN_FACE, _TURN_SIDE = 96, 160  # px: the face's longer side, and the image around it
_ALIGNED_FACE, _ALIGNED_SIDE = 250, 400  # px: as above, for the aligned looks
_TEMPLATE_FACE = 105  # px: the longer side of YuNet's box in ArcFace's crop
_ALIGNED_LOOKS = 2
_MAX_SHIFT = 0.5  # of the face's side: candidates farther from the middle are other faces


def refine_face(look: Look, photo: Photo, face: Face) -> Face | None:
    """Find the turn and the exact landmarks of a detected face.

    Args:
        look: detects faces in a small image.
        photo: shape (H, W, 3), uint8, RGB.
        face: as detected, at any turn.

    Returns:
        The face with the landmarks of the last aligned look and the best score of all; None where there is no
        such look, because the face is not found again.
    """
    found, scores = _best_turn(look, photo, face) or face, []
    for _ in range(_ALIGNED_LOOKS):
        again = _look_aligned(look, photo, found)
        if again is None:
            break
        found = again
        scores.append(again.score)
    return replace(found, score=max(scores)) if scores else None


def _best_turn(look: Look, photo: Photo, face: Face) -> Face | None:
    """Look at a face's surroundings in eight turns; None where no turn shows a face."""
    zoom = _TURN_FACE / max(float(face.box[2:].max()), 1.0)
    room = round(_TURN_SIDE * 2**0.5)
    transform = np.column_stack([np.eye(2) * zoom, (room - 1) / 2 - face.center * zoom])
    crop = cut_region(photo, transform, room)
    found = []
    for angle in np.arange(_TURNS) * (2 * np.pi / _TURNS):
        rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        turn = np.column_stack([rotation, (_TURN_SIDE - 1) / 2 - rotation @ np.full(2, (room - 1) / 2)])
        best = _central(look(cut_region(crop, turn, _TURN_SIDE)), _TURN_SIDE, _TURN_FACE)
        if best is not None:
            found.append(best.moved(cv2.invertAffineTransform(turn)))
    if not found:
        return None
    return max(found, key=lambda face: face.score).moved(cv2.invertAffineTransform(transform))


def _look_aligned(look: Look, photo: Photo, face: Face) -> Face | None:
    """Look at a face once more, upright and at one size; None where it is not found again."""
    zoom = _ALIGNED_FACE / _TEMPLATE_FACE
    target = (ARCFACE_TEMPLATE - TEMPLATE_SIZE / 2) * zoom + _ALIGNED_SIDE / 2
    try:
        transform = similarity_transform(face.landmarks, target)
    except ValueError:  # coinciding landmarks
        return None
    best = _central(look(cut_region(photo, transform, _ALIGNED_SIDE)), _ALIGNED_SIDE, _ALIGNED_FACE)
    return None if best is None else best.moved(cv2.invertAffineTransform(transform))


def _central(faces: list[Face], side: int, size: int) -> Face | None:
    """Choose the best face in the middle of a square image, of roughly the expected size."""
    near = [
        face
        for face in faces
        if np.hypot(*(face.center - side / 2)) < _MAX_SHIFT * size and 0.5 < face.box[2:].max() / size < 2
    ]
    return max(near, key=lambda face: face.score, default=None)


def cut_region(photo: Photo, transform: np.ndarray, side: int) -> Photo:
    """Warp a part of a photo without aliasing; the photo's edges are continued.

    Args:
        photo: shape (H, W, 3), uint8.
        transform: shape (2, 3), from px of the photo to px of the result.
        side: of the result, px.

    Returns:
        shape (side, side, 3), uint8.
    """
    height, width = photo.shape[:2]
    corners = np.array([(0, 0), (side, 0), (0, side), (side, side)], np.float64)
    corners = corners @ (back := cv2.invertAffineTransform(transform))[:, :2].T + back[:, 2]
    left, top = np.floor(corners.min(0)).astype(int).clip(0, (width - 1, height - 1))
    right, bottom = np.ceil(corners.max(0)).astype(int).clip((left + 1, top + 1), (width, height))
    part, transform = photo[top:bottom, left:right], transform.copy()
    transform[:, 2] += transform[:, :2] @ (left, top)
    shrink = int(1 / np.hypot(*transform[:, 0]))
    if shrink > 1:
        size = max(part.shape[1] // shrink, 1), max(part.shape[0] // shrink, 1)
        zoom = np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        transform[:, 2] += transform[:, :2] @ (zoom / 2 - 0.5)  # pixel centers
        transform[:, :2] *= zoom
    return cv2.warpAffine(part, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
