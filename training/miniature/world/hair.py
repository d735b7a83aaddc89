"""Hair, in two layers: behind the head and over the forehead."""

from __future__ import annotations

import numpy as np

from .canvas import ellipse, mix_colors
from .figure import FigureCanvas, head_outline

_HAIRLINES = {  # y of the fringe and of the temples
    "short": (-0.55, -0.12), "parted": (-0.42, -0.15), "bob": (-0.36, 0.25), "long": (-0.5, 0.3),
    "curly": (-0.52, -0.05), "spiky": (-0.5, -0.2), "bun": (-0.6, -0.28),
}  # fmt: skip


def draw_hair_behind(figure: FigureCanvas, covered: bool) -> None:
    """Draw what hangs behind the head; `covered` = a hat hides what stands above it."""
    person, style = figure.person, figure.person.hair_style
    w, more = person.width, 0.14 + 0.12 * person.hair_volume
    if style == "long":
        hair = np.array(
            [(-w - more, -0.4), (-w - more - 0.06, 1.5), (w + more + 0.06, 1.5), (w + more, -0.4)]
        )
        figure.fill(hair, mix_colors(figure.hair, (0, 0, 0), 0.18), "hair", 0.0)
    if style == "bob":
        hair = np.array(
            [(-w - more, -0.4), (-w - more - 0.02, 0.72), (w + more + 0.02, 0.72), (w + more, -0.4)]
        )
        figure.fill(hair, mix_colors(figure.hair, (0, 0, 0), 0.18), "hair", 0.0)
    if covered:
        return
    if style in ("long", "bob"):
        figure.fill(
            ellipse(0, -0.35, w + more, 0.82 + more), mix_colors(figure.hair, (0, 0, 0), 0.18), "hair", 0.0
        )
    if style == "curly":
        for angle in np.linspace(np.pi * 0.92, np.pi * 2.08, 11):
            spot = ellipse(
                np.cos(angle) * (w + 0.1),
                -0.3 + np.sin(angle) * 0.85,
                0.25 + more * 0.6,
                0.25 + more * 0.6,
            )
            figure.fill(spot, figure.hair, "hair", 0.0)
    if style == "bun":
        figure.fill(
            ellipse(0, -1.18 - more * 0.4, 0.3 + more * 0.4, 0.27 + more * 0.4), figure.hair, "hair", 0.0
        )


def draw_hair_in_front(figure: FigureCanvas, covered: bool) -> None:
    """Draw the crown and the fringe; `covered` = a hat hides spikes and shine."""
    person, style = figure.person, figure.person.hair_style
    if style == "bald":
        return
    more = 0.05 + 0.10 * person.hair_volume
    fringe, temple = _HAIRLINES[style]
    outer = head_outline(person, grow=more)
    crown = outer[outer[:, 1] < temple]
    crown = crown[np.argsort(crown[:, 0])]
    w = person.width
    hairline = _hairline(style, w, temple, fringe)
    figure.fill(np.concatenate([crown, hairline]), figure.hair, "hair", 0.0)
    if covered:
        return
    if style == "spiky":
        tips = np.linspace(-0.95, 0.95, 6)
        for left, right in zip(tips, tips[1:], strict=False):
            middle = (left + right) / 2
            spike = np.array(
                [
                    (left * w, -0.72),
                    (middle * w * 1.25, -1.28 - 0.25 * person.hair_volume + abs(middle) * 0.35),
                    (right * w, -0.72),
                ]
            )
            figure.fill(spike, figure.hair, "hair", 0.0)
    if style in ("short", "parted", "bob", "bun"):
        shine = np.array([(-0.5 * w, -0.84), (-0.1 * w, -0.93), (-0.12 * w, -0.85), (-0.46 * w, -0.76)])
        figure.fill(shine, mix_colors(figure.hair, (255, 255, 255), 0.22), None, 0.0)


def _hairline(style: str, w: float, temple: float, fringe: float) -> np.ndarray:
    """Return the line from the image's right temple over the forehead to its left one: shape (N, 2)."""
    if style == "parted":
        points = [
            (0.92 * w, temple), (0.72 * w, fringe + 0.1), (0.1, fringe - 0.06),
            (-0.4 * w, -0.78), (-0.75 * w, fringe), (-0.92 * w, temple),
        ]  # fmt: skip
    elif style == "long":
        points = [
            (0.94 * w, temple), (0.8 * w, -0.25), (0.45 * w, fringe), (0, -0.74),
            (-0.45 * w, fringe), (-0.8 * w, -0.25), (-0.94 * w, temple),
        ]  # fmt: skip
    elif style == "bob":
        points = [(0.92 * w, temple), (0.84 * w, fringe), (-0.84 * w, fringe), (-0.92 * w, temple)]
    else:
        points = [
            (0.95 * w, temple), (0.78 * w, fringe + 0.05), (0, fringe - 0.08),
            (-0.78 * w, fringe + 0.05), (-0.95 * w, temple),
        ]  # fmt: skip
    return np.array(points)
