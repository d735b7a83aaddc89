"""The parts of a face. Those with landmarks return them in the iBUG 300-W order, in the head's frame."""

from __future__ import annotations

import numpy as np

from .canvas import box, ellipse, hsv_color, mix_colors, ring
from .figure import FigureCanvas, head_outline

NOSE_DEPTH = 0.72  # how far the nose stands out


def draw_head(figure: FigureCanvas) -> None:
    """Draw ears, skin and blush."""
    person = figure.person
    for side, name in ((-1, "l_ear"), (1, "r_ear")):
        shown = person.width * (1.0 - 0.10 * side * np.sin(np.deg2rad(figure.yaw)))
        ear = ellipse(side * shown, 0.02, 0.11 + 0.07 * person.ears, 0.17 + 0.08 * person.ears)
        figure.fill(ear, figure.skin, name, 0.0)
        inner = ellipse(side * (shown + 0.03), 0.03, 0.05 + 0.04 * person.ears, 0.09 + 0.05 * person.ears)
        figure.fill(inner, figure.shade, None, 0.0)
    figure.fill(head_outline(person), figure.skin, "skin", 0.0)
    if person.cheeks > 0.5:
        blush = mix_colors(figure.skin, (238, 84, 92), 0.45 * person.cheeks)
        for side in (-1, 1):
            figure.fill(ellipse(side * person.width * 0.62, 0.33, 0.15, 0.12), blush)


def draw_brows(figure: FigureCanvas) -> np.ndarray:
    """Draw both brows: landmarks of shape (10, 2)."""
    person = figure.person
    color = mix_colors(figure.hair, (30, 20, 20), 0.45) if person.hair_style != "bald" else (70, 48, 40)
    thickness, reach, points = 0.055 + 0.085 * person.brow_thickness, 0.19 + 0.05 * person.eye_size, []
    for side, (x, y) in zip((-1, 1), _eye_centers(figure), strict=True):
        height = y - 0.25 - 0.05 * person.eye_size - 0.11 * figure.brows_raised
        tilt = 0.08 * (person.brow_tilt - 0.6) + 0.17 * figure.frown  # positive: down towards the nose
        t = np.linspace(-1, 1, 5)  # from the image's left to its right
        brow = np.stack([x + reach * t, height - side * tilt * t + 0.05 * t**2], axis=1)
        figure.line(brow, thickness, color, "l_brow" if side < 0 else "r_brow")
        points.append(brow)
    return np.concatenate(points)


def draw_nose(figure: FigureCanvas) -> None:
    """Draw a round or a pointed nose."""
    y, width, height = _nose_tip(figure)
    dark = mix_colors(figure.skin, (150, 60, 50), 0.38)
    if figure.person.nose_round > 0.5:
        figure.fill(ellipse(0, y, width, height), dark, "nose", NOSE_DEPTH)
        figure.fill(
            ellipse(-0.02, y - 0.03, width * 0.72, height * 0.62),
            mix_colors(figure.skin, (150, 60, 50), 0.15),
            "nose",
            NOSE_DEPTH,
        )
    else:
        nose = np.array([(0.0, y - 0.34), (width, y + height * 0.6), (-width, y + height * 0.6)])
        figure.fill(nose, dark, "nose", NOSE_DEPTH)


def nose_landmarks(figure: FigureCanvas) -> np.ndarray:
    """Find the bridge and the wings: shape (9, 2)."""
    y, width, _ = _nose_tip(figure)
    bridge = [(0, y * t) for t in (0.0, 0.33, 0.66, 1.0)]
    wings = [(width * t, y + 0.06 - 0.03 * abs(t)) for t in (-1, -0.5, 0, 0.5, 1)]
    return np.array(bridge + wings)


def draw_eyes(figure: FigureCanvas) -> np.ndarray:
    """Draw both eyes, a closed one as a curve: landmarks of shape (12, 2)."""
    person, points = figure.person, []
    iris = hsv_color(0.05 + 0.55 * person.iris, 0.75, 0.55)
    for side, (x, y), lid in zip((-1, 1), _eye_centers(figure), figure.eyelids, strict=True):
        width = 0.15 + 0.07 * person.eye_size
        height = (0.115 + 0.055 * person.eye_size) * np.clip(1 + lid, 0, 1.6)
        name = "l_eye" if side < 0 else "r_eye"
        outline = np.array(
            [
                (-width, 0),
                (-width / 2, -height),
                (width / 2, -height),
                (width, 0),
                (width / 2, height),
                (-width / 2, height),
            ]
        )
        if height < 0.06:
            t = np.linspace(-1, 1, 7)
            figure.line(np.stack([x + width * t, y + 0.07 * (1 - t**2)], axis=1), 0.06, (45, 30, 30), name)
        else:
            figure.fill(ellipse(x, y, width, height), (252, 252, 250), name)
            ball = min(height * 0.98, 0.125 + 0.02 * person.eye_size)
            figure.fill(ellipse(x, y + 0.01, ball * 0.92, ball), iris, name)
            figure.fill(ellipse(x, y + 0.01, ball * 0.5, ball * 0.55), (20, 16, 20), name)
            figure.fill(ellipse(x + 0.035, y - 0.035, 0.032, 0.032), (255, 255, 255), name)
            t = np.linspace(np.pi * 1.02, np.pi * 1.98, 9)
            figure.line(
                np.stack([x + width * np.cos(t), y + height * np.sin(t)], axis=1),
                0.045,
                (45, 30, 30),
                name,
            )
        points.append(outline + (x, y))
    return np.concatenate(points)


def draw_mouth(figure: FigureCanvas) -> np.ndarray:
    """Draw beard, mouth, teeth and lips: landmarks of shape (20, 2)."""
    person = figure.person
    color = mix_colors(mix_colors(figure.skin, (196, 54, 62), 0.62), (150, 40, 90), 0.5 * person.lip_color)
    y, width = 0.63, (0.2 + 0.13 * person.mouth_width) * (1 + 0.2 * figure.smile - 0.2 * figure.mouth_open)
    full, gap = 0.035 + 0.045 * person.lips, 0.17 * max(figure.mouth_open, 0)
    _draw_beard(figure, y)
    t = np.linspace(-1, 1, 9)
    bend = 0.13 * figure.smile * (0.5 - t**2)  # corners go up when smiling
    x = width * t
    taper = np.sqrt(np.clip(1 - t**2, 0, 1))
    top, inner_top = y + bend - (gap + full) * taper, y + bend - gap * taper
    inner_bottom, bottom = y + bend + gap * taper, y + bend + (gap + full * 1.25) * taper
    if gap > 0.02:
        figure.fill(ring(x, inner_top, inner_bottom), (92, 22, 30), "mouth")
        if figure.smile > 0.3 or figure.frown > 0.5:
            figure.fill(
                ring(x * 0.82, inner_top + 0.01, inner_top + gap * 0.7 * taper), (255, 252, 246), "mouth"
            )
    figure.fill(ring(x, top, inner_top + 0.012), color, "u_lip")
    figure.fill(ring(x, inner_bottom - 0.012, bottom), color, "l_lip")
    if gap <= 0.02:
        figure.line(np.stack([x, inner_top], axis=1), 0.035, (110, 34, 40), "mouth")
    outer = np.concatenate(
        [
            np.stack([x[[0, 1, 3, 4, 5, 7, 8]], top[[0, 1, 3, 4, 5, 7, 8]]], 1),
            np.stack([x[[7, 6, 4, 2, 1]], bottom[[7, 6, 4, 2, 1]]], 1),
        ]
    )
    inner = np.concatenate(
        [
            np.stack([x[[0, 2, 4, 6, 8]], inner_top[[0, 2, 4, 6, 8]]], 1),
            np.stack([x[[6, 4, 2]], inner_bottom[[6, 4, 2]]], 1),
        ]
    )
    return np.concatenate([outer, inner])


def _draw_beard(figure: FigureCanvas, y: float) -> None:
    """Draw it around a mouth whose middle is at y."""
    kind, person = figure.person.beard, figure.person
    if kind == "none":
        return
    color = mix_colors(figure.hair, (20, 14, 12), 0.2) if person.hair_style != "bald" else (86, 56, 40)
    if kind == "beard":
        jaw = head_outline(person, grow=0.03)
        low = jaw[jaw[:, 1] > 0.12]
        low = low[np.argsort(np.arctan2(low[:, 1], low[:, 0]))]
        w = person.width
        inside = np.array(
            [
                (-0.8 * w, 0.2),
                (-0.6 * w, 0.42),
                (-0.24, 0.44),
                (0.24, 0.44),
                (0.6 * w, 0.42),
                (0.8 * w, 0.2),
            ]
        )
        figure.fill(np.concatenate([low, inside]), color, "hair", 0.0)
    if kind == "goatee":
        figure.fill(ellipse(0, 0.88, 0.2, 0.19), color, "hair")
    if kind in ("moustache", "goatee"):
        top = y - 0.05 - 0.17 * max(figure.mouth_open, 0) * 0.9
        shape = np.array(
            [
                (-0.3, top + 0.02),
                (-0.16, top - 0.11),
                (0, top - 0.08),
                (0.16, top - 0.11),
                (0.3, top + 0.02),
                (0.14, top - 0.005),
                (0, top - 0.02),
                (-0.14, top - 0.005),
            ]
        )
        figure.fill(shape, color, "hair")


def draw_glasses(figure: FigureCanvas) -> None:
    """Draw rims, bridge and arms."""
    kind = figure.person.glasses
    if kind == "none":
        return
    color = (34, 34, 44) if figure.person.iris < 0.5 else (150, 40, 44)
    for side, (x, y) in zip((-1, 1), _eye_centers(figure), strict=True):
        radius = 0.245
        rim = (
            ellipse(x, y, radius, radius)
            if kind == "round"
            else box(x - radius, y - radius * 0.78, x + radius, y + radius * 0.78)
        )
        figure.line(np.concatenate([rim, rim[:1]]), 0.055, color, "eye_g")
        figure.line(
            np.array([(x + side * radius, y), (side * figure.person.width * 0.98, y - 0.03)]),
            0.05,
            color,
            "eye_g",
        )
    (left, y), (right, _) = _eye_centers(figure)
    figure.line(np.array([(left + 0.245, y), (right - 0.245, y)]), 0.05, color, "eye_g")


def _eye_centers(figure: FigureCanvas) -> tuple[tuple[float, float], tuple[float, float]]:
    gap, y = 0.27 + 0.11 * figure.person.eye_gap, -0.12 + 0.1 * figure.person.eye_height
    return (-gap, y), (gap, y)


def _nose_tip(figure: FigureCanvas) -> tuple[float, float, float]:
    return (
        0.26 + 0.2 * figure.person.nose_length,
        0.09 + 0.1 * figure.person.nose_width,
        0.06 + 0.06 * figure.person.nose_round,
    )
