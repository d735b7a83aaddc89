"""The renderer: a scene as a picture, and exactly what is where in it.

Shapes are polygons in a head's own frame: the origin in the middle of the head, x to the right, y downwards, the chin at y = 1. `Camera`
takes them to pixels. Everything is drawn at twice the size with antialiasing and then averaged.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ...data.parsing import CELEBAMASK_LABELS as LABELS
from . import backdrops as places
from .scene import Figure, Person, Scene, View

SIZE = 128  # px, the picture's height
_SUPER = 2
_SHIFT = 4  # fractional bits of OpenCV's coordinates
_NOSE = 0.72  # how far it stands out
Color = tuple[float, float, float]

_HAIR: dict[str, Color] = {
    "black": (38, 32, 36), "brown": (104, 64, 38), "blonde": (232, 190, 98), "red": (190, 78, 32), "grey": (168, 168, 174),
    "blue": (58, 96, 190), "pink": (232, 122, 170), "green": (62, 142, 86),
}  # fmt: skip
_SKIN = np.array([(255, 226, 204), (243, 198, 164), (216, 158, 116), (164, 106, 72), (104, 66, 48)], float)


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn scene."""

    image: np.ndarray  # (H, W, 3) uint8, RGB
    labels: np.ndarray  # (H, W) uint8, CelebAMask-HQ numbering of `training.parsing`
    landmarks: tuple[np.ndarray, ...]  # a person: (68, 2) px, in the iBUG 300-W order

    @property
    def landmarks5(self) -> np.ndarray:
        """The first person's eyes, nose tip and mouth corners, shape (5, 2), px."""
        points = self.landmarks[0]
        return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


class Canvas:
    """Draws polygons into a picture and into its label map."""

    def __init__(self, width: int, height: int) -> None:
        """Begin with nothing; sizes in px of the finished picture."""
        self.image = np.zeros((height * _SUPER, width * _SUPER, 3), np.uint8)
        self.labels = np.zeros((height, width), np.uint8)
        self.height = height

    def fill(self, points: np.ndarray, color: Color, label: str | None = None) -> None:
        """Fill a polygon.

        Args:
            points: shape (N, 2), px of the finished picture.
            color: 0 to 255.
            label: what it belongs to; None = to what is under it.
        """
        scaled = np.rint((points + 0.5) * _SUPER * 2**_SHIFT - 2 ** (_SHIFT - 1)).astype(np.int32)
        cv2.fillPoly(self.image, [scaled], tuple(float(c) for c in color), cv2.LINE_AA, _SHIFT)
        if label is not None:
            cv2.fillPoly(
                self.labels,
                [np.rint(points * 2**_SHIFT).astype(np.int32)],
                LABELS.index(label),
                cv2.LINE_8,
                _SHIFT,
            )

    def line(self, points: np.ndarray, width: float, color: Color, label: str | None = None) -> None:
        """Draw an open stroke of a width in px with round ends; shape (N, 2)."""
        scaled = np.rint((points + 0.5) * _SUPER * 2**_SHIFT - 2 ** (_SHIFT - 1)).astype(np.int32)
        thick = max(1, round(width * _SUPER))
        cv2.polylines(self.image, [scaled], False, tuple(float(c) for c in color), thick, cv2.LINE_AA, _SHIFT)
        if label is not None:
            flat = np.rint(points * 2**_SHIFT).astype(np.int32)
            cv2.polylines(
                self.labels, [flat], False, LABELS.index(label), max(1, round(width)), cv2.LINE_8, _SHIFT
            )

    def finish(self) -> np.ndarray:
        """Average to the finished size: shape (H, W, 3), uint8."""
        height, width = self.labels.shape
        return cv2.resize(self.image, (width, height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Camera:
    """From a head's frame to pixels."""

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


def draw(scene: Scene, size: int = SIZE) -> Picture:
    """Draw a scene.

    Args:
        scene: what to draw.
        size: the picture's height, px.

    Returns:
        The picture, shape (size, size * aspect, 3), and its ground truth.
    """
    canvas = Canvas(round(size * scene.aspect), size)
    if scene.place:
        places.draw(canvas, scene.place, scene.studio)
    else:
        canvas.fill(_box(-1, -1, size * 4, size * 4), _hsv(scene.studio, 0.22, 0.93))
    landmarks = tuple(_Drawing(canvas, figure).draw() for figure in scene.figures)
    return Picture(canvas.finish(), canvas.labels, landmarks)


class _Drawing:
    """Draws one figure, from back to front."""

    def __init__(self, canvas: Canvas, figure: Figure) -> None:
        self.canvas, self.figure, self.person = canvas, figure, figure.person
        self.camera = Camera(figure.view, canvas.height, figure.person.width)
        self.unit = figure.view.scale * canvas.height  # px
        person = figure.person
        self.skin = _skin(person)
        self.shade = _mix(self.skin, (120, 50, 40), 0.25)
        self.hair = _hair(person)
        self.smile, self.open, self.raised, self.frown, *self.lids = figure.expression
        self.smile += 0.18  # a face at rest looks friendly

    def fill(
        self, points: np.ndarray, color: Color, label: str | None = None, depth: float | None = None
    ) -> None:
        self.canvas.fill(self.camera(points, depth), color, label)

    def line(
        self,
        points: np.ndarray,
        width: float,
        color: Color,
        label: str | None = None,
        depth: float | None = None,
    ) -> None:
        self.canvas.line(self.camera(points, depth), width * self.unit, color, label)

    def draw(self) -> np.ndarray:
        person, job = self.person, self.figure.job
        hat = _HATS.get(job)
        self._hair_behind(covered=hat is not None and job not in ("dj", "tennis player", "scientist"))
        self._clothes()
        self._head()
        if person.cheeks > 0.5:
            for side in (-1, 1):
                self.fill(
                    _ellipse(side * person.width * 0.62, 0.33, 0.15, 0.12),
                    _mix(self.skin, (238, 84, 92), 0.45 * person.cheeks),
                )
        points = np.concatenate(
            [_jaw(person), self._brows(), self._nose_points(), self._eyes(), self._mouth()]
        )
        self._nose()
        self._hair_front(covered=hat is not None and job not in ("dj", "tennis player", "scientist"))
        self._glasses()
        if hat is not None:
            hat(self)
        parts = ((points[:17], 0.0), (points[17:27], None), (points[27:36], _NOSE), (points[36:], None))
        return np.concatenate([self.camera(part, depth) for part, depth in parts])

    # --- head and hair ---------------------------------------------------------------------------------------------------------

    def _head(self) -> None:
        person = self.person
        for side, name in ((-1, "l_ear"), (1, "r_ear")):
            shown = person.width * (1.0 - 0.10 * side * np.sin(np.deg2rad(self.figure.view.yaw)))
            ear = _ellipse(side * shown, 0.02, 0.11 + 0.07 * person.ears, 0.17 + 0.08 * person.ears)
            self.fill(ear, self.skin, name, 0.0)
            inner = _ellipse(
                side * (shown + 0.03), 0.03, 0.05 + 0.04 * person.ears, 0.09 + 0.05 * person.ears
            )
            self.fill(inner, self.shade, None, 0.0)
        self.fill(_outline(person), self.skin, "skin", 0.0)

    def _hair_behind(self, covered: bool) -> None:
        person, style = self.person, self.person.hair_style
        w, more = person.width, 0.14 + 0.12 * person.hair_volume
        if style == "long":
            hair = np.array(
                [(-w - more, -0.4), (-w - more - 0.06, 1.5), (w + more + 0.06, 1.5), (w + more, -0.4)]
            )
            self.fill(hair, _mix(self.hair, (0, 0, 0), 0.18), "hair", 0.0)
        if style == "bob":
            hair = np.array(
                [(-w - more, -0.4), (-w - more - 0.02, 0.72), (w + more + 0.02, 0.72), (w + more, -0.4)]
            )
            self.fill(hair, _mix(self.hair, (0, 0, 0), 0.18), "hair", 0.0)
        if covered:
            return
        if style in ("long", "bob"):
            self.fill(
                _ellipse(0, -0.35, w + more, 0.82 + more), _mix(self.hair, (0, 0, 0), 0.18), "hair", 0.0
            )
        if style == "curly":
            for angle in np.linspace(np.pi * 0.92, np.pi * 2.08, 11):
                spot = _ellipse(
                    np.cos(angle) * (w + 0.1),
                    -0.3 + np.sin(angle) * 0.85,
                    0.25 + more * 0.6,
                    0.25 + more * 0.6,
                )
                self.fill(spot, self.hair, "hair", 0.0)
        if style == "bun":
            self.fill(
                _ellipse(0, -1.18 - more * 0.4, 0.3 + more * 0.4, 0.27 + more * 0.4), self.hair, "hair", 0.0
            )

    def _hair_front(self, covered: bool) -> None:
        person, style = self.person, self.person.hair_style
        if style == "bald":
            return
        more = 0.05 + 0.10 * person.hair_volume
        fringe = {
            "short": -0.55,
            "parted": -0.42,
            "bob": -0.36,
            "long": -0.5,
            "curly": -0.52,
            "spiky": -0.5,
            "bun": -0.6,
        }[style]
        temple = {
            "short": -0.12,
            "parted": -0.15,
            "bob": 0.25,
            "long": 0.3,
            "curly": -0.05,
            "spiky": -0.2,
            "bun": -0.28,
        }[style]
        outer = _outline(person, grow=more)
        crown = outer[outer[:, 1] < temple]
        crown = crown[np.argsort(crown[:, 0])]
        w = person.width
        hairline = {
            "parted": [(0.92 * w, temple), (0.72 * w, fringe + 0.1), (0.1, fringe - 0.06), (-0.4 * w, -0.78), (-0.75 * w, fringe), (-0.92 * w, temple)],
            "long": [(0.94 * w, temple), (0.8 * w, -0.25), (0.45 * w, fringe), (0, -0.74), (-0.45 * w, fringe), (-0.8 * w, -0.25), (-0.94 * w, temple)],
            "bob": [(0.92 * w, temple), (0.84 * w, fringe), (-0.84 * w, fringe), (-0.92 * w, temple)],
        }.get(style, [(0.95 * w, temple), (0.78 * w, fringe + 0.05), (0, fringe - 0.08), (-0.78 * w, fringe + 0.05), (-0.95 * w, temple)])  # fmt: skip
        self.fill(np.concatenate([crown, np.array(hairline)]), self.hair, "hair", 0.0)
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
                self.fill(spike, self.hair, "hair", 0.0)
        if style in ("short", "parted", "bob", "bun"):
            shine = np.array([(-0.5 * w, -0.84), (-0.1 * w, -0.93), (-0.12 * w, -0.85), (-0.46 * w, -0.76)])
            self.fill(shine, _mix(self.hair, (255, 255, 255), 0.22), None, 0.0)

    # --- face ------------------------------------------------------------------------------------------------------------------

    def _eye_centers(self) -> tuple[tuple[float, float], tuple[float, float]]:
        gap, y = 0.27 + 0.11 * self.person.eye_gap, -0.12 + 0.1 * self.person.eye_height
        return (-gap, y), (gap, y)

    def _brows(self) -> np.ndarray:
        person, color = (
            self.person,
            _mix(self.hair, (30, 20, 20), 0.45) if self.person.hair_style != "bald" else (70, 48, 40),
        )
        thickness, reach, points = 0.055 + 0.085 * person.brow_thickness, 0.19 + 0.05 * person.eye_size, []
        for side, (x, y) in zip((-1, 1), self._eye_centers(), strict=True):
            height = y - 0.25 - 0.05 * person.eye_size - 0.11 * self.raised
            tilt = 0.08 * (person.brow_tilt - 0.6) + 0.17 * self.frown  # positive: down towards the nose
            t = np.linspace(-1, 1, 5)  # from the image's left to its right
            brow = np.stack([x + reach * t, height - side * tilt * t + 0.05 * t**2], axis=1)
            self.line(brow, thickness, color, "l_brow" if side < 0 else "r_brow")
            points.append(brow)
        return np.concatenate(points)

    def _eyes(self) -> np.ndarray:
        person, points = self.person, []
        iris = _hsv(0.05 + 0.55 * person.iris, 0.75, 0.55)
        for side, (x, y), lid in zip((-1, 1), self._eye_centers(), self.lids, strict=True):
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
                self.line(np.stack([x + width * t, y + 0.07 * (1 - t**2)], axis=1), 0.06, (45, 30, 30), name)
            else:
                self.fill(_ellipse(x, y, width, height), (252, 252, 250), name)
                ball = min(height * 0.98, 0.125 + 0.02 * person.eye_size)
                look = 0.0
                self.fill(_ellipse(x + look, y + 0.01, ball * 0.92, ball), iris, name)
                self.fill(_ellipse(x + look, y + 0.01, ball * 0.5, ball * 0.55), (20, 16, 20), name)
                self.fill(_ellipse(x + look + 0.035, y - 0.035, 0.032, 0.032), (255, 255, 255), name)
                t = np.linspace(np.pi * 1.02, np.pi * 1.98, 9)
                self.line(
                    np.stack([x + width * np.cos(t), y + height * np.sin(t)], axis=1),
                    0.045,
                    (45, 30, 30),
                    name,
                )
            points.append(outline + (x, y))
        return np.concatenate(points)

    def _nose_tip(self) -> tuple[float, float, float]:
        return (
            0.26 + 0.2 * self.person.nose_length,
            0.09 + 0.1 * self.person.nose_width,
            0.06 + 0.06 * self.person.nose_round,
        )

    def _nose_points(self) -> np.ndarray:
        y, width, _ = self._nose_tip()
        bridge = [(0, y * t) for t in (0.0, 0.33, 0.66, 1.0)]
        wings = [(width * t, y + 0.06 - 0.03 * abs(t)) for t in (-1, -0.5, 0, 0.5, 1)]
        return np.array(bridge + wings)

    def _nose(self) -> None:
        y, width, height = self._nose_tip()
        dark = _mix(self.skin, (150, 60, 50), 0.38)
        if self.person.nose_round > 0.5:
            self.fill(_ellipse(0, y, width, height), dark, "nose", _NOSE)
            self.fill(
                _ellipse(-0.02, y - 0.03, width * 0.72, height * 0.62),
                _mix(self.skin, (150, 60, 50), 0.15),
                "nose",
                _NOSE,
            )
        else:
            nose = np.array([(0.0, y - 0.34), (width, y + height * 0.6), (-width, y + height * 0.6)])
            self.fill(nose, dark, "nose", _NOSE)

    def _mouth(self) -> np.ndarray:
        person = self.person
        color = _mix(_mix(self.skin, (196, 54, 62), 0.62), (150, 40, 90), 0.5 * person.lip_color)
        y, width = 0.63, (0.2 + 0.13 * person.mouth_width) * (1 + 0.2 * self.smile - 0.2 * self.open)
        full, gap = 0.035 + 0.045 * person.lips, 0.17 * max(self.open, 0)
        self._beard(y)
        t = np.linspace(-1, 1, 9)
        bend = 0.13 * self.smile * (0.5 - t**2)  # corners go up when smiling
        x = width * t
        taper = np.sqrt(np.clip(1 - t**2, 0, 1))
        top, inner_top = y + bend - (gap + full) * taper, y + bend - gap * taper
        inner_bottom, bottom = y + bend + gap * taper, y + bend + (gap + full * 1.25) * taper
        if gap > 0.02:
            self.fill(_ring(x, inner_top, inner_bottom), (92, 22, 30), "mouth")
            if self.smile > 0.3 or self.frown > 0.5:
                self.fill(
                    _ring(x * 0.82, inner_top + 0.01, inner_top + gap * 0.7 * taper), (255, 252, 246), "mouth"
                )
        self.fill(_ring(x, top, inner_top + 0.012), color, "u_lip")
        self.fill(_ring(x, inner_bottom - 0.012, bottom), color, "l_lip")
        if gap <= 0.02:
            self.line(np.stack([x, inner_top], axis=1), 0.035, (110, 34, 40), "mouth")
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

    def _beard(self, y: float) -> None:
        kind, person = self.person.beard, self.person
        if kind == "none":
            return
        color = _mix(self.hair, (20, 14, 12), 0.2) if person.hair_style != "bald" else (86, 56, 40)
        if kind == "beard":
            jaw = _outline(person, grow=0.03)
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
            self.fill(np.concatenate([low, inside]), color, "hair", 0.0)
        if kind == "goatee":
            self.fill(_ellipse(0, 0.88, 0.2, 0.19), color, "hair")
        if kind in ("moustache", "goatee"):
            top = y - 0.05 - 0.17 * max(self.open, 0) * 0.9
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
            self.fill(shape, color, "hair")

    def _glasses(self) -> None:
        kind = self.person.glasses
        if kind == "none":
            return
        color = (34, 34, 44) if self.person.iris < 0.5 else (150, 40, 44)
        for side, (x, y) in zip((-1, 1), self._eye_centers(), strict=True):
            radius = 0.245
            rim = (
                _ellipse(x, y, radius, radius)
                if kind == "round"
                else _box(x - radius, y - radius * 0.78, x + radius, y + radius * 0.78)
            )
            self.line(np.concatenate([rim, rim[:1]]), 0.055, color, "eye_g")
            self.line(
                np.array([(x + side * radius, y), (side * self.person.width * 0.98, y - 0.03)]),
                0.05,
                color,
                "eye_g",
            )
        (left, y), (right, _) = self._eye_centers()
        self.line(np.array([(left + 0.245, y), (right - 0.245, y)]), 0.05, color, "eye_g")

    # --- clothes ---------------------------------------------------------------------------------------------------------------

    def body(self, points: np.ndarray, color: Color, label: str = "cloth") -> None:
        self.canvas.fill(self.camera.upright(points), color, label)

    def _clothes(self) -> None:
        neck = np.array([(-0.3, 0.5), (-0.3, 1.2), (0, 1.32), (0.3, 1.2), (0.3, 0.5)])
        coat = _hsv(self.figure.sweater, 0.45, 0.72)
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
        _COATS.get(self.figure.job, _sweater)(self, shoulders, coat)
        self.body(neck, self.shade, "neck")
        _COLLARS.get(self.figure.job, _crew_neck)(self, coat)


# --- what jobs wear ------------------------------------------------------------------------------------------------------------------


def _sweater(d: _Drawing, shoulders: np.ndarray, coat: Color) -> None:
    d.body(shoulders, coat)


def _plain(color: Color) -> Callable[[_Drawing, np.ndarray, Color], None]:
    def wear(d: _Drawing, shoulders: np.ndarray, coat: Color) -> None:
        d.body(shoulders, color)

    return wear


def _crew_neck(d: _Drawing, coat: Color) -> None:
    t = np.linspace(0, np.pi, 9)
    d.canvas.line(
        d.camera.upright(np.stack([0.36 * np.cos(t), 1.08 + 0.26 * np.sin(t)], 1)),
        0.1 * d.unit,
        _mix(coat, (0, 0, 0), 0.25),
        "cloth",
    )


def _v_neck(color: Color, shirt: Color) -> Callable[[_Drawing, Color], None]:
    def wear(d: _Drawing, coat: Color) -> None:
        d.body(np.array([(-0.34, 1.06), (0, 1.3), (0.34, 1.06), (0.2, 2.2), (-0.2, 2.2)]), shirt)
        for side in (-1, 1):
            d.body(
                np.array([(side * 0.34, 1.02), (side * 0.52, 1.1), (side * 0.22, 2.2), (side * 0.08, 1.75)]),
                color,
            )

    return wear


def _stripes(base: Color, stripe: Color) -> Callable[[_Drawing, np.ndarray, Color], None]:
    def wear(d: _Drawing, shoulders: np.ndarray, coat: Color) -> None:
        d.body(shoulders, base)
        for side in (-1, 1):
            d.body(
                np.array([(side * 0.5, 1.12), (side * 0.74, 1.16), (side * 0.74, 2.6), (side * 0.5, 2.6)]),
                stripe,
            )

    return wear


_COATS: dict[str, Callable] = {
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


def _bandana(d: _Drawing, coat: Color) -> None:
    d.body(np.array([(-0.4, 1.0), (0.4, 1.0), (0.1, 1.62), (-0.1, 1.62)]), (204, 40, 40))


def _buttons(d: _Drawing, coat: Color) -> None:
    d.body(np.array([(-0.4, 1.0), (0.4, 1.0), (0.3, 1.24), (-0.3, 1.24)]), (226, 230, 236))
    for x in (-0.16, 0.16):
        d.canvas.fill(d.camera.upright(_ellipse(x, 1.5, 0.06, 0.06)), (60, 60, 80), "cloth")


def _ermine(d: _Drawing, coat: Color) -> None:
    d.body(
        np.array(
            [(-0.5, 1.0), (0.5, 1.0), (0.62, 1.24), (0.3, 1.46), (0, 1.52), (-0.3, 1.46), (-0.62, 1.24)]
        ),
        (252, 250, 244),
    )
    for x, y in ((-0.36, 1.24), (0, 1.38), (0.36, 1.24)):
        d.canvas.fill(d.camera.upright(_ellipse(x, y, 0.045, 0.07)), (40, 34, 40), "cloth")


def _mail(d: _Drawing, coat: Color) -> None:
    d.body(np.array([(-0.62, 0.95), (0.62, 0.95), (0.86, 1.3), (0, 1.6), (-0.86, 1.3)]), (112, 120, 134))


_COLLARS: dict[str, Callable] = {
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


def _helmet(d: _Drawing) -> None:
    w = d.person.width + 0.13
    d.fill(
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
    d.fill(
        np.array([(-w - 0.2, -0.36), (-w, -0.52), (w, -0.52), (w + 0.2, -0.36)]), (168, 24, 28), "hat", 0.0
    )
    d.fill(
        np.array([(-0.17, -0.58), (-0.2, -0.95), (0, -1.08), (0.2, -0.95), (0.17, -0.58)]),
        (250, 214, 60),
        "hat",
        0.4,
    )


def _cowboy_hat(d: _Drawing) -> None:
    w = d.person.width
    d.fill(
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
    d.fill(brim, (118, 70, 34), "hat", 0.0)
    d.fill(_box(-w * 0.83, -0.72, w * 0.83, -0.56), (60, 34, 22), "hat", 0.0)


def _toque(d: _Drawing) -> None:
    w = d.person.width
    for x, y, r in ((-0.5, -1.3, 0.36), (0.5, -1.3, 0.36), (0, -1.42, 0.42)):
        d.fill(_ellipse(x * w / 0.8, y, r, r), (252, 252, 252), "hat", 0.0)
    d.fill(_box(-w * 0.92, -1.15, w * 0.92, -0.5), (236, 240, 246), "hat", 0.0)


def _race_helmet(d: _Drawing) -> None:
    w, person = d.person.width, d.person
    outer = _outline(person, grow=0.2)
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
    d.fill(np.concatenate([shell, inner]), (226, 40, 48), "hat", 0.0)
    d.fill(_box(-0.14, -1.2, 0.14, -0.45), (250, 250, 250), "hat", 0.3)


def _crown(d: _Drawing) -> None:
    w = d.person.width * 0.92
    points = [
        (-w, -0.55),
        (-w * 1.08, -1.32),
        (-w * 0.5, -0.95),
        (0, -1.46),
        (w * 0.5, -0.95),
        (w * 1.08, -1.32),
        (w, -0.55),
    ]
    d.fill(np.array(points), (248, 200, 40), "hat", 0.0)
    d.fill(_ellipse(0, -0.76, 0.1, 0.1), (210, 30, 60), "hat", 0.4)
    for side in (-1, 1):
        d.fill(_ellipse(side * 0.44, -0.74, 0.08, 0.08), (40, 90, 200), "hat", 0.3)


def _goggles(d: _Drawing) -> None:
    w = d.person.width
    d.fill(_box(-w * 1.02, -0.72, w * 1.02, -0.56), (50, 54, 62), "hat", 0.0)
    for side in (-1, 1):
        d.fill(_ellipse(side * 0.3, -0.64, 0.27, 0.21), (50, 54, 62), "hat", 0.35)
        d.fill(_ellipse(side * 0.3, -0.64, 0.19, 0.14), (120, 226, 236), "hat", 0.35)


def _headband(d: _Drawing) -> None:
    w = d.person.width * 1.03
    t = np.linspace(-1, 1, 9)
    band = np.concatenate(
        [np.stack([t * w, -0.5 - 0.06 * (1 - t**2)], 1), np.stack([-t * w, -0.74 - 0.08 * (1 - t**2)], 1)]
    )
    d.fill(band, (62, 196, 96), "hat", 0.0)


def _headphones(d: _Drawing) -> None:
    w = d.person.width + 0.1
    t = np.linspace(np.pi, 2 * np.pi, 15)
    d.line(np.stack([(w + 0.04) * np.cos(t), -0.05 + 1.14 * np.sin(t)], 1), 0.12, (40, 40, 52), "hat", 0.0)
    for side in (-1, 1):
        d.fill(_ellipse(side * w, 0.02, 0.17, 0.29), (240, 60, 190), "hat", 0.0)


def _knight_helm(d: _Drawing) -> None:
    w, person = d.person.width, d.person
    outer = _outline(person, grow=0.17)
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
    d.fill(np.concatenate([shell, inner]), (178, 186, 198), "hat", 0.0)
    d.fill(np.array([(-0.1, -1.15), (-0.34, -1.62), (0.3, -1.66), (0.12, -1.15)]), (206, 36, 44), "hat", 0.0)


def _peaked_cap(d: _Drawing) -> None:
    w = d.person.width
    d.fill(
        np.array([(-w * 1.02, -0.62), (-w * 1.3, -1.12), (0, -1.38), (w * 1.3, -1.12), (w * 1.02, -0.62)]),
        (30, 46, 92),
        "hat",
        0.0,
    )
    d.fill(_box(-w * 1.0, -0.78, w * 1.0, -0.58), (246, 206, 84), "hat", 0.0)
    t = np.linspace(-1, 1, 9)
    d.fill(
        np.concatenate(
            [np.stack([t * w * 0.95, -0.6 + 0 * t], 1), np.stack([-t * w * 0.9, -0.6 + 0.2 * (1 - t**2)], 1)]
        ),
        (18, 20, 30),
        "hat",
        0.35,
    )
    d.fill(_ellipse(0, -0.96, 0.13, 0.13), (250, 226, 120), "hat", 0.4)


_HATS: dict[str, Callable[[_Drawing], None]] = {
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


# --- shapes and colors ----------------------------------------------------------------------------------------------------------------


def _ellipse(x: float, y: float, rx: float, ry: float, count: int = 28) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def _ring(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _outline(person: Person, grow: float = 0.0) -> np.ndarray:
    """The head's silhouette, from a superellipse whose lower half narrows towards the chin: shape (60, 2)."""
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    power = 2 / (2.5 - 0.3 * person.chin)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
    narrow = 1 - (0.08 + 0.34 * person.chin) * np.clip(y, 0, 1) ** 1.6
    return np.stack([x * narrow * (person.width + grow), y * (1 + grow)], axis=1)


def _jaw(person: Person) -> np.ndarray:
    """The 17 points of the jaw, from the image's left to its right."""
    outline = _outline(person)
    angle = np.arctan2(outline[:, 1], -outline[:, 0])  # 0 at the left, pi / 2 at the chin, pi at the right
    order = np.argsort(angle)
    wanted = np.linspace(0, np.pi, 17)
    return np.stack([np.interp(wanted, angle[order], outline[order, i]) for i in (0, 1)], axis=1)


def _mix(a: Color, b: Color, share: float) -> Color:
    return tuple(float(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _hsv(hue: float, saturation: float, value: float) -> Color:
    return tuple(255 * c for c in colorsys.hsv_to_rgb(hue % 1, saturation, value))  # type: ignore[return-value]


def _skin(person: Person) -> Color:
    tone = np.array([np.interp(person.skin, np.linspace(0, 1, len(_SKIN)), _SKIN[:, i]) for i in range(3)])
    shift = np.array([6, -4, -12]) * (person.undertone - 0.5) * 2
    return tuple(float(c) for c in np.clip(tone + shift, 0, 255))  # type: ignore[return-value]


def _hair(person: Person) -> Color:
    return _mix(
        _HAIR[person.hair_color],
        (255, 255, 255) if person.hair_shade > 0.5 else (0, 0, 0),
        0.3 * abs(person.hair_shade - 0.5),
    )
