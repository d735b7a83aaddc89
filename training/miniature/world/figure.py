"""One figure's own frame and colors, and the outline of its head.

The frame has its origin in the middle of the head, x to the right, y downwards, the chin at y = 1.
"""

from __future__ import annotations

import numpy as np

from .canvas import Camera, Canvas, Color, mix_colors
from .scene import Figure, Person

_HAIR: dict[str, Color] = {
    "black": (38, 32, 36), "brown": (104, 64, 38), "blonde": (232, 190, 98), "red": (190, 78, 32),
    "grey": (168, 168, 174), "blue": (58, 96, 190), "pink": (232, 122, 170), "green": (62, 142, 86),
}  # fmt: skip
_SKIN = np.array([(255, 226, 204), (243, 198, 164), (216, 158, 116), (164, 106, 72), (104, 66, 48)], float)
_RESTING_SMILE = 0.18  # a face at rest looks friendly


class FigureCanvas:
    """Fills shapes given in a figure's own frame, and knows the figure's colors and expression."""

    def __init__(self, canvas: Canvas, figure: Figure) -> None:
        """Place a figure on a canvas.

        Args:
            canvas: the scene's.
            figure: who is rendered, and how.
        """
        self.person, self.job, self.sweater = figure.person, figure.job, figure.sweater
        self.yaw = figure.view.yaw  # degrees
        self.skin = _skin_color(self.person)
        self.shade = mix_colors(self.skin, (120, 50, 40), 0.25)
        self.hair = _hair_color(self.person)
        self.smile, self.mouth_open, self.brows_raised, self.frown, *self.eyelids = figure.expression
        self.smile += _RESTING_SMILE
        self.project = Camera(figure.view, canvas.height, self.person.width)
        self._canvas = canvas
        self._unit = figure.view.scale * canvas.height  # px

    def fill(
        self, points: np.ndarray, color: Color, label: str | None = None, depth: float | None = None
    ) -> None:
        """Fill a polygon of shape (N, 2) on the head; label as for `Canvas.fill`, depth as for `Camera`."""
        self._canvas.fill(self.project(points, depth), color, label)

    def line(
        self,
        points: np.ndarray,
        width: float,
        color: Color,
        label: str | None = None,
        depth: float | None = None,
    ) -> None:
        """Draw an open line of shape (N, 2) on the head; the width is in half heads' heights."""
        self._canvas.line(self.project(points, depth), width * self._unit, color, label)

    def fill_body(self, points: np.ndarray, color: Color, label: str = "cloth") -> None:
        """Fill a polygon of shape (N, 2) on the shoulders, which do not turn with the head."""
        self._canvas.fill(self.project.upright(points), color, label)

    def line_body(self, points: np.ndarray, width: float, color: Color, label: str = "cloth") -> None:
        """Draw an open line of shape (N, 2) on the shoulders."""
        self._canvas.line(self.project.upright(points), width * self._unit, color, label)


def head_outline(person: Person, grow: float = 0.0) -> np.ndarray:
    """Compute the head's silhouette: a superellipse whose lower half narrows towards the chin.

    Args:
        person: whose head.
        grow: how far outside of it, in half heads' heights.

    Returns:
        shape (60, 2).
    """
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    power = 2 / (2.5 - 0.3 * person.chin)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
    narrow = 1 - (0.08 + 0.34 * person.chin) * np.clip(y, 0, 1) ** 1.6
    return np.stack([x * narrow * (person.width + grow), y * (1 + grow)], axis=1)


def jaw_landmarks(person: Person) -> np.ndarray:
    """Find the jaw's landmarks from the image's left to its right: shape (17, 2)."""
    outline = head_outline(person)
    angle = np.arctan2(outline[:, 1], -outline[:, 0])  # 0 at the left, pi / 2 at the chin, pi at the right
    order = np.argsort(angle)
    wanted = np.linspace(0, np.pi, 17)
    return np.stack([np.interp(wanted, angle[order], outline[order, i]) for i in (0, 1)], axis=1)


def _skin_color(person: Person) -> Color:
    tone = np.array([np.interp(person.skin, np.linspace(0, 1, len(_SKIN)), _SKIN[:, i]) for i in range(3)])
    shift = np.array([6, -4, -12]) * (person.undertone - 0.5) * 2
    red, green, blue = (float(c) for c in np.clip(tone + shift, 0, 255))
    return red, green, blue


def _hair_color(person: Person) -> Color:
    return mix_colors(
        _HAIR[person.hair_color],
        (255, 255, 255) if person.hair_shade > 0.5 else (0, 0, 0),
        0.3 * abs(person.hair_shade - 0.5),
    )
