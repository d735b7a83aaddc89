"""From landmarks to the upright 112 px face crop that the identity encoder was trained on (ArcFace's template)."""

from __future__ import annotations

import cv2
import numpy as np

from ..image import Photo

TEMPLATE_SIZE = 112  # px
# ArcFace's five points in a 112 x 112 crop, px: image-left eye, image-right eye, nose tip, image-left and -right mouth corner.
ARCFACE_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    dtype=np.float64,
)


def five_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Reduce 68 landmarks to five as the authors do: means of six points for the eyes, then nose tip and mouth corners.

    Args:
        landmarks: shape (5, 2) (returned as it is) or (68, 2) in the iBUG 300-W order, px.

    Returns:
        shape (5, 2), px.
    """
    if len(landmarks) == 5:
        return landmarks
    return np.stack(
        [landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[30], landmarks[48], landmarks[54]]
    )


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, uniform scale and shift in the least-squares sense (Umeyama's solution in two dimensions).

    Args:
        source: shape (N, 2), px.
        target: shape (N, 2), px.

    Returns:
        shape (2, 3), float64: [a -b tx; b a ty], which takes source points to target points.

    Raises:
        ValueError: the source points coincide, or are not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_source, mean_target = source.mean(0), target.mean(0)
    x, y = (source - mean_source).T
    u, v = (target - mean_target).T
    spread = float((x**2 + y**2).sum())
    if (
        not np.isfinite(spread) or spread < 1.0
    ):  # px^2; shares of the picture's size instead of px end here too
        raise ValueError(
            f"Expected landmarks at different places, got {source.tolist()}. Check their order and units (px)."
        )
    a, b = float((x * u + y * v).sum()) / spread, float((x * v - y * u).sum()) / spread
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack([rotation, mean_target - rotation @ mean_source])


def align_face(photo: Photo, landmarks: np.ndarray, size: int = TEMPLATE_SIZE) -> Photo:
    """Warp the face onto ArcFace's template with bilinear sampling and a black border.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px in the photo, in the template's order.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB.

    Raises:
        ValueError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    landmarks = np.asarray(landmarks, np.float64)
    transform = similarity_transform(landmarks, ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE))
    height, width = photo.shape[:2]
    if not ((landmarks >= 0) & (landmarks < (width, height))).all(axis=1).any():
        raise ValueError(
            f"Expected a face inside the {width}x{height} px photo, got landmarks {landmarks.tolist()}. Use another photo."
        )
    return _warp(photo, transform, size)


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Corners of the square that FFHQ's alignment cuts out for a face [NVlabs/ffhq-dataset].

    Args:
        landmarks: shape (5, 2), px.

    Returns:
        shape (4, 2), float64, px: top left, bottom left, bottom right, top right.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eyes
    x = eye_to_eye + eye_to_mouth[::-1] * (1, -1)
    x *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth)) / np.hypot(*x)
    y = x[::-1] * (-1, 1)
    center = eyes + 0.1 * eye_to_mouth
    return np.stack([center - x - y, center - x + y, center + x + y, center + x - y])


def crop_ffhq(photo: Photo, size: int = TEMPLATE_SIZE) -> Photo:
    """Cut the ArcFace crop out of a picture that is already aligned the FFHQ way; no landmarks are needed.

    Where the face lies in such a picture follows from FFHQ's own rule, applied to the template.

    Args:
        photo: shape (S, S, 3), uint8, RGB.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB.

    Raises:
        ValueError: the picture is not square.
    """
    side = square_side(photo, "an FFHQ-aligned picture")
    corners = np.array([(0, 0), (0, side), (side, side), (side, 0)]) - 0.5  # the first pixel's center is at 0
    transform = similarity_transform(corners, ffhq_quad(ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE)))
    return _warp(photo, transform, size)


def ffhq_landmarks(side: int) -> np.ndarray:
    """Where the five landmarks of an average face lie in a picture that is aligned the FFHQ way.

    Args:
        side: of the picture, px.

    Returns:
        shape (5, 2), float64, px; the ArcFace crop from them is that of `crop_ffhq`.
    """
    corners = np.array([(0, 0), (0, side), (side, side), (side, 0)]) - 0.5
    transform = similarity_transform(ffhq_quad(ARCFACE_TEMPLATE), corners)
    return ARCFACE_TEMPLATE @ transform[:, :2].T + transform[:, 2]


def _warp(photo: Photo, transform: np.ndarray, size: int) -> Photo:
    # Not warpAffine: OpenCV 4 rounds its coordinates otherwise, and the authors warp in perspective.
    return cv2.warpPerspective(photo, np.vstack([transform, (0, 0, 1)]), (size, size), flags=cv2.INTER_LINEAR)


def crop_aligned(photo: Photo, size: int = TEMPLATE_SIZE) -> Photo:
    """Bring a picture that already is an ArcFace crop to the encoder's size.

    Args:
        photo: shape (S, S, 3), uint8, RGB.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB; the same pixels where S = size.

    Raises:
        ValueError: the picture is not square.
    """
    side = square_side(photo, "an aligned face crop")
    return (
        photo
        if side == size
        else cv2.resize(
            photo, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        )
    )


def square_side(photo: Photo, what: str) -> int:
    """Give the side S of a picture of shape (S, S, 3), px; raise a ValueError where it is not square."""
    height, width = photo.shape[:2]
    if height != width:
        raise ValueError(
            f"Expected {what}, which is square, got {width}x{height} px. Set the alignment to 'detect' for a photo."
        )
    return height
