"""One face in a photo: where it is, and how sure the detector was."""

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

    def common_area(self, other: Face) -> float:
        """Compute the area in which the two boxes overlap, px^2."""
        low = np.maximum(self.box[:2], other.box[:2])
        high = np.minimum(self.box[:2] + self.box[2:], other.box[:2] + other.box[2:])
        return float(np.prod((high - low).clip(0)))

    def overlap(self, other: Face) -> float:
        """Compute the intersection over union of the two boxes, in [0, 1]."""
        common = self.common_area(other)
        return common / (float(np.prod(self.box[2:])) + float(np.prod(other.box[2:])) - common + 1e-9)

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


def keep_distinct(faces: list[Face], max_overlap: float = 0.4) -> list[Face]:
    """Drop repeated detections of one face.

    Args:
        faces: boxes of shape (4,).
        max_overlap: intersection over union above which two boxes are one face.

    Returns:
        The best detection of each face in descending order of score.
    """
    ordered = sorted(faces, key=lambda face: -face.score)
    low = np.array([face.box[:2] for face in ordered]).reshape(-1, 2)
    size = np.array([face.box[2:] for face in ordered]).reshape(-1, 2)
    high, area = low + size, size.prod(axis=1)
    kept, distinct = [], np.ones(len(ordered), bool)
    for index, face in enumerate(ordered):  # noise has thousands of candidates, too many to compare in Python
        if distinct[index]:
            kept.append(face)
            sides = np.minimum(high, high[index]) - np.maximum(low, low[index])
            common = sides.clip(0).prod(axis=1)
            distinct &= common / (area + area[index] - common + 1e-9) <= max_overlap
    return kept
