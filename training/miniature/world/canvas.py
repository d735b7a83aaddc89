"""Polygons, lines and colors, with antialiasing and a label map, and the camera of a head.

Shapes are drawn at twice the size with antialiasing and then averaged.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

from ...data.parsing import CELEBAMASK_LABELS as LABELS
from .scene import View

_SUPERSAMPLING = 2
_FRACTIONAL_BITS = 4  # of OpenCV's coordinates
Color = tuple[float, float, float]  # RGB, 0 to 255


class Canvas:
    """Draws polygons and lines into an image and into its label map."""

    def __init__(self, width: int, height: int) -> None:
        """Start with a black image; sizes in px of the finished one."""
        self.image = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING, 3), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self.height = height

    def fill(self, points: np.ndarray, color: Color, label: str | None = None) -> None:
        """Fill a polygon.

        Args:
            points: shape (N, 2), px of the finished image.
            color: 0 to 255.
            label: of `training.data.parsing`; None = the label map stays as it is.
        """
        cv2.fillPoly(self.image, [_to_subpixels(points)], _floats(color), cv2.LINE_AA, _FRACTIONAL_BITS)
        if label is not None:
            number = LABELS.index(label)
            cv2.fillPoly(self.labels, [_to_pixels(points)], number, cv2.LINE_8, _FRACTIONAL_BITS)

    def line(self, points: np.ndarray, width: float, color: Color, label: str | None = None) -> None:
        """Draw an open line with round ends; arguments as for `fill`, and the width in px."""
        thickness = max(1, round(width * _SUPERSAMPLING))
        lines = [_to_subpixels(points)]
        cv2.polylines(self.image, lines, False, _floats(color), thickness, cv2.LINE_AA, _FRACTIONAL_BITS)
        if label is not None:
            number, thickness = LABELS.index(label), max(1, round(width))
            lines = [_to_pixels(points)]
            cv2.polylines(self.labels, lines, False, number, thickness, cv2.LINE_8, _FRACTIONAL_BITS)

    def finish(self) -> np.ndarray:
        """Average to the finished size: shape (H, W, 3), uint8."""
        height, width = self.labels.shape
        return cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)


def _to_subpixels(points: np.ndarray) -> np.ndarray:
    """Scale to the enlarged image, in OpenCV's fixed point."""
    scale = _SUPERSAMPLING * 2**_FRACTIONAL_BITS
    return np.rint((points + 0.5) * scale - 2 ** (_FRACTIONAL_BITS - 1)).astype(np.int32)


def _to_pixels(points: np.ndarray) -> np.ndarray:
    """Scale to the label map, in OpenCV's fixed point."""
    return np.rint(points * 2**_FRACTIONAL_BITS).astype(np.int32)


def _floats(color: Color) -> Color:
    return float(color[0]), float(color[1]), float(color[2])


@dataclass(frozen=True)
class Camera:
    """Projects a head's frame to pixels."""

    view: View
    height: int  # px
    half_width: float  # of the head

    def __call__(self, points: np.ndarray, depth: float | None = None) -> np.ndarray:
        """Project.

        Args:
            points: shape (N, 2), head's frame.
            depth: None = on the head's rounded front; a number = that far in front of the silhouette.

        Returns:
            shape (N, 2), px.
        """
        yaw, roll = np.deg2rad(self.view.yaw), np.deg2rad(self.view.roll)
        x, y = points[:, 0], points[:, 1]
        z = 0.6 * np.sqrt(np.clip(1 - (x / self.half_width) ** 2, 0, 1)) if depth is None else depth
        turned = x * np.cos(yaw) + z * np.sin(yaw) if depth != 0 else x
        unit = self.view.scale * self.height
        across = turned * np.cos(roll) - y * np.sin(roll)
        down = turned * np.sin(roll) + y * np.cos(roll)
        return np.stack(
            [across * unit + self.view.x * self.height, down * unit + self.view.y * self.height], axis=1
        )

    def upright(self, points: np.ndarray) -> np.ndarray:
        """Project shoulders and clothes, which do not turn with the head."""
        unit = self.view.scale * self.height
        return points * unit + np.array([self.view.x, self.view.y]) * self.height


def ellipse(x: float, y: float, rx: float, ry: float, count: int = 28) -> np.ndarray:
    """Return an ellipse's polygon about (x, y): shape (count, 2)."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return a rectangle: shape (4, 2)."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def ring(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the polygon between two curves over the same x, each of shape (N,): shape (2N, 2)."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def mix_colors(first: Color, second: Color, share: float) -> Color:
    """Move from the first color to the second by a share in [0, 1]."""
    red, green, blue = (float(x + (y - x) * share) for x, y in zip(first, second, strict=True))
    return red, green, blue


def hsv_color(hue: float, saturation: float, value: float) -> Color:
    """Convert from HSV; the hue has a period of 1, the others lie in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return 255 * red, 255 * green, 255 * blue
