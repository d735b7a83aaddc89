"""What each job wears below the neck."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import Color, ellipse, hsv_color, mix_colors
from .figure import FigureCanvas

Outfit = Callable[
    [FigureCanvas, np.ndarray, Color], None
]  # on shoulders, of shape (N, 2); the color is a sweater's
Collar = Callable[[FigureCanvas, Color], None]


def draw_clothes(figure: FigureCanvas) -> None:
    """Draw shoulders, neck and collar; without a job, a sweater."""
    neck = np.array([(-0.3, 0.5), (-0.3, 1.2), (0, 1.32), (0.3, 1.2), (0.3, 0.5)])
    coat = hsv_color(figure.sweater, 0.45, 0.72)
    shoulders = np.array(
        [
            (-0.34, 1.06),
            (-0.9, 1.2),
            (-1.28, 1.45),
            (-1.42, 2.6),
            (1.42, 2.6),
            (1.28, 1.45),
            (0.9, 1.2),
            (0.34, 1.06),
        ]
    )
    _OUTFITS.get(figure.job, _sweater)(figure, shoulders, coat)
    figure.fill_body(neck, figure.shade, "neck")
    _COLLARS.get(figure.job, _crew_neck)(figure, coat)


def _sweater(figure: FigureCanvas, shoulders: np.ndarray, coat: Color) -> None:
    figure.fill_body(shoulders, coat)


def _plain(color: Color) -> Outfit:
    def wear(figure: FigureCanvas, shoulders: np.ndarray, coat: Color) -> None:
        figure.fill_body(shoulders, color)

    return wear


def _stripes(base: Color, stripe: Color) -> Outfit:
    def wear(figure: FigureCanvas, shoulders: np.ndarray, coat: Color) -> None:
        figure.fill_body(shoulders, base)
        for side in (-1, 1):
            figure.fill_body(
                np.array([(side * 0.5, 1.12), (side * 0.74, 1.16), (side * 0.74, 2.6), (side * 0.5, 2.6)]),
                stripe,
            )

    return wear


_OUTFITS: dict[str, Outfit] = {
    "firefighter": _stripes((52, 52, 60), (246, 216, 50)),
    "cowboy": _plain((150, 98, 54)),
    "chef": _plain((248, 248, 250)),
    "racer": _stripes((218, 40, 44), (250, 250, 250)),
    "king": _plain((140, 24, 60)),
    "scientist": _plain((240, 246, 250)),
    "tennis player": _stripes((250, 250, 250), (62, 176, 96)),
    "dj": _plain((36, 30, 52)),
    "knight": _plain((150, 158, 170)),
    "pilot": _plain((30, 46, 92)),
}


def _crew_neck(figure: FigureCanvas, coat: Color) -> None:
    t = np.linspace(0, np.pi, 9)
    curve = np.stack([0.36 * np.cos(t), 1.08 + 0.26 * np.sin(t)], 1)
    figure.line_body(curve, 0.1, mix_colors(coat, (0, 0, 0), 0.25))


def _v_neck(color: Color, shirt: Color) -> Collar:
    def wear(figure: FigureCanvas, coat: Color) -> None:
        figure.fill_body(np.array([(-0.34, 1.06), (0, 1.3), (0.34, 1.06), (0.2, 2.2), (-0.2, 2.2)]), shirt)
        for side in (-1, 1):
            figure.fill_body(
                np.array([(side * 0.34, 1.02), (side * 0.52, 1.1), (side * 0.22, 2.2), (side * 0.08, 1.75)]),
                color,
            )

    return wear


def _bandana(figure: FigureCanvas, coat: Color) -> None:
    figure.fill_body(np.array([(-0.4, 1.0), (0.4, 1.0), (0.1, 1.62), (-0.1, 1.62)]), (204, 40, 40))


def _buttons(figure: FigureCanvas, coat: Color) -> None:
    figure.fill_body(np.array([(-0.4, 1.0), (0.4, 1.0), (0.3, 1.24), (-0.3, 1.24)]), (226, 230, 236))
    for x in (-0.16, 0.16):
        figure.fill_body(ellipse(x, 1.5, 0.06, 0.06), (60, 60, 80))


def _ermine(figure: FigureCanvas, coat: Color) -> None:
    figure.fill_body(
        np.array(
            [(-0.5, 1.0), (0.5, 1.0), (0.62, 1.24), (0.3, 1.46), (0, 1.52), (-0.3, 1.46), (-0.62, 1.24)]
        ),
        (252, 250, 244),
    )
    for x, y in ((-0.36, 1.24), (0, 1.38), (0.36, 1.24)):
        figure.fill_body(ellipse(x, y, 0.045, 0.07), (40, 34, 40))


def _mail(figure: FigureCanvas, coat: Color) -> None:
    figure.fill_body(
        np.array([(-0.62, 0.95), (0.62, 0.95), (0.86, 1.3), (0, 1.6), (-0.86, 1.3)]), (112, 120, 134)
    )


_COLLARS: dict[str, Collar] = {
    "firefighter": _v_neck((246, 216, 50), (52, 52, 60)),
    "cowboy": _bandana,
    "chef": _buttons,
    "racer": _v_neck((250, 250, 250), (218, 40, 44)),
    "king": _ermine,
    "scientist": _v_neck((214, 224, 232), (92, 158, 210)),
    "tennis player": _v_neck((62, 176, 96), (250, 250, 250)),
    "dj": _v_neck((240, 60, 190), (36, 30, 52)),
    "knight": _mail,
    "pilot": _v_neck((246, 206, 84), (250, 250, 252)),
}
