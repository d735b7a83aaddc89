"""The condition image of the face-landmark ControlNet: white discs at 68 landmarks of every face, on black.

The format is that of Georgefwt/Face-Landmark-ControlNet: discs of radius 2.5 px in an image whose short side
is about 512 px and whose sides are multiples of 64; no lines, and no order among the discs. Landmarks come
from OpenPose keypoints (as most pose preprocessors give them), from FAN, or, coarsely, from a mean face laid
on YuNet's five points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..image import MAX_SIDE, MIN_SIDE, Photo
from .alignment import ARCFACE_TEMPLATE
from .detection import Detector, NoFaceError, find_faces

RESOLUTION = 512  # px, short side
_RADIUS = 2.5  # px
_MULTIPLE = 64  # px
_LONGEST = 4096  # px
_LANDMARKS = 68  # OpenPose adds two pupils
_MIN_CONFIDENCE = 0.3  # of a keypoint; what preprocessors themselves draw
_NORMALIZED = 2.0  # coordinates up to this are shares of the image; a face of 2 px has no landmarks

_AXIS = 55.95  # px
# A mean face in the 112 px ArcFace crop, drawn by hand: what lies left of the axis, then what lies on it.
_LEFT = [
    *[(20.5, 53), (21, 63), (22.5, 73), (25, 83), (29, 92.5), (34.5, 101.5), (41, 109.5), (48, 115.5)],  # jaw
    *[(23.5, 44.5), (28, 39.8), (34.5, 38.2), (41.2, 39.2), (47.5, 41.8)],  # brow
    *[(30.2, 52), (35, 49), (41, 49), (46.4, 52.4), (41.2, 54.2), (35.2, 54.1)],  # eye
    *[(47.3, 77.2), (51.5, 78.7)],  # nostril
    *[(41.5, 92.3), (47, 88.6), (52.6, 86.6), (51.4, 99.4), (46.4, 97)],  # lips, outside
    *[(43.9, 92.3), (52.4, 91.2), (51.6, 94)],  # lips, inside
]
_MIDDLE = [
    (_AXIS, y) for y in (117.5, 50.5, 57.5, 64.7, 71.7, 79.9, 87.6, 99.9, 91.6, 94.1)
]  # chin, bridge and tip of the nose, lips
_MEAN_FACE = np.array([*_LEFT, *((2 * _AXIS - x, y) for x, y in _LEFT), *_MIDDLE])


@dataclass(frozen=True, eq=False)
class LandmarkFrame:
    """The faces in one image."""

    width: int  # px
    height: int  # px
    faces: list[np.ndarray]  # each (N, 2) float, px; N up to 68


def coarse_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Fit a mean face to five landmarks: the best affine map in the least-squares sense.

    Where the face is, how large, how tilted and roughly how turned is right; the shape of eyes, mouth and jaw
    is not this face's.

    Args:
        landmarks: shape (5, 2), px: eyes, nose tip, mouth corners.

    Returns:
        shape (68, 2), px.
    """
    known = np.column_stack([ARCFACE_TEMPLATE, np.ones(len(ARCFACE_TEMPLATE))])
    affine = np.linalg.lstsq(known, np.asarray(landmarks, np.float64), rcond=None)[0]
    return np.column_stack([_MEAN_FACE, np.ones(len(_MEAN_FACE))]) @ affine


def find_landmarks(photo: Photo, detector: Detector | None, min_score: float = 0.6) -> LandmarkFrame:
    """Find the faces in a photo: with FAN their 68 landmarks, with YuNet a mean face laid on five.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        detector: YuNet or FAN.
        min_score: in [0, 1].

    Returns:
        The faces; none if there are none.

    Raises:
        ValueError: there is no detector.
    """
    height, width = photo.shape[:2]
    faces = [
        coarse_landmarks(face.landmarks) if face.landmarks68 is None else face.landmarks68
        for face in find_faces(detector, photo, min_score)
    ]
    return LandmarkFrame(width, height, faces)


def read_pose(pose: Any) -> list[LandmarkFrame]:
    """Read the faces in POSE_KEYPOINT, the keypoints of OpenPose, DWPose or SDPose nodes.

    Args:
        pose: one frame or a list of frames, each a dictionary with `people`, `canvas_width` and
            `canvas_height`; a person has `face_keypoints_2d`, a flat list of x, y, confidence of 68 or 70
            points, in px or as shares of the canvas.

    Returns:
        The frames. People without a face and points that were not seen are left out.

    Raises:
        ValueError: something else than that.
    """
    frames = [pose] if isinstance(pose, Mapping) else pose
    if (
        not isinstance(frames, Sequence)
        or not frames
        or not all(isinstance(frame, Mapping) for frame in frames)
    ):
        raise _not_a_pose(f"it is {type(pose).__name__} {str(pose)[:80]}")
    return [_read_frame(frame) for frame in frames]


def _read_frame(frame: Mapping[str, Any]) -> LandmarkFrame:
    width, height = frame.get("canvas_width", 0), frame.get("canvas_height", 0)
    if not all(
        isinstance(side, int | float | np.number) and MIN_SIDE <= side <= MAX_SIDE for side in (width, height)
    ):
        raise _not_a_pose(f"its canvas has {width}x{height} px")
    people = frame.get("people") or []
    if not isinstance(people, Sequence) or not all(isinstance(person, Mapping) for person in people):
        raise _not_a_pose(f"its people are {str(people)[:80]}")
    faces = [_read_face(person.get("face_keypoints_2d")) for person in people]
    faces = [face for face in faces if len(face)]
    if faces and np.abs(np.concatenate(faces)).max() <= _NORMALIZED:
        faces = [face * (width, height) for face in faces]
    return LandmarkFrame(int(width), int(height), faces)


def _read_face(keypoints: Any) -> np.ndarray:
    try:
        values = np.asarray([] if keypoints is None else keypoints, np.float64).reshape(-1, 3)[:_LANDMARKS]
    except (TypeError, ValueError) as error:
        raise _not_a_pose(f"its face keypoints are {str(keypoints)[:80]}") from error
    seen = np.isfinite(values).all(axis=1) & (values[:, 2] >= _MIN_CONFIDENCE)
    return values[seen, :2]


def _not_a_pose(got: str) -> ValueError:
    return ValueError(
        "This is not a frame of OpenPose keypoints (people with face_keypoints_2d, canvas_width, "
        f"canvas_height): {got}. "
        "Connect the POSE_KEYPOINT output of a DWPose, OpenPose or SDPose node."
    )


def draw_landmarks(frame: LandmarkFrame, resolution: int = RESOLUTION) -> Photo:
    """Draw the ControlNet's input image.

    Args:
        frame: the faces, each of shape (N, 2).
        resolution: short side of the image in px.

    Returns:
        shape (H, W, 3), uint8; each side is the nearest multiple of 64 px.

    Raises:
        ValueError: the image would be longer than 4096 px.
    """
    scale = resolution / min(frame.width, frame.height)
    sides = [max(round(side * scale / _MULTIPLE), 1) * _MULTIPLE for side in (frame.width, frame.height)]
    if max(sides) > _LONGEST:
        raise ValueError(
            f"The image would be {sides[0]}x{sides[1]} px; at most {_LONGEST} px are possible. "
            "Crop it, or lower the resolution."
        )
    image = Image.new("RGB", (sides[0], sides[1]))
    canvas = ImageDraw.Draw(image)
    for face in frame.faces:
        for x, y in face * (sides[0] / frame.width, sides[1] / frame.height):
            canvas.ellipse((x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS), fill="white")
    return np.asarray(image)


def draw_all(frames: Sequence[LandmarkFrame], resolution: int = RESOLUTION) -> list[Photo]:
    """Draw the input images of a batch; an image without a face stays black if another one has a face.

    Args:
        frames: B images.
        resolution: short side in px.

    Returns:
        B images of one size, each of shape (H, W, 3), uint8.

    Raises:
        NoFaceError: there is no face in any.
        ValueError: images of different sizes, or too long.
    """
    if not any(frame.faces for frame in frames):
        raise NoFaceError(
            f"None of {len(frames)} image(s) shows a face. "
            "Use a photo with a larger, frontal face, lower the minimum score, "
            "or let the pose preprocessor look for faces."
        )
    images = [draw_landmarks(frame, resolution) for frame in frames]
    sizes = sorted({image.shape[1::-1] for image in images})
    if len(sizes) > 1:
        raise ValueError(
            f"The images have different sizes: {' and '.join(f'{w}x{h}' for w, h in sizes)} px. "
            "Process them one by one."
        )
    return images
