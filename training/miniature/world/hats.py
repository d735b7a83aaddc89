"""What each job wears on the head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import box, ellipse
from .figure import FigureCanvas, head_outline


def _helmet(figure: FigureCanvas) -> None:
    w = figure.person.width + 0.13
    figure.fill(
        np.array(
            [
                (-w, -0.42),
                (-w * 0.98, -0.8),
                (-w * 0.6, -1.22),
                (0, -1.36),
                (w * 0.6, -1.22),
                (w * 0.98, -0.8),
                (w, -0.42),
            ]
        ),
        (210, 36, 36),
        "hat",
        0.0,
    )
    figure.fill(
        np.array([(-w - 0.2, -0.36), (-w, -0.52), (w, -0.52), (w + 0.2, -0.36)]), (168, 24, 28), "hat", 0.0
    )
    figure.fill(
        np.array([(-0.17, -0.58), (-0.2, -0.95), (0, -1.08), (0.2, -0.95), (0.17, -0.58)]),
        (250, 214, 60),
        "hat",
        0.4,
    )


def _cowboy_hat(figure: FigureCanvas) -> None:
    w = figure.person.width
    figure.fill(
        np.array(
            [
                (-w * 0.85, -0.5),
                (-w * 0.72, -1.25),
                (-0.16, -1.36),
                (0, -1.26),
                (0.16, -1.36),
                (w * 0.72, -1.25),
                (w * 0.85, -0.5),
            ]
        ),
        (140, 86, 42),
        "hat",
        0.0,
    )
    t = np.linspace(-1, 1, 11)
    brim = np.concatenate(
        [np.stack([t * 1.5, -0.5 - 0.3 * t**2], 1), np.stack([-t * 1.5, -0.62 - 0.2 * t**2], 1) + (0, 0.3)]
    )
    figure.fill(brim, (118, 70, 34), "hat", 0.0)
    figure.fill(box(-w * 0.83, -0.72, w * 0.83, -0.56), (60, 34, 22), "hat", 0.0)


def _toque(figure: FigureCanvas) -> None:
    w = figure.person.width
    for x, y, r in ((-0.5, -1.3, 0.36), (0.5, -1.3, 0.36), (0, -1.42, 0.42)):
        figure.fill(ellipse(x * w / 0.8, y, r, r), (252, 252, 252), "hat", 0.0)
    figure.fill(box(-w * 0.92, -1.15, w * 0.92, -0.5), (236, 240, 246), "hat", 0.0)


def _race_helmet(figure: FigureCanvas) -> None:
    w, person = figure.person.width, figure.person
    outer = head_outline(person, grow=0.2)
    inner = np.array(
        [
            (0.86 * w, 0.34),
            (0.9 * w, -0.2),
            (0.7 * w, -0.42),
            (-0.7 * w, -0.42),
            (-0.9 * w, -0.2),
            (-0.86 * w, 0.34),
        ]
    )
    shell = outer[outer[:, 1] < 0.5]
    shell = shell[np.argsort(np.arctan2(shell[:, 0], -shell[:, 1]))]
    figure.fill(np.concatenate([shell, inner]), (226, 40, 48), "hat", 0.0)
    figure.fill(box(-0.14, -1.2, 0.14, -0.45), (250, 250, 250), "hat", 0.3)


def _crown(figure: FigureCanvas) -> None:
    w = figure.person.width * 0.92
    points = [
        (-w, -0.55),
        (-w * 1.08, -1.32),
        (-w * 0.5, -0.95),
        (0, -1.46),
        (w * 0.5, -0.95),
        (w * 1.08, -1.32),
        (w, -0.55),
    ]
    figure.fill(np.array(points), (248, 200, 40), "hat", 0.0)
    figure.fill(ellipse(0, -0.76, 0.1, 0.1), (210, 30, 60), "hat", 0.4)
    for side in (-1, 1):
        figure.fill(ellipse(side * 0.44, -0.74, 0.08, 0.08), (40, 90, 200), "hat", 0.3)


def _goggles(figure: FigureCanvas) -> None:
    w = figure.person.width
    figure.fill(box(-w * 1.02, -0.72, w * 1.02, -0.56), (50, 54, 62), "hat", 0.0)
    for side in (-1, 1):
        figure.fill(ellipse(side * 0.3, -0.64, 0.27, 0.21), (50, 54, 62), "hat", 0.35)
        figure.fill(ellipse(side * 0.3, -0.64, 0.19, 0.14), (120, 226, 236), "hat", 0.35)


def _headband(figure: FigureCanvas) -> None:
    w = figure.person.width * 1.03
    t = np.linspace(-1, 1, 9)
    band = np.concatenate(
        [np.stack([t * w, -0.5 - 0.06 * (1 - t**2)], 1), np.stack([-t * w, -0.74 - 0.08 * (1 - t**2)], 1)]
    )
    figure.fill(band, (62, 196, 96), "hat", 0.0)


def _headphones(figure: FigureCanvas) -> None:
    w = figure.person.width + 0.1
    t = np.linspace(np.pi, 2 * np.pi, 15)
    figure.line(
        np.stack([(w + 0.04) * np.cos(t), -0.05 + 1.14 * np.sin(t)], 1), 0.12, (40, 40, 52), "hat", 0.0
    )
    for side in (-1, 1):
        figure.fill(ellipse(side * w, 0.02, 0.17, 0.29), (240, 60, 190), "hat", 0.0)


def _knight_helm(figure: FigureCanvas) -> None:
    w, person = figure.person.width, figure.person
    outer = head_outline(person, grow=0.17)
    inner = np.array(
        [
            (0.8 * w, 0.62),
            (0.84 * w, -0.38),
            (0.08, -0.38),
            (0.06, 0.12),
            (-0.06, 0.12),
            (-0.08, -0.38),
            (-0.84 * w, -0.38),
            (-0.8 * w, 0.62),
        ]
    )
    shell = outer[outer[:, 1] < 0.7]
    shell = shell[np.argsort(np.arctan2(shell[:, 0], -shell[:, 1]))]
    figure.fill(np.concatenate([shell, inner]), (178, 186, 198), "hat", 0.0)
    figure.fill(
        np.array([(-0.1, -1.15), (-0.34, -1.62), (0.3, -1.66), (0.12, -1.15)]), (206, 36, 44), "hat", 0.0
    )


def _peaked_cap(figure: FigureCanvas) -> None:
    w = figure.person.width
    figure.fill(
        np.array([(-w * 1.02, -0.62), (-w * 1.3, -1.12), (0, -1.38), (w * 1.3, -1.12), (w * 1.02, -0.62)]),
        (30, 46, 92),
        "hat",
        0.0,
    )
    figure.fill(box(-w * 1.0, -0.78, w * 1.0, -0.58), (246, 206, 84), "hat", 0.0)
    t = np.linspace(-1, 1, 9)
    figure.fill(
        np.concatenate(
            [np.stack([t * w * 0.95, -0.6 + 0 * t], 1), np.stack([-t * w * 0.9, -0.6 + 0.2 * (1 - t**2)], 1)]
        ),
        (18, 20, 30),
        "hat",
        0.35,
    )
    figure.fill(ellipse(0, -0.96, 0.13, 0.13), (250, 226, 120), "hat", 0.4)


HAIR_SHOWS = ("dj", "tennis player", "scientist")  # jobs whose hat leaves the hair uncovered
HATS: dict[str, Callable[[FigureCanvas], None]] = {
    "firefighter": _helmet,
    "cowboy": _cowboy_hat,
    "chef": _toque,
    "racer": _race_helmet,
    "king": _crown,
    "scientist": _goggles,
    "tennis player": _headband,
    "dj": _headphones,
    "knight": _knight_helm,
    "pilot": _peaked_cap,
}
