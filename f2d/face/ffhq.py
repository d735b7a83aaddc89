"""The FFHQ crop of a photo from five landmarks [NVlabs/ffhq-dataset], and what mirrors a face."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ..image import Photo
from .alignment import ffhq_quad

_OVERSAMPLING = 4  # FFHQ cuts 4096 px out, then shrinks to 1024 px
_BORDER, _MIN_BORDER = 0.1, 3  # kept around the square: share of its side; px
_PADDING, _PADDING_SLACK = (
    0.3,
    4,
)  # added where the square leaves the photo: share of its side; px that may be missing unnoticed
_BLUR = 0.02  # of the padding: sigma as a share of the square's side
_BLUR_RADIUS = 4  # sigmas


def align_ffhq(photo: Photo, landmarks: np.ndarray, size: int) -> Photo:
    """Cut out the upright square around a face as FFHQ does; outside the photo, its blurred mirror fades to the median color.

    The steps: shrink by a whole number, cut the square's surroundings out, pad, sample the square bilinearly at four times the size
    (FFHQ: 4096 px for 1024), and shrink with Lanczos.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px in the photo.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB.

    Raises:
        ValueError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    quad = _checked_quad(photo, landmarks)
    side = _side(quad)
    image = Image.fromarray(photo)
    shrink = int(side / size * 0.5)
    if shrink > 1:
        image = image.resize(
            (max(1, round(image.width / shrink)), max(1, round(image.height / shrink))),
            Image.Resampling.LANCZOS,
        )
        quad, side = quad / shrink, side / shrink
    border = max(round(side * _BORDER), _MIN_BORDER)
    left, top, right, bottom = _bounds(quad)
    corner = max(left - border, 0), max(top - border, 0)
    image = image.crop((*corner, min(right + border, image.width), min(bottom + border, image.height)))
    quad = quad - corner
    left, top, right, bottom = _bounds(quad)
    missing = [
        max(amount + border, 0) for amount in (-left, -top, right - image.width, bottom - image.height)
    ]
    if max(missing) > border - _PADDING_SLACK:
        padding = np.maximum(missing, round(side * _PADDING))
        image = Image.fromarray(_pad(np.asarray(image, np.float32), padding, side * _BLUR))
        quad = quad + padding[:2]
    return np.asarray(_sample(image, quad, size, Image.Resampling.LANCZOS))


def align_ffhq_mask(mask: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Cut the square of `align_ffhq` out of a mask; outside the photo there is nothing.

    Args:
        mask: shape (H, W), bool.
        landmarks: shape (5, 2), px in the photo.
        size: side of the crop in px.

    Returns:
        shape (size, size), bool.

    Raises:
        ValueError: as for `align_ffhq`.
    """
    gray = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(_sample(gray, _checked_quad(mask, landmarks), size, Image.Resampling.BOX)) > 127


def mirror_landmarks(landmarks: np.ndarray, width: int) -> np.ndarray:
    """Give the landmarks of the mirrored photo: left and right change their names too.

    Args:
        landmarks: shape (5, 2), px.
        width: of the photo, px.

    Returns:
        shape (5, 2), float64, px.
    """
    mirrored = np.asarray(landmarks, np.float64)[[1, 0, 2, 4, 3]]
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def mirror(photo: Photo) -> Photo:
    """Flip a picture of shape (H, W, 3), uint8, horizontally."""
    return np.ascontiguousarray(photo[:, ::-1])


def _checked_quad(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    points = np.asarray(landmarks, np.float64)
    height, width = photo.shape[:2]
    inside = np.isfinite(points).all() and ((points >= 0) & (points < (width, height))).all(axis=1).any()
    quad = ffhq_quad(points) if inside and np.ptp(points, axis=0).max() >= 1 else None
    if quad is None or not 1 <= _side(quad) < 8 * (width + height):
        raise ValueError(
            f"Expected a face inside the {width}x{height} px photo, got landmarks {points.tolist()}. Use another photo."
        )
    return quad


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def _bounds(quad: np.ndarray) -> tuple[int, int, int, int]:
    left, top = np.floor(quad.min(0)).astype(int)
    right, bottom = np.ceil(quad.max(0)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _pad(picture: np.ndarray, padding: np.ndarray, sigma: float) -> Photo:
    """Mirror (H, W, 3) float at its edges; the farther out, the more it is blurred, then of the median color."""
    left, top, right, bottom = (int(amount) for amount in padding)
    picture = np.pad(picture, ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = picture.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inside_x = np.minimum(x / left, (width - 1 - x) / right)
    inside_y = np.minimum(y / top, (height - 1 - y) / bottom)
    outside = (1 - np.minimum(inside_x, inside_y))[
        :, :, None
    ]  # 1 at the edge, 0 where the photo begins, negative inside it
    kernel = 2 * int(_BLUR_RADIUS * sigma + 0.5) + 1
    blurred = cv2.GaussianBlur(picture, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT)
    picture += (blurred - picture) * (3 * outside + 1).clip(0, 1)
    picture += (np.median(picture, axis=(0, 1)) - picture) * outside.clip(0, 1)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _sample(image: Image.Image, quad: np.ndarray, size: int, shrink: Image.Resampling) -> Image.Image:
    large = (size * _OVERSAMPLING,) * 2
    corners = (quad + 0.5).ravel().tolist()  # Pillow's pixel centers are at 0.5
    return image.transform(large, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR).resize(
        (size, size), shrink
    )
