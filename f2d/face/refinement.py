"""More looks at each detected face, for exact landmarks of faces of any size and roll.

YuNet gives turned faces upright landmarks with high scores, and its landmarks waver: a small change of the
photo's size or place moves them by several percent of the distance between the eyes.
  cells    every cell of YuNet's grid that sees the face guesses: their mean wavers less than the best guess
  turns    the face's surroundings every 45 degrees: the turn with the best score is right
  aligned  the face upright, at sizes at which YuNet is exact and mirrored too: the mean of these looks
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..image import Photo, mirror
from .alignment import ARCFACE_TEMPLATE, TEMPLATE_SIZE, mirror_landmarks, similarity_transform
from .face import Face, box_overlaps
from .search import Look

_TURNS = 8  # with four, a face at 45 degrees lies between two turns, and a wrong one may win
_TURN_FACE, _TURN_SIDE = 96, 160  # px: the face's longer side, and the image around it
_TEMPLATE_FACE = 105  # px: the longer side of YuNet's box in ArcFace's crop
# Face and side in px, and whether mirrored. The first look only centers the face for the others.
_ALIGNED_LOOKS = (
    (160, 256, False),
    (250, 352, False),
    (200, 288, True),
    (250, 352, True),
    (200, 288, False),
    (160, 256, True),
)
# Candidates farther from the middle, as a share of the face's side, are other faces.
_TURN_SHIFT, _ALIGNED_SHIFT = 0.5, 0.25
_SAME_FACE = 0.4  # intersection over union
_LARGE_FACE = 300  # px: the longer side to which a face is reduced once, for all looks
_ROOM = 2.6  # sides of a face that the looks see around it


def refine_face(look: Look, photo: Photo, face: Face) -> Face | None:
    """Find the turn and the exact landmarks of a detected face.

    Args:
        look: gives all guesses about faces in a small image, without suppressing overlapping ones.
        photo: shape (H, W, 3), uint8, RGB.
        face: as detected, at any turn.

    Returns:
        The face with the mean landmarks and the best score of the aligned looks; None if there is no such
        look, because the face is not found again.
    """
    photo, transform = _reduce(photo, face)
    face = face.moved(transform)
    found, scores = _best_turn(look, photo, face) or face, []
    for number, (size, side, mirrored) in enumerate(_ALIGNED_LOOKS):
        again = _look_aligned(look, photo, found, size, side, mirrored)
        if again is None:
            break
        scores.append(again.score)
        step = (again.landmarks - found.landmarks) / max(number, 1)  # keeps the mean of the looks
        found = replace(again, landmarks=found.landmarks + step)
    if not scores:
        return None
    return replace(found, score=max(scores)).moved(cv2.invertAffineTransform(transform))


def _reduce(photo: Photo, face: Face) -> tuple[Photo, np.ndarray]:
    """Crop and reduce the surroundings of a large face; also return the (2, 3) transform to them."""
    longer = float(face.box[2:].max())
    if longer <= _LARGE_FACE:
        return photo, np.eye(2, 3)
    side = round(_ROOM * _LARGE_FACE)
    transform = _center(face, _LARGE_FACE / longer, side)
    return cut_region(photo, transform, side), transform


def _center(face: Face, zoom: float, side: int) -> np.ndarray:
    """Return the (2, 3) transform that brings a face to the middle of a square image."""
    return np.column_stack([np.eye(2) * zoom, (side - 1) / 2 - face.center * zoom])


def _best_turn(look: Look, photo: Photo, face: Face) -> Face | None:
    """Detect in a face's surroundings at eight rotations; None if no rotation shows a face."""
    room = round(_TURN_SIDE * 2**0.5)
    transform = _center(face, _TURN_FACE / max(float(face.box[2:].max()), 1.0), room)
    crop = cut_region(photo, transform, room)
    found = []
    for angle in np.arange(_TURNS) * (2 * np.pi / _TURNS):
        rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        turn = np.column_stack([rotation, (_TURN_SIDE - 1) / 2 - rotation @ np.full(2, (room - 1) / 2)])
        guesses = look(cut_region(crop, turn, _TURN_SIDE))
        best = _merge_central(guesses, _TURN_SIDE, _TURN_FACE, _TURN_SHIFT)
        if best is not None:
            found.append(best.moved(cv2.invertAffineTransform(turn)))
    if not found:
        return None
    return max(found, key=lambda face: face.score).moved(cv2.invertAffineTransform(transform))


def _look_aligned(look: Look, photo: Photo, face: Face, size: int, side: int, mirrored: bool) -> Face | None:
    """Detect a face again, upright and at one size; None if it is not found."""
    target = (ARCFACE_TEMPLATE - TEMPLATE_SIZE / 2) * (size / _TEMPLATE_FACE) + (side - 1) / 2
    try:
        transform = similarity_transform(face.landmarks, target)
    except ValueError:  # coinciding landmarks
        return None
    crop = cut_region(photo, transform, side)
    found = _merge_central(look(mirror(crop) if mirrored else crop), side, size, _ALIGNED_SHIFT)
    if found is None:
        return None
    return (_mirror_face(found, side) if mirrored else found).moved(cv2.invertAffineTransform(transform))


def _merge_central(guesses: list[Face], side: int, size: int, max_shift: float) -> Face | None:
    """Average the guesses about the best face in the middle of a square image, of about the expected size."""
    near = [
        guess
        for guess in guesses
        if np.hypot(*(guess.center - side / 2)) < max_shift * size and 0.5 < guess.box[2:].max() / size < 2
    ]
    if not near:
        return None
    best = max(near, key=lambda guess: guess.score)
    overlaps = box_overlaps(best.box, np.array([guess.box for guess in near]))
    same = [guess for guess, overlap in zip(near, overlaps, strict=True) if overlap > _SAME_FACE]
    weights = [guess.score for guess in same]
    return Face(
        np.average([guess.box for guess in same], axis=0, weights=weights),
        np.average([guess.landmarks for guess in same], axis=0, weights=weights),
        best.score,
    )


def _mirror_face(face: Face, width: int) -> Face:
    """Return the face in the mirror image."""
    x, y, *size = face.box
    return Face(
        np.array([width - x - size[0], y, *size]), mirror_landmarks(face.landmarks, width), face.score
    )


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
        part = part[: size[1] * shrink, : size[0] * shrink]  # whole blocks are three times as fast
        zoom = np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        transform[:, 2] += transform[:, :2] @ (zoom / 2 - 0.5)  # pixel centers
        transform[:, :2] *= zoom
    return cv2.warpAffine(part, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
