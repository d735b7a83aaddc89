"""FFHQ's crop of a photo from five landmarks [NVlabs/ffhq-dataset], and the face within such a crop."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ..image import Photo
from .alignment import ARCFACE_TEMPLATE, TEMPLATE_SIZE, move_points, similarity_transform, square_side, warp

_OVERSAMPLING = 4  # FFHQ cuts 4096 px out, then shrinks to 1024 px
_BORDER, _MIN_BORDER = 0.1, 3  # kept around the square: share of its side; px
_PADDING = 0.3  # added where the square leaves the photo: share of its side
_PADDING_SLACK = 4  # px that may be missing unnoticed
_BLUR = 0.02  # of the padding: sigma as a share of the square's side
_BLUR_RADIUS = 4  # sigmas


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


def align_ffhq(photo: Photo, landmarks: np.ndarray, size: int) -> Photo:
    """Crop the upright square around a face as FFHQ does.

    Outside the photo, its blurred mirror image fades to the median color.

    The steps: shrink by a whole number, cut the square's surroundings out, pad, sample the square bilinearly
    at four times the size (FFHQ: 4096 px for 1024), and shrink with Lanczos.

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
    """Crop the square of `align_ffhq` from a mask, which is empty outside the photo.

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


def crop_ffhq(photo: Photo, size: int = TEMPLATE_SIZE) -> Photo:
    """Cut the ArcFace crop from an FFHQ crop, without landmarks.

    Where the face lies in such an image follows from FFHQ's own rule, applied to the template.

    Args:
        photo: shape (S, S, 3), uint8, RGB.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB.

    Raises:
        ValueError: the image is not square.
    """
    side = square_side(photo)
    transform = similarity_transform(_corners(side), ffhq_quad(ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE)))
    return warp(photo, transform, size)


def ffhq_landmarks(side: int) -> np.ndarray:
    """Return the five landmarks of an average face in an image that is aligned the FFHQ way.

    Args:
        side: of the image, px.

    Returns:
        shape (5, 2), float64, px; the ArcFace crop from them is that of `crop_ffhq`.
    """
    return move_points(ARCFACE_TEMPLATE, similarity_transform(ffhq_quad(ARCFACE_TEMPLATE), _corners(side)))


def ffhq_transform(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Where `align_ffhq` puts the photo's points in its crop.

    Args:
        landmarks: shape (5, 2), px in the photo.
        size: side of the crop in px.

    Returns:
        shape (2, 3), for `move_points`.
    """
    return similarity_transform(ffhq_quad(landmarks), _corners(size))


def resize_ffhq(photo: Photo, size: int) -> Photo:
    """Resize an FFHQ crop of shape (S, S, 3), uint8, to shape (size, size, 3) with Lanczos."""
    return np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.LANCZOS))


def resize_ffhq_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a mask of shape (S, S), bool, to (size, size): a pixel counts if more than half of it is in."""
    return cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA) > 0.5


def _corners(side: int) -> np.ndarray:
    """The corners of a square image in the order of `ffhq_quad`: the first pixel's center is at 0."""
    return np.array([(0, 0), (0, side), (side, side), (side, 0)]) - 0.5


def _checked_quad(photo: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    points = np.asarray(landmarks, np.float64)
    height, width = photo.shape[:2]
    inside = np.isfinite(points).all() and ((points >= 0) & (points < (width, height))).all(axis=1).any()
    quad = ffhq_quad(points) if inside and np.ptp(points, axis=0).max() >= 1 else None
    if quad is None or not 1 <= _side(quad) < 8 * (width + height):
        raise ValueError(
            f"The landmarks {points.tolist()} are not those of a face inside the {width}x{height} px photo. "
            "Use another photo."
        )
    return quad


def _side(quad: np.ndarray) -> float:
    return float(np.hypot(*(quad[3] - quad[0])))


def _bounds(quad: np.ndarray) -> tuple[int, int, int, int]:
    left, top = np.floor(quad.min(0)).astype(int)
    right, bottom = np.ceil(quad.max(0)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _pad(image: np.ndarray, padding: np.ndarray, sigma: float) -> Photo:
    """Mirror (H, W, 3) float at its edges; farther out it is blurred, then of the median color."""
    left, top, right, bottom = (int(amount) for amount in padding)
    image = np.pad(image, ((top, bottom), (left, right), (0, 0)), "reflect")
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inside_x = np.minimum(x / left, (width - 1 - x) / right)
    inside_y = np.minimum(y / top, (height - 1 - y) / bottom)
    # 1 at the edge, 0 where the photo begins, negative inside it
    outside = (1 - np.minimum(inside_x, inside_y))[:, :, None]
    kernel = 2 * int(_BLUR_RADIUS * sigma + 0.5) + 1
    blurred = cv2.GaussianBlur(image, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT)
    image += (blurred - image) * (3 * outside + 1).clip(0, 1)
    image += (np.median(image, axis=(0, 1)) - image) * outside.clip(0, 1)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def _sample(image: Image.Image, quad: np.ndarray, size: int, shrink: Image.Resampling) -> Image.Image:
    large = (size * _OVERSAMPLING,) * 2
    corners = (quad + 0.5).ravel().tolist()  # Pillow's pixel centers are at 0.5
    return image.transform(large, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR).resize(
        (size, size), shrink
    )
