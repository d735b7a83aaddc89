"""Places the labels of a scatter plot so that they cover neither each other nor the points.

Each label goes to the first free place around its point: near ones first, to the right before the left. A
thin line leads from a distant label to its point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

_RADII = (7, 12, 20, 30, 42, 56, 72, 90, 110, 135, 160)  # points, from a point to its label
_DIRECTIONS = (20, -20, 160, -160, 90, -90, 55, -55, 125, -125)  # degrees
_NEAR = _RADII[1]  # points, up to which a label needs no line
_MARKER = 5  # points, half the side of a marker with its margin
_MARGIN = 1.5  # px around a label
_CENTERED = 0.4  # share of the offset along an axis, below which a label is centered along it


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[Annotation], points: Sequence[tuple[float, float]]
) -> None:
    """Move labels to free places.

    Args:
        figure: with final axis limits; its layout is fixed here.
        axes: of the labels.
        labels: with text offsets in points, the most important one first.
        points: that labels must not cover, in data coordinates.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError(f"Labels are measured with Agg, not with {type(canvas).__name__}.")
    renderer, point_px = canvas.get_renderer(), figure.dpi / 72
    half = _MARKER * point_px
    taken = [
        Bbox.from_extents(x - half, y - half, x + half, y + half)
        for x, y in axes.transData.transform(points).tolist()
    ]
    for label in labels:
        size = np.array(Text.get_window_extent(label, renderer).size) + 2 * _MARGIN  # width, height, px
        at = axes.transData.transform(label.xy)
        best, least = _Place(_RADII[0], _DIRECTIONS[0]), math.inf
        for radius, degrees in product(_RADII, _DIRECTIONS):
            place = _Place(radius, degrees)
            box = place.box(at, size, point_px)
            covered = sum(_overlap(box, other) for other in taken) + _outside(box, axes.bbox)
            if covered < least:
                best, least = place, covered
            if not covered:
                break
        best.move(label)
        taken.append(best.box(at, size, point_px))
        if best.radius <= _NEAR and label.arrow_patch is not None:
            label.arrow_patch.set_visible(False)


@dataclass(frozen=True)
class _Place:
    """Where a label lies, as seen from its point."""

    radius: int  # points
    degrees: int  # counterclockwise from the right

    @property
    def offset(self) -> np.ndarray:
        """From the point to the label's anchor: x and y in points."""
        angle = math.radians(self.degrees)
        return self.radius * np.array([math.cos(angle), math.sin(angle)])

    @property
    def side(self) -> np.ndarray:
        """On which side of the anchor the label lies, along x and y: -1, 0 (centered) or 1."""
        direction = self.offset / self.radius
        return np.sign(direction) * (np.abs(direction) >= _CENTERED)

    def box(self, at: np.ndarray, size: np.ndarray, point_px: float) -> Bbox:
        """Compute the extent of a label of some size in px, of a point at some px."""
        center = at + point_px * self.offset + self.side * size / 2
        return Bbox([center - size / 2, center + size / 2])

    def move(self, label: Annotation) -> None:
        """Move a label there."""
        x, y = self.side
        label.set_position(tuple(self.offset))
        label.set_horizontalalignment("center" if not x else "left" if x > 0 else "right")
        label.set_verticalalignment("center" if not y else "bottom" if y > 0 else "top")


def _overlap(one: Bbox, other: Bbox) -> float:
    """Compute the area that two boxes share, px^2."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def _outside(box: Bbox, frame: Bbox) -> float:
    """Compute the area of a box outside a frame, px^2."""
    return float(box.width * box.height) - _overlap(box, frame)
