"""The renderer: a scene as an image, with its label map and its facial landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .backdrops import draw_backdrop
from .canvas import Canvas, box, hsv_color
from .clothes import draw_clothes
from .facial_features import (
    NOSE_DEPTH,
    draw_brows,
    draw_eyes,
    draw_glasses,
    draw_head,
    draw_mouth,
    draw_nose,
    nose_landmarks,
)
from .figure import FigureCanvas, jaw_landmarks
from .hair import draw_hair_behind, draw_hair_in_front
from .hats import HAIR_SHOWS, HATS
from .scene import Figure, Scene

SIZE = 128  # px, the image's height


@dataclass(frozen=True, eq=False)
class Rendering:
    """A rendered scene."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    labels: np.ndarray  # (H, W) uint8, CelebAMask-HQ's numbering, see `training.data.parsing`
    landmarks: tuple[np.ndarray, ...]  # per person: (68, 2) px, in the iBUG 300-W order

    @property
    def landmarks5(self) -> np.ndarray:
        """The first person's eyes, nose tip and mouth corners, shape (5, 2), px."""
        points = self.landmarks[0]
        return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def render(scene: Scene, size: int = SIZE) -> Rendering:
    """Render a scene.

    Args:
        scene: what to render.
        size: the image's height, px.

    Returns:
        The image, shape (size, size * aspect, 3), and its ground truth.
    """
    canvas = Canvas(round(size * scene.aspect), size)
    if scene.place:
        draw_backdrop(canvas, scene.place, scene.studio)
    else:
        canvas.fill(box(-1, -1, size * 4, size * 4), hsv_color(scene.studio, 0.22, 0.93))
    landmarks = tuple(_draw_figure(canvas, figure) for figure in scene.figures)
    return Rendering(canvas.finish(), canvas.labels, landmarks)


def _draw_figure(canvas: Canvas, figure: Figure) -> np.ndarray:
    """Draw one figure from back to front; returns its landmarks, shape (68, 2), px."""
    frame, hat = FigureCanvas(canvas, figure), HATS.get(figure.job)
    covered = hat is not None and figure.job not in HAIR_SHOWS
    draw_hair_behind(frame, covered)
    draw_clothes(frame)
    draw_head(frame)
    brows = draw_brows(frame)
    eyes = draw_eyes(frame)
    mouth = draw_mouth(frame)
    draw_nose(frame)
    draw_hair_in_front(frame, covered)
    draw_glasses(frame)
    if hat is not None:
        hat(frame)
    parts = (
        (jaw_landmarks(figure.person), 0.0),
        (brows, None),
        (nose_landmarks(frame), NOSE_DEPTH),
        (np.concatenate([eyes, mouth]), None),
    )
    return np.concatenate([frame.project(part, depth) for part, depth in parts])
