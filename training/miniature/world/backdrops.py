"""The places' backdrops: flat colors and large shapes that show beside and above a head.

Coordinates are in image heights; x is counted from the image's middle.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .canvas import Canvas, Color


class _Backdrop:
    """A canvas whose coordinates are image heights."""

    def __init__(self, canvas: Canvas, shift: float) -> None:
        self.canvas, self.shift = canvas, shift
        self.half = canvas.labels.shape[1] / canvas.height / 2  # of the width

    def fill(self, points: ArrayLike, color: Color) -> None:
        self.canvas.fill(
            (np.asarray(points, float) + (self.half + self.shift, 0)) * self.canvas.height, color
        )

    def band(self, top: float, bottom: float, color: Color) -> None:
        self.fill([(-3, top), (3, top), (3, bottom), (-3, bottom)], color)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        self.fill([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def disc(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.fill(np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1), color)

    def arch(self, x: float, top: float, bottom: float, width: float, color: Color) -> None:
        t = np.linspace(np.pi, 2 * np.pi, 11)
        curve = np.stack([x + width / 2 * np.cos(t), top + width / 2 + width / 2 * np.sin(t)], 1)
        self.fill(np.concatenate([curve, [(x + width / 2, bottom), (x - width / 2, bottom)]]), color)


def draw_backdrop(canvas: Canvas, place: str, shift: float) -> None:
    """Draw a place.

    Args:
        canvas: to draw on.
        place: a value of `scene.BACKDROPS`.
        shift: in [0, 1], how far the view is to the side.
    """
    _PLACES[place](_Backdrop(canvas, (shift - 0.5) * 0.06))


def _wall(b: _Backdrop) -> None:
    b.band(-1, 0.5, (150, 206, 240))
    t = np.linspace(-3, 3, 60)
    b.fill(
        np.concatenate([np.stack([t, 0.33 + 0.07 * np.sin(t * 7)], 1), [(3, 1.2), (-3, 1.2)]]), (96, 160, 84)
    )
    b.fill(
        np.concatenate([np.stack([t, 0.47 + 0.08 * np.sin(t * 5 + 1)], 1), [(3, 1.2), (-3, 1.2)]]),
        (64, 128, 66),
    )
    top = 0.42 - 0.22 * np.abs(t) / 0.8
    b.fill(np.concatenate([np.stack([t, top], 1), np.stack([t, top + 0.17], 1)[::-1]]), (196, 170, 128))
    for x in np.arange(-1.44, 1.5, 0.12):
        y = 0.42 - 0.22 * abs(x) / 0.8
        b.box(x - 0.03, y - 0.055, x + 0.03, y + 0.02, (196, 170, 128))
    for side in (-1, 1):
        x = side * min(0.4, b.half - 0.1) if b.half < 0.6 else side * 0.66
        y = 0.42 - 0.22 * abs(x) / 0.8
        b.box(x - 0.085, y - 0.17, x + 0.085, y + 0.17, (176, 146, 104))
        b.box(x - 0.03, y - 0.1, x + 0.03, y - 0.02, (90, 70, 52))


def _ruins(b: _Backdrop) -> None:
    b.band(-1, 1.2, (206, 226, 232))
    for x, h, c in (
        (-0.42, 0.02, (72, 120, 84)),
        (0.36, -0.1, (58, 104, 74)),
        (-0.95, 0.06, (58, 104, 74)),
        (0.95, 0.05, (72, 120, 84)),
    ):
        b.fill([(x - 0.42, 0.7), (x - 0.1, h + 0.08), (x, h), (x + 0.12, h + 0.1), (x + 0.42, 0.7)], c)
    for i, y in enumerate((0.5, 0.61, 0.72, 0.83, 0.94)):
        b.band(y, y + 0.075, (146, 190, 92))
        b.band(y + 0.075, y + 0.11, (168, 156, 136) if i % 2 else (150, 138, 120))


def _opera(b: _Backdrop) -> None:
    b.band(-1, 0.56, (128, 200, 246))
    b.band(0.56, 1.2, (30, 104, 178))
    b.band(0.66, 0.69, (84, 152, 214))
    b.band(0.8, 0.83, (84, 152, 214))
    b.band(0.5, 0.57, (188, 172, 156))
    for x, w, h in (
        (-0.62, 0.3, 0.3),
        (-0.36, 0.26, 0.42),
        (0.3, 0.3, 0.46),
        (0.52, 0.26, 0.32),
        (-0.86, 0.22, 0.24),
        (0.8, 0.22, 0.24),
    ):
        b.fill(
            [
                (x - w / 2, 0.5),
                (x - w * 0.3, 0.5 - h * 0.6),
                (x + w * 0.45, 0.5 - h),
                (x + w * 0.3, 0.5 - h * 0.3),
                (x + w / 2, 0.5),
            ],
            (252, 252, 246),
        )
        b.fill(
            [(x + w * 0.1, 0.5), (x + w * 0.45, 0.5 - h), (x + w * 0.3, 0.5 - h * 0.3), (x + w / 2, 0.5)],
            (214, 214, 206),
        )


def _rome(b: _Backdrop) -> None:
    b.band(-1, 1.2, (250, 222, 176))
    b.band(0.06, 1.2, (206, 152, 96))
    for row, y in enumerate((0.1, 0.38, 0.66)):
        b.band(y - 0.035, y, (168, 112, 66))
        for x in np.arange(-1.5, 1.6, 0.2):
            b.arch(x + 0.02 * row, y + 0.03, y + 0.23, 0.12, (96, 58, 38))


def _canyon(b: _Backdrop) -> None:
    b.band(-1, 1.2, (252, 158, 74))
    b.band(-1, 0.1, (248, 120, 90))
    b.disc(0.32, 0.18, 0.1, 0.1, (255, 236, 150))
    for y, c, low in (
        (0.3, (204, 92, 54), 0.06),
        (0.46, (168, 66, 44), 0.05),
        (0.62, (128, 46, 38), 0.05),
        (0.8, (92, 32, 34), 0.04),
    ):
        steps = [
            (x, y + (low if i % 4 in (1, 2) else 0))
            for i, x in enumerate(np.repeat(np.arange(-1.6, 1.7, 0.26), 2)[1:])
        ]
        b.fill([*steps, (3, 1.3), (-3, 1.3)], c)


def _cherry(b: _Backdrop) -> None:
    b.band(-1, 1.2, (214, 236, 250))
    b.band(0.8, 1.2, (150, 200, 120))
    for i, y in enumerate((0.24, 0.42, 0.6)):
        w, x = 0.15 + 0.035 * i, -b.half + 0.13
        b.fill(
            [(x - w - 0.06, y), (x - w * 0.6, y - 0.08), (x + w * 0.6, y - 0.08), (x + w + 0.06, y)],
            (196, 44, 40),
        )
        b.box(x - w * 0.62, y, x + w * 0.62, y + 0.11, (250, 240, 224))
    x = b.half - 0.08
    b.box(x - 0.035, 0.2, x + 0.045, 0.95, (104, 66, 52))
    for dx, y, r in (
        (-0.2, 0.12, 0.16),
        (0.02, 0.02, 0.18),
        (-0.04, 0.26, 0.16),
        (-0.36, 0.02, 0.13),
        (0.1, 0.3, 0.14),
    ):
        b.disc(x + dx, y, r, r * 0.9, (252, 176, 204))
    for dx, y in ((-0.26, 0.06), (-0.02, 0.1), (0.0, 0.28)):
        b.disc(x + dx, y, 0.06, 0.05, (255, 214, 230))


def _venice(b: _Backdrop) -> None:
    b.band(-1, 0.6, (180, 220, 240))
    for left, right, top, c in (
        (-1.2, -0.62, 0.1, (236, 190, 120)),
        (-0.62, -0.2, 0.0, (226, 128, 96)),
        (0.2, 0.62, 0.06, (242, 206, 140)),
        (0.62, 1.2, 0.0, (222, 150, 130)),
    ):
        b.box(left, top, right, 0.66, c)
        for y in (top + 0.1, top + 0.32):
            for x in np.arange(left + 0.1, right - 0.02, 0.15):
                b.arch(x, y, y + 0.14, 0.075, (88, 70, 92))
    b.band(0.66, 1.2, (52, 150, 150))
    b.band(0.74, 0.765, (120, 200, 192))
    b.band(0.88, 0.905, (120, 200, 192))


def _taj(b: _Backdrop) -> None:
    b.band(-1, 1.2, (252, 214, 206))
    b.band(0.72, 1.2, (84, 160, 100))
    for side in (-1, 1):
        x = side * (b.half - 0.07)
        b.box(x - 0.035, 0.02, x + 0.035, 0.76, (246, 244, 250))
        b.disc(x, 0.02, 0.055, 0.06, (224, 222, 238))
        x = side * (b.half - 0.24)
        b.disc(x, 0.32, 0.1, 0.11, (236, 234, 246))
        b.fill([(x - 0.03, 0.24), (x, 0.15), (x + 0.03, 0.24)], (236, 234, 246))
    b.box(-b.half + 0.12, 0.38, b.half - 0.12, 0.76, (246, 244, 250))
    for x in np.arange(-b.half + 0.2, b.half - 0.15, 0.15):
        b.arch(x, 0.5, 0.74, 0.08, (186, 180, 206))
    b.disc(0, 0.14, 0.28, 0.3, (246, 244, 250))


def _everest(b: _Backdrop) -> None:
    b.band(-1, 1.2, (64, 118, 200))
    for x, top, w in ((-0.36, 0.12, 0.42), (0.4, 0.04, 0.46), (-0.9, 0.08, 0.44), (0.95, 0.14, 0.4)):
        b.fill([(x - w, 0.78), (x, top), (x + w, 0.78)], (112, 124, 148))
        b.fill(
            [
                (x - w * 0.45, top + 0.3),
                (x, top),
                (x + w * 0.45, top + 0.3),
                (x + w * 0.2, top + 0.24),
                (x, top + 0.34),
                (x - w * 0.2, top + 0.24),
            ],
            (250, 252, 255),
        )
    b.band(0.74, 1.2, (234, 240, 250))
    for side in (-1, 1):
        x = side * (b.half - 0.13)
        b.fill([(x - 0.15, 0.86), (x, 0.62), (x + 0.15, 0.86)], (252, 150, 30))
    for i, x in enumerate(np.arange(-1.5, 1.55, 0.14)):
        b.fill(
            [(x, 0.02), (x + 0.1, 0.02), (x + 0.05, 0.11)],
            ((230, 60, 60), (250, 220, 60), (70, 190, 110), (250, 250, 250))[i % 4],
        )


def _falls(b: _Backdrop) -> None:
    b.band(-1, 0.16, (196, 228, 246))
    b.band(0.1, 0.22, (70, 130, 80))
    b.band(0.2, 1.2, (120, 190, 222))
    for x in np.arange(-1.5, 1.55, 0.11):
        b.box(x, 0.2, x + 0.055, 0.8, (232, 246, 252))
    for x in np.arange(-1.5, 1.6, 0.2):
        b.disc(x, 0.82, 0.15, 0.09, (250, 253, 255))
    b.band(0.86, 1.2, (44, 128, 150))


def _books(b: _Backdrop) -> None:
    b.band(-1, 1.2, (104, 66, 40))
    colors = ((178, 48, 48), (40, 92, 140), (222, 176, 72), (60, 120, 84), (120, 72, 130), (230, 220, 200))
    for row, y in enumerate((0.02, 0.27, 0.52, 0.77)):
        b.band(y - 0.03, y + 0.19, (62, 38, 26))
        for i, x in enumerate(np.arange(-1.5, 1.55, 0.078)):
            b.box(x, y + 0.02 * ((i * 7 + row) % 3), x + 0.062, y + 0.19, colors[(i * 5 + row * 2) % 6])


def _meadow(b: _Backdrop) -> None:
    b.band(-1, 1.2, (136, 210, 250))
    b.disc(-b.half + 0.14, 0.14, 0.1, 0.1, (255, 226, 80))
    for x, y in ((b.half - 0.16, 0.16), (b.half - 0.06, 0.2), (b.half - 0.24, 0.21)):
        b.disc(x, y, 0.11, 0.06, (252, 252, 255))
    b.band(0.54, 1.2, (118, 196, 74))
    b.band(0.74, 1.2, (92, 172, 62))
    for i, x in enumerate(np.arange(-1.5, 1.55, 0.13)):
        y = 0.64 + 0.16 * (i % 2)
        b.disc(x, y, 0.032, 0.032, ((250, 90, 110), (255, 255, 255), (190, 100, 220))[i % 3])


def _city(b: _Backdrop) -> None:
    b.band(-1, 1.2, (168, 182, 204))
    tops = (
        (-1.2, 0.1),
        (-0.95, 0.0),
        (-0.7, 0.14),
        (-0.5, -0.02),
        (-0.28, 0.2),
        (0.1, 0.16),
        (0.3, 0.05),
        (0.52, 0.18),
        (0.75, 0.02),
        (1.0, 0.12),
    )
    for i, (x, top) in enumerate(tops):
        b.box(x, top, x + 0.21, 1.0, ((74, 84, 108), (96, 104, 128), (58, 66, 90))[i % 3])
        for y in np.arange(top + 0.05, 0.8, 0.115):
            for dx in (0.035, 0.125):
                b.box(
                    x + dx,
                    y,
                    x + dx + 0.05,
                    y + 0.06,
                    (252, 228, 130) if (i + round(y * 20)) % 3 else (150, 162, 186),
                )
    b.band(0.88, 1.2, (84, 86, 92))


def _stage(b: _Backdrop) -> None:
    b.band(-1, 1.2, (30, 16, 46))
    for x, c in ((-b.half + 0.1, (250, 90, 170)), (0, (110, 90, 250)), (b.half - 0.1, (70, 210, 240))):
        b.fill(
            [(x * 0.7 - 0.03, -0.05), (x * 0.7 + 0.03, -0.05), (x + 0.2, 0.85), (x - 0.2, 0.85)],
            (c[0] * 0.7, c[1] * 0.7, c[2] * 0.7),
        )
        b.disc(x * 0.7, 0.01, 0.055, 0.04, c)
    for side in (-1, 1):
        b.fill(
            [
                (side * 3, -1),
                (side * (b.half - 0.1), -1),
                (side * (b.half - 0.16), 0.5),
                (side * (b.half - 0.07), 1.2),
                (side * 3, 1.2),
            ],
            (168, 24, 48),
        )
    b.band(0.88, 1.2, (120, 78, 48))


_PLACES: dict[str, Callable[[_Backdrop], None]] = {
    "wall": _wall, "ruins": _ruins, "opera": _opera, "rome": _rome, "canyon": _canyon, "cherry": _cherry,
    "venice": _venice, "taj": _taj, "everest": _everest, "falls": _falls, "books": _books, "meadow": _meadow,
    "city": _city, "stage": _stage,
}  # fmt: skip
