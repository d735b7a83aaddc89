"""Faces in a photo: box, score and five landmarks, from YuNet (OpenCV) or, as the authors' are, from FAN."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import cv2
import numpy as np
import torch

from ..files import check_file
from ..image import Photo
from ..options import ORDERS, Order
from .alignment import five_landmarks
from .face import Face, box_overlaps, common_areas, keep_distinct
from .refinement import refine_face
from .search import search_faces

_MAX_OVERLAP = 0.3  # of two boxes, intersection over union: OpenCV's default
_CANDIDATE_SCORE = 0.1  # below the threshold faces are still collected, to tell the user how near they were


class NoFaceError(ValueError):
    """No face in the photo reaches the minimum score."""

    def __init__(self, message: str, best_score: float = 0.0) -> None:
        """Keep the score of the best candidate, in [0, 1]; 0 = there is none."""
        super().__init__(message)
        self.best_score = best_score


class Detector(Protocol):
    """What finds faces."""

    def detect(self, photo: Photo, min_score: float = 0.6) -> list[Face]:
        """Find all faces in a photo of shape (H, W, 3) with this score; else raise NoFaceError."""
        ...


def _create_yunet(path: str) -> cv2.FaceDetectorYN:
    """Read the file in Python: on Windows, OpenCV opens no path with letters beyond the code page."""
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
        """Find all faces with at least the given score, at any turn and of any size.

        Each face is looked at several times more, for its turn and its exact landmarks.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            min_score: in [0, 1].

        Returns:
            Faces in descending order of score; at least one.

        Raises:
            NoFaceError: no face reaches the score; it has the best candidate's.
        """
        best = 0.0
        for candidates, upright in search_faces(self._look, photo):
            best = max([best] + [face.score for face in candidates])
            faces = [self._refine(photo, face, upright) for face in candidates if face.score >= min_score]
            faces = [face for face in faces if face.score >= min_score]
            if faces:
                return keep_distinct(faces)
        height, width = photo.shape[:2]
        advice = f"; the best candidate has {best:.2f}. Lower the minimum score, or use" if best else ". Use"
        raise NoFaceError(
            f"No face in the {width}x{height} px photo scores {min_score:.2f} or more{advice} a photo with a "
            "larger, frontal face.",
            best,
        )

    def _refine(self, photo: Photo, face: Face, upright: bool) -> Face:
        """Detect a face again; if the photo was rotated, the second detection must confirm it."""
        again = refine_face(self._guess, photo, face)
        if again is None:
            return face if upright else replace(face, score=0.0)
        return replace(again, score=max(again.score, face.score)) if upright else again

    def _look(self, image: Photo) -> list[Face]:
        """Run the network once, on an image as it is; give each face once."""
        return self._run(image, _MAX_OVERLAP)

    def _guess(self, image: Photo) -> list[Face]:
        """Run the network once; give what each cell of its grid guesses, several for each face."""
        return self._run(image, 1.0)

    def _run(self, image: Photo, max_overlap: float) -> list[Face]:
        self._net.setInputSize(image.shape[1::-1])
        self._net.setNMSThreshold(max_overlap)
        found = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        rows = (
            np.empty((0, 15)) if found is None else found[np.isfinite(found).all(axis=1)].astype(np.float64)
        )
        return [Face(row[:4], row[4:14].reshape(5, 2), float(row[14])) for row in rows]


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
    raise ValueError(f"The face order '{order}' does not exist. Choose one of {', '.join(ORDERS)}.")


def choose_face(faces: Sequence[Face], index: int = 0) -> Face:
    """Choose one of the sorted faces.

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
            f"There is no face {index}: {len(faces)} face(s) in the photo reach the minimum score. "
            f"Choose an index from 0 to {len(faces) - 1}, or lower the minimum score."
        )
    return faces[index]


def face_in_box(faces: Sequence[Face], box: np.ndarray | Sequence[float]) -> Face:
    """Choose the face that a box marks: a box around the face, or around a person.

    Args:
        faces: at least one.
        box: x, y, width and height, shape (4,), px.

    Returns:
        Of the faces with at least half of their area in the box, the one that fits it best.

    Raises:
        NoFaceError: the box has no face.
    """
    x, y, width, height = map(float, box)
    wanted = np.array([x, y, width, height])
    boxes = np.array([face.box for face in faces])  # (N, 4)
    inside = 2 * common_areas(wanted, boxes) >= boxes[:, 2:].prod(axis=1)  # (N,)
    if not inside.any():
        raise NoFaceError(
            f"No face lies in the box at ({x:.0f}, {y:.0f}) of {width:.0f}x{height:.0f} px. "
            "Move or enlarge it, or lower the minimum score.",
            max(face.score for face in faces),
        )
    return faces[int(np.where(inside, box_overlaps(wanted, boxes), -1).argmax())]


def require_detector(detector: Detector | None) -> Detector:
    """Return the detector; raise a ValueError if none is loaded."""
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
        The largest first; empty if there is none. Faces that a detector imagines outside the photo are
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
    image = photo.copy()
    unit = max(1, round(max(photo.shape[:2]) / 512))
    for index, face in enumerate(faces):
        color = (40, 220, 90) if face is chosen else (255, 150, 30)
        x, y, width, height = (int(value) for value in np.rint(face.box))
        cv2.rectangle(image, (x, y), (x + width, y + height), color, 2 * unit)
        label, font, size = f"{index}: {face.score:.2f}", cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit
        (text_width, text_height), _ = cv2.getTextSize(label, font, size, unit)
        top = max(y - text_height - 4 * unit, 0)
        cv2.rectangle(
            image, (x, top), (x + text_width + 4 * unit, top + text_height + 4 * unit), color, cv2.FILLED
        )
        cv2.putText(
            image,
            label,
            (x + 2 * unit, top + text_height + 2 * unit),
            font,
            size,
            (0, 0, 0),
            unit,
            cv2.LINE_AA,
        )
        for px, py in np.rint(face.landmarks).astype(int):
            cv2.circle(image, (int(px), int(py)), 2 * unit, color, cv2.FILLED)
    return image
