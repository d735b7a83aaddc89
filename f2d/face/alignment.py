"""From landmarks to the upright crops that the networks were trained on.

five landmarks (5, 2) px
  -> align_face        ArcFace's crop, 112 px, for the identity encoder
  -> align_expression  Deep3DFaceRecon's crop, 224 px, for the expression network (Sec. 3.3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ..image import Photo

TEMPLATE_SIZE = 112  # px
# Five points: image-left eye, image-right eye, nose tip, image-left mouth corner, image-right one.
# ArcFace's, in a 112 px crop:
ARCFACE_TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    dtype=np.float64,
)
EXPRESSION_SIZE = 224  # px
_FACE_SCALE = 102.0  # px in the expression crop for one unit of the mean face
# The same five points of the mean face (Basel face model).
MEAN_FACE = np.array(
    [
        (-0.31148657, 0.29036078, 0.13377953),
        (0.30979887, 0.28972036, 0.13179526),
        (0.0032535, -0.04617932, 0.55244243),
        (-0.25216928, -0.38133916, 0.22405732),
        (0.2484662, -0.38128236, 0.22235769),
    ]
)


def five_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Reduce 68 landmarks to five as the authors do: means of six points for eyes, nose tip, mouth.

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


def mesh_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Reduce the landmarks of MediaPipe's face mesh to five: eyes (corners and lids), nose tip, mouth.

    Args:
        landmarks: shape (N, 2) with N at least 468, in MediaPipe's order, px.

    Returns:
        shape (5, 2), px.
    """
    eyes = landmarks[[[33, 133, 159, 145], [263, 362, 386, 374]]].mean(1)  # the person's right one first
    return np.concatenate([eyes, landmarks[[1, 61, 291]]])


def expression_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Reduce 68 landmarks to Deep3DFaceRecon's five: eyes from their corners, nose tip, mouth corners.

    Args:
        landmarks: shape (5, 2) (returned as it is) or (68, 2) in the iBUG 300-W order, px.

    Returns:
        shape (5, 2), px.
    """
    if len(landmarks) == 5:
        return landmarks
    left_eye, right_eye = (landmarks[36] + landmarks[39]) / 2, (landmarks[42] + landmarks[45]) / 2
    return np.stack([left_eye, right_eye, landmarks[30], landmarks[48], landmarks[54]])


def mirror_landmarks(landmarks: np.ndarray, width: int) -> np.ndarray:
    """Return the landmarks of the mirrored photo: left and right change their names too.

    Args:
        landmarks: shape (5, 2), px.
        width: of the photo, px.

    Returns:
        shape (5, 2), float64, px.
    """
    mirrored = np.asarray(landmarks, np.float64)[[1, 0, 2, 4, 3]]
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return mirrored


def set_upright(photo: Photo, landmarks: np.ndarray) -> tuple[Photo, np.ndarray]:
    """Turn a photo by the quarter turns after which the face's roll is within 45 degrees.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px.

    Returns:
        The photo, as it is where the face is upright, and the landmarks in it.

    Raises:
        ValueError: the landmarks coincide, or are not finite.
    """
    transform = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    quarters = round(-np.arctan2(transform[1, 0], transform[0, 0]) / (np.pi / 2)) % 4
    for _ in range(quarters):
        landmarks = np.column_stack([landmarks[:, 1], photo.shape[1] - 1 - landmarks[:, 0]])
        photo = np.rot90(photo)
    return np.ascontiguousarray(photo), landmarks


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit rotation, uniform scale and shift by least squares (Umeyama's solution in two dimensions).

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
    if not np.isfinite(spread) or spread < 1.0:  # px^2; shares of the image's size instead of px end here too
        raise ValueError(
            f"The landmarks {source.tolist()} coincide or are not finite. Check their order and units (px)."
        )
    a, b = float((x * u + y * v).sum()) / spread, float((x * v - y * u).sum()) / spread
    rotation = np.array([[a, -b], [b, a]])
    return np.column_stack([rotation, mean_target - rotation @ mean_source])


def inverse_similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the similarity from target to source by least squares, and invert it, as MATLAB's cp2tform does.

    Landmarks never match a template exactly; then this fit has a larger scale than `similarity_transform`, by
    0.5 to 3 % for real faces.

    Args:
        source: shape (N, 2), px.
        target: shape (N, 2), px.

    Returns:
        shape (2, 3), float64, from source to target.

    Raises:
        ValueError: the points of one side coincide, or are not finite.
    """
    similarity_transform(source, target)  # checks the source
    return cv2.invertAffineTransform(similarity_transform(target, source))


def align_face(
    photo: Photo,
    landmarks: np.ndarray,
    size: int = TEMPLATE_SIZE,
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray] = similarity_transform,
) -> Photo:
    """Warp the face onto ArcFace's template with bilinear sampling and a black border.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px in the photo, in the template's order.
        size: side of the crop in px.
        fit: similarity_transform or inverse_similarity_transform.

    Returns:
        shape (size, size, 3), uint8, RGB.

    Raises:
        ValueError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    landmarks = np.asarray(landmarks, np.float64)
    transform = fit(landmarks, ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE))
    height, width = photo.shape[:2]
    if not ((landmarks >= 0) & (landmarks < (width, height))).all(axis=1).any():
        raise _outside(photo, landmarks)
    return warp(photo, transform, size)


def move_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Apply a transform of shape (2, 3), as of `similarity_transform`, to points of shape (N, 2)."""
    return points @ transform[:, :2].T + transform[:, 2]


def warp(photo: Photo, transform: np.ndarray, size: int) -> Photo:
    """Warp a photo of shape (H, W, 3) by a transform of shape (2, 3) to shape (size, size, 3)."""
    # Not warpAffine: OpenCV 4 rounds its coordinates otherwise, and the authors warp in perspective.
    return cv2.warpPerspective(photo, np.vstack([transform, (0, 0, 1)]), (size, size), flags=cv2.INTER_LINEAR)


def crop_aligned(photo: Photo, size: int = TEMPLATE_SIZE) -> Photo:
    """Resize an ArcFace crop to the encoder's size.

    Args:
        photo: shape (S, S, 3), uint8, RGB.
        size: side of the crop in px.

    Returns:
        shape (size, size, 3), uint8, RGB; the same pixels where S = size.

    Raises:
        ValueError: the image is not square.
    """
    side = square_side(photo)
    if side == size:
        return photo
    return cv2.resize(photo, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)


def square_side(photo: Photo) -> int:
    """Return the side of an aligned image of shape (S, S, 3), px; raise a ValueError if it is not square."""
    height, width = photo.shape[:2]
    if height != width:
        raise ValueError(
            f"An aligned image is square; this one has {width}x{height} px. "
            "Set the alignment to 'detect' for a photo."
        )
    return height


@dataclass(frozen=True)
class ExpressionCrop:
    """Deep3DFaceRecon's crop: the photo is resized to (width, height), then cut at (left, top), all px."""

    shift: tuple[float, float]  # t, px, with y upwards
    scale: float  # s, px for one unit of the mean face
    width: int
    height: int
    left: int
    top: int


def fit_expression_crop(landmarks: np.ndarray, width: int, height: int) -> ExpressionCrop:
    """Fit a scaled orthographic camera that takes the mean face to the landmarks, and derive the crop.

    Args:
        landmarks: shape (5, 2), px, y downwards.
        width: of the photo, px.
        height: of the photo, px.

    Returns:
        The crop's numbers.

    Raises:
        ValueError: the landmarks coincide, or are not finite.
    """
    points = np.asarray(landmarks, np.float64) * (1, -1) + (0, height - 1)
    model = np.column_stack([MEAN_FACE, np.ones(5)])
    if not np.isfinite(points).all():
        raise ValueError(f"The landmarks {points.tolist()} are not finite. Use another photo.")
    camera = np.linalg.lstsq(model, points, rcond=None)[0]  # (4, 2): a column for x and one for y
    shift = float(camera[3, 0]), float(camera[3, 1])
    scale = float(np.linalg.norm(camera[:3], axis=0).mean())
    if scale < 1:
        raise ValueError(f"The landmarks {np.asarray(landmarks).tolist()} coincide. Use another photo.")
    zoom = _FACE_SCALE / scale
    new_width, new_height = int(width * zoom), int(height * zoom)
    left = int(new_width / 2 - EXPRESSION_SIZE / 2 + (shift[0] - width / 2) * zoom)
    top = int(new_height / 2 - EXPRESSION_SIZE / 2 + (height / 2 - shift[1]) * zoom)
    return ExpressionCrop(shift, scale, new_width, new_height, left, top)


def align_expression(photo: Photo, landmarks: np.ndarray) -> Photo:
    """Cut Deep3DFaceRecon's crop: bicubic, black outside the photo.

    Only the part of the photo under the crop is resampled; the result is that of resizing the whole photo
    first.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px, as `expression_landmarks` gives them.

    Returns:
        shape (224, 224, 3), uint8, RGB.

    Raises:
        ValueError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    height, width = photo.shape[:2]
    crop = fit_expression_crop(landmarks, width, height)
    x0, x1 = max(crop.left, 0), min(crop.left + EXPRESSION_SIZE, crop.width)
    y0, y1 = max(crop.top, 0), min(crop.top + EXPRESSION_SIZE, crop.height)
    if x0 >= x1 or y0 >= y1:
        raise _outside(photo, landmarks)
    zoom_x, zoom_y = width / crop.width, height / crop.height
    box = (x0 * zoom_x, y0 * zoom_y, min(x1 * zoom_x, width), min(y1 * zoom_y, height))
    part = Image.fromarray(photo).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
    face = np.zeros((EXPRESSION_SIZE, EXPRESSION_SIZE, 3), np.uint8)
    face[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left] = np.asarray(part)
    return face


def _outside(photo: Photo, landmarks: np.ndarray) -> ValueError:
    height, width = photo.shape[:2]
    return ValueError(
        f"The face lies outside the {width}x{height} px photo: its landmarks are "
        f"{np.asarray(landmarks).tolist()}. Use another photo."
    )
