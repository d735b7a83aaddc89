"""One face in a photo: its position, and the detector's score."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from .alignment import move_points


@dataclass(frozen=True, eq=False)
class Face:
    """One face in a photo; coordinates are px in that photo."""

    box: np.ndarray  # (4,) float: x, y, width, height
    landmarks: np.ndarray  # (5, 2) float: eyes, nose tip, mouth corners, each pair from image-left
    score: float  # in [0, 1]
    landmarks68: np.ndarray | None = None  # (68, 2) float in the iBUG 300-W order, from FAN only

    @property
    def center(self) -> np.ndarray:
        """The middle of the box, shape (2,), px."""
        return self.box[:2] + self.box[2:] / 2

    def moved(self, transform: np.ndarray) -> Face:
        """Move the face by a similarity transform of shape (2, 3).

        The new box bounds the turned ellipse that the old one bounds, so that turning does not enlarge it.
        """
        center = move_points(self.center, transform)
        sides = np.hypot(*(transform[:, :2] * self.box[2:]).T)
        fine = None if self.landmarks68 is None else move_points(self.landmarks68, transform)
        return replace(
            self,
            box=np.concatenate([center - sides / 2, sides]),
            landmarks=move_points(self.landmarks, transform),
            landmarks68=fine,
        )

    def to_json(self) -> str:
        """Write the face as JSON, for a file's metadata."""
        return json.dumps({key: np.asarray(value).tolist() for key, value in vars(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Face:
        """Read what `to_json` wrote; raise a ValueError or KeyError if it is damaged."""
        values = json.loads(text)
        fine = values["landmarks68"]
        return cls(
            np.array(values["box"]),
            np.array(values["landmarks"]),
            float(values["score"]),
            None if fine is None else np.array(fine),
        )


def keep_distinct(faces: list[Face], max_overlap: float = 0.4) -> list[Face]:
    """Drop repeated detections of one face.

    Args:
        faces: boxes of shape (4,).
        max_overlap: intersection over union above which two boxes are one face.

    Returns:
        The best detection of each face in descending order of score.
    """
    faces = sorted(faces, key=lambda face: -face.score)
    boxes = np.array([face.box for face in faces])
    distinct = np.ones(len(faces), bool)  # as vectors: noise has thousands of candidates
    kept: list[Face] = []
    for index, face in enumerate(faces):
        if distinct[index]:
            kept.append(face)
            distinct &= box_overlaps(face.box, boxes) <= max_overlap
    return kept


def common_areas(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the area that a box of shape (4,) has in common with each of N others, (N, 4): px^2."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    return (high - low).clip(0).prod(axis=1)


def box_overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of a box of shape (4,) and each of N others, (N, 4): in [0, 1]."""
    common = common_areas(box, others)
    return common / (box[2:].prod() + others[:, 2:].prod(axis=1) - common + 1e-9)
