"""Labeled images in rows, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..image import Photo

_HEIGHT, _GAP, _LINE, _HEAD = 152, 12, 16, 56  # px
_CHARACTERS = 27  # that fit under a square image
_INK, _GRAY, _PAPER = (34, 34, 40), (112, 112, 120), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Panel:
    """One image, and three lines under it: the prompt in two, then the scores."""

    image: Photo  # (H, W, 3); shown 152 px high
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[str, str, str]:
        """The lines."""
        first, second = _broken(self.text, _CHARACTERS * self.image.shape[1] // self.image.shape[0])
        return first, second, "   ".join(f"{name} {value:.2f}" for name, value in self.scores.items())


def draw_sheet(rows: Sequence[Sequence[Panel]], title: str, subtitle: str = "") -> Photo:
    """Set labeled images in rows.

    Args:
        rows: from the top; each from the left.
        title: at the top.
        subtitle: below it, smaller.

    Returns:
        shape (H, W, 3), uint8.
    """
    sizes = [
        [(round(_HEIGHT * cell.image.shape[1] / cell.image.shape[0]), _HEIGHT) for cell in row]
        for row in rows
    ]
    width = (
        max(sum(size[0] + _GAP for size in row) for row in sizes) + 3 * _GAP
    )  # a long second line needs a little more
    step = _HEIGHT + 3 * _LINE + _GAP
    sheet = Image.new("RGB", (width, _HEAD + step * len(rows) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), title, _INK, _font(19))
    pen.text((_GAP, 34), subtitle, _GRAY, _font(12))
    for number, row in enumerate(rows):
        x, y = _GAP, _HEAD + number * step
        for cell, size in zip(row, sizes[number], strict=True):
            sheet.paste(Image.fromarray(cell.image).resize(size, Image.Resampling.BICUBIC), (x, y))
            for line, text in enumerate(cell.lines):
                pen.text((x, y + _HEIGHT + 2 + line * _LINE), text, _GRAY if line == 2 else _INK, _font(11))
            x += size[0] + _GAP
    return np.asarray(sheet)


def _broken(text: str, length: int) -> tuple[str, str]:
    """Break a text in two, at its line break or near the end of the first line."""
    if "\n" in text:
        first, second = text.split("\n", 1)
        return first, second
    if len(text) <= length:
        return text, ""
    cut = text.rfind(" ", 0, length + 1)
    if len(text) - cut - 1 > length:  # rather a long first line than a longer second one
        cut = text.rfind(" ", 0, len(text) // 2 + 4)
    return text[:cut], text[cut + 1 :]


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
