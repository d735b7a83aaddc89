"""Faces in a photo: box, score and five landmarks, from YuNet (OpenCV) or, as the authors' are, from FAN."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch

from ..files import check_file
from ..image import Photo
from ..options import ORDERS, Order
from .alignment import five_landmarks

# Long side in px and border as a share of it, pass after pass until a face is found. YuNet sees faces of
# 10 to 300 px: a close-up needs a smaller image and room around the head, a face in a crowd a larger image.
_PASSES = ((1024, 0.0), (512, 0.25), (256, 0.5), (2048, 0.0))
_LARGEST_FACE = 300  # px
_MIN_INPUT = 64  # px; OpenCV 4 finds faces in nothing where a side is one cell of 32 px
_CANDIDATE_SCORE = 0.1  # below the threshold faces are still collected, to tell the user how near they were


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a photo; coordinates are px in that photo."""

    box: np.ndarray  # (4,) float: x, y, width, height
    landmarks: np.ndarray  # (5, 2) float: eyes, nose tip, mouth corners, each pair from image-left
    score: float  # in [0, 1]
    landmarks68: np.ndarray | None = None  # (68, 2) float in the iBUG 300-W order, from FAN only

    def to_json(self) -> str:
        """Write the face as JSON, for a file's metadata."""
        return json.dumps({key: np.asarray(value).tolist() for key, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Face:
        """Read what `to_json` wrote; raise a ValueError or KeyError where it is damaged."""
        values = json.loads(text)
        fine = values["landmarks68"]
        return cls(
            np.array(values["box"]),
            np.array(values["landmarks"]),
            float(values["score"]),
            None if fine is None else np.array(fine),
        )


class NoFaceError(ValueError):
    """No face with the demanded score is in the photo."""


class Detector(Protocol):
    """What finds faces."""

    def detect(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        """Find all faces in a photo of shape (H, W, 3) with this score; else raise NoFaceError."""
        ...


def _create_yunet(path: str) -> cv2.FaceDetectorYN:
    """Read the file in Python: on Windows, OpenCV opens no path with letters beyond the system's code page."""
    create = cv2.FaceDetectorYN.create
    if "bufferModel" not in (create.__doc__ or ""):  # OpenCV before 4.9
        return create(path, "", (320, 320), _CANDIDATE_SCORE)
    with open(path, "rb") as file:
        model = np.frombuffer(file.read(), np.uint8)
    return create("onnx", model, np.empty(0, np.uint8), (320, 320), _CANDIDATE_SCORE)


class YuNet:
    """OpenCV's YuNet (`face_detection_yunet_2023mar.onnx` or `..._2026may.onnx`; OpenCV 4.5.4 to 5)."""

    def __init__(self, path: str | os.PathLike) -> None:
        """Load the detector.

        Args:
            path: the .onnx file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not YuNet (a Git-LFS pointer, for instance).
        """
        path = check_file(path, "the YuNet detector (.onnx)")
        try:
            self._net = _create_yunet(path)
            self._net.detect(np.zeros((320, 320, 3), np.uint8))
        except (cv2.error, IndexError, AttributeError) as error:  # before 4.5.4 there is no FaceDetectorYN
            raise ValueError(
                f"OpenCV {cv2.__version__} cannot run '{path}' as the YuNet detector. "
                "Download face_detection_yunet_2026may.onnx (or 2023mar) from OpenCV Zoo again."
            ) from error

    def detect(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        """Find all faces with at least the given score, trying other scales and a border before giving up.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            min_score: in [0, 1].

        Returns:
            Faces in descending order of score; at least one.

        Raises:
            NoFaceError: no face reaches the score; the message names the best candidate.
        """
        best = 0.0
        for number, (long_side, border) in enumerate(_PASSES):
            candidates = self._detect_once(photo, long_side, border)
            best = max([best] + [face.score for face in candidates])
            faces = [face for face in candidates if face.score >= min_score]
            if faces:
                faces = [self._look_again(photo, face, number) for face in faces]
                return sorted(faces, key=lambda face: -face.score)
        height, width = photo.shape[:2]
        hint = f"the best candidate has {best:.2f}: lower the minimum score, or use" if best else "use"
        raise NoFaceError(
            f"No face with score {min_score:.2f} or more is in the {width}x{height} px photo; "
            f"{hint} a photo with a larger, frontal face."
        )

    def _look_again(self, photo: Photo, face: Face, number: int) -> Face:
        """Find a face larger than YuNet's training faces again in smaller images, for better landmarks."""
        scale = min(_PASSES[number][0] / max(photo.shape[:2]), 1.0)
        if face.box[2:].max() * scale <= _LARGEST_FACE:
            return face
        smaller = [
            other
            for long_side, border in _PASSES[number + 1 : -1]
            for other in self._detect_once(photo, long_side, border)
        ]
        same = [other for other in smaller if _overlap(face.box, other.box) > 0.4]
        return max([face, *same], key=lambda face: face.score)

    def _detect_once(self, photo: Photo, long_side: int, border: float) -> list[Face]:
        height, width = photo.shape[:2]
        scale = long_side / max(height, width)
        if not border:
            scale = min(scale, 1.0)  # enlarged pictures show faces where there are none
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        pad = np.array([max(round(border * max(size)), (_MIN_INPUT - side + 1) // 2) for side in size])
        picture = cv2.copyMakeBorder(picture, pad[1], pad[1], pad[0], pad[0], cv2.BORDER_REPLICATE)
        self._net.setInputSize(picture.shape[1::-1])
        found = self._net.detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        found = np.empty((0, 15), np.float32) if found is None else found[np.isfinite(found).all(axis=1)]
        zoom = np.array([width / size[0], height / size[1]], np.float32)
        faces = []
        for row in found:
            box = np.concatenate([(row[:2] - pad) * zoom, row[2:4] * zoom])
            faces.append(Face(box, (row[4:14].reshape(5, 2) - pad) * zoom, float(row[14])))
        return faces


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes of shape (4,)."""
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    common = float(np.prod((high - low).clip(0)))
    return common / (float(np.prod(first[2:])) + float(np.prod(second[2:])) - common + 1e-9)


class FAN:
    """68 landmarks of the optional `face_alignment` package: the authors' detector (first face first)."""

    def __init__(self, device: str = "cpu") -> None:
        """Load the 2D network of `face_alignment`, which keeps its own weights.

        Args:
            device: a torch device.

        Raises:
            ImportError: the package is not installed.
        """
        try:
            import face_alignment
        except ImportError as error:
            raise ImportError(
                "The FAN detector needs the package face_alignment. "
                "Run `pip install face-alignment`, or use YuNet."
            ) from error
        self._net = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D, flip_input=False, device=device
        )

    def detect(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        """Find all faces; FAN gives no score of its own, so each face has 1.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            min_score: not used.

        Returns:
            Faces in the package's order; at least one.

        Raises:
            NoFaceError: there is none.
        """
        found = self._net.get_landmarks_from_image(photo)
        if not found:
            raise NoFaceError("FAN found no face in this photo. Use one with a larger, frontal face.")
        return [face_from_landmarks(points) for points in found]


def face_from_landmarks(landmarks: np.ndarray | Sequence[Sequence[float]], score: float = 1.0) -> Face:
    """Make a face of given landmarks.

    Args:
        landmarks: shape (5, 2) or (68, 2), px.
        score: what to record as its score.

    Returns:
        The face; its box is the landmarks' bounding box.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    try:
        points = np.asarray(landmarks)
        points = points if points.dtype.kind == "f" else points.astype(np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape not in ((5, 2), (68, 2)) or not np.isfinite(points).all():
        raise ValueError(
            f"The landmarks {landmarks!r} are not finite values of shape (5, 2) or (68, 2). "
            "Give eyes, nose tip and mouth corners as x, y in px."
        )
    low, high = points.min(0), points.max(0)
    face = Face(np.concatenate([low, high - low]), five_landmarks(points), score)
    return replace(face, landmarks68=points) if len(points) == 68 else face


def sort_faces(faces: Sequence[Face], order: Order = "largest") -> list[Face]:
    """Sort faces by area, the largest first, or by the box's center from left to right.

    Args:
        faces: boxes of shape (4,).
        order: "largest" or "left to right".

    Returns:
        A new list.

    Raises:
        ValueError: an order that does not exist.
    """
    if order == "largest":
        return sorted(faces, key=lambda face: -float(face.box[2] * face.box[3]))
    if order == "left to right":
        return sorted(faces, key=lambda face: float(face.box[0] + face.box[2] / 2))
    raise ValueError(f"There is no face order '{order}'. Choose one of {', '.join(ORDERS)}.")


def choose_face(faces: Sequence[Face], index: int = 0) -> Face:
    """Take one of the sorted faces.

    Args:
        faces: at least one, with landmarks of shape (5, 2).
        index: from 0.

    Returns:
        The face at the index.

    Raises:
        ValueError: there are not so many faces.
    """
    if not 0 <= index < len(faces):
        raise ValueError(
            f"There is no face {index}: the photo shows {len(faces)} face(s) with the demanded score. "
            f"Choose an index from 0 to {len(faces) - 1}, or lower the minimum score."
        )
    return faces[index]


def require_detector(detector: Detector | None) -> Detector:
    """Return the detector; raise a ValueError where none is loaded."""
    if detector is None:
        raise ValueError(
            "No detector is loaded to find faces. Load the encoder with one (a YuNet .onnx file), "
            "or use an image that is already aligned."
        )
    return detector


def find_faces(detector: Detector | None, photo: Photo, min_score: float = 0.6) -> list[Face]:
    """Find the faces in a photo that may have none.

    Args:
        detector: what finds them.
        photo: shape (H, W, 3), uint8, RGB.
        min_score: in [0, 1].

    Returns:
        The largest first; empty where there is none. Faces that a detector imagines outside the photo are
        left out.

    Raises:
        ValueError: there is no detector.
    """
    try:
        faces = require_detector(detector).detect(photo, min_score)
    except NoFaceError:
        return []
    size = photo.shape[1::-1]
    return sort_faces(
        [face for face in faces if ((face.landmarks >= 0) & (face.landmarks < size)).all(axis=1).any()]
    )


def load_detector(detector: str | os.PathLike, device: torch.device | str = "cpu") -> Detector:
    """Load YuNet from a file, or FAN where the name is "FAN".

    Args:
        detector: path or "FAN".
        device: for FAN; YuNet runs on the CPU.

    Returns:
        The detector.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not YuNet.
        ImportError: FAN's package is missing.
    """
    return FAN(str(device)) if os.fspath(detector) == "FAN" else YuNet(detector)


def draw_faces(photo: Photo, faces: Sequence[Face], chosen: Face | None = None) -> Photo:
    """Draw each face's box, index, score and landmarks into a copy of the photo.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        faces: in the order of their indices.
        chosen: this face's box is green, the others are orange.

    Returns:
        shape (H, W, 3), uint8, RGB.
    """
    picture = photo.copy()
    unit = max(1, round(max(photo.shape[:2]) / 512))
    for index, face in enumerate(faces):
        color = (40, 220, 90) if face is chosen else (255, 150, 30)
        x, y, width, height = (int(value) for value in np.rint(face.box))
        cv2.rectangle(picture, (x, y), (x + width, y + height), color, 2 * unit)
        label, font, size = f"{index}: {face.score:.2f}", cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit
        (text_width, text_height), _ = cv2.getTextSize(label, font, size, unit)
        top = max(y - text_height - 4 * unit, 0)
        cv2.rectangle(
            picture, (x, top), (x + text_width + 4 * unit, top + text_height + 4 * unit), color, cv2.FILLED
        )
        cv2.putText(
            picture,
            label,
            (x + 2 * unit, top + text_height + 2 * unit),
            font,
            size,
            (0, 0, 0),
            unit,
            cv2.LINE_AA,
        )
        for px, py in np.rint(face.landmarks).astype(int):
            cv2.circle(picture, (int(px), int(py)), 2 * unit, color, cv2.FILLED)
    return picture
