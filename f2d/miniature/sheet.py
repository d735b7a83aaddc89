"""Labeled images in rows, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..image import Photo

_HEIGHT, _GAP, _LINE, _HEAD = 208, 14, 18, 62  # px
_INK, _GRAY, _PAPER = (34, 34, 40), (112, 112, 120), (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with a text and scores under it."""

    image: Photo  # (H, W, 3); shown 208 px high
    text: str
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the sheet, px."""
        return round(_HEIGHT * self.image.shape[1] / self.image.shape[0]), _HEIGHT


def draw_sheet(rows: Sequence[Sequence[Panel]], title: str, subtitle: str = "") -> Photo:
    """Set labeled images in rows.

    Args:
        rows: from the top; each from the left.
        title: at the top.
        subtitle: below it, smaller.

    Returns:
        shape (H, W, 3), uint8.
    """
    texts = [[_wrap(panel.text, panel.size[0]) for panel in row] for row in rows]
    lines = [max(len(text) for text in row) for row in texts]
    scored = [any(panel.scores for panel in row) for row in rows]
    heights = [_HEIGHT + (count + score) * _LINE + _GAP for count, score in zip(lines, scored, strict=True)]
    width = max(sum(panel.size[0] + _GAP for panel in row) for row in rows) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + sum(heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), title, _INK, _font(20))
    pen.text((_GAP, 36), subtitle, _GRAY, _font(14))
    top = _HEAD
    for row, wrapped, count, height in zip(rows, texts, lines, heights, strict=True):
        left = _GAP
        for panel, text in zip(row, wrapped, strict=True):
            sheet.paste(
                Image.fromarray(panel.image).resize(panel.size, Image.Resampling.BICUBIC), (left, top)
            )
            scores = "   ".join(f"{name} {value:.2f}" for name, value in panel.scores.items())
            below = top + _HEIGHT + 3
            for number, line in enumerate(text):
                pen.text((left, below + number * _LINE), line, _INK, _font(13))
            pen.text((left, below + count * _LINE), scores, _GRAY, _font(13))
            left += panel.size[0] + _GAP
        top += height
    return np.asarray(sheet)


def _wrap(text: str, width: int) -> list[str]:
    """Break a text at its line breaks, and between words where a line would be wider than `width` px."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".lstrip()
            if line and _font(13).getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


@cache
def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
