"""The gallery's thumbnails: a workflow's inputs on the left, its images on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 640, 360  # px
_MARGIN, _GAP, _ARROW, _LINE = 20, 10, 56, 26  # px
_PAPER, _INK, _GRAY = (32, 33, 38), (240, 240, 244), (150, 152, 162)


@dataclass(frozen=True, eq=False)
class Tile:
    """An image with a caption."""

    image: np.ndarray  # (H, W, 3) uint8
    caption: str = ""


def draw_thumbnail(given: Sequence[Tile], made: Sequence[Sequence[np.ndarray]], prompt: str) -> Image.Image:
    """Draws a thumbnail.

    Args:
        given: the inputs, in a column; in a row if there are no outputs.
        made: the generated images, in rows; none if the models that generate them are missing.
        prompt: at the bottom.

    Returns:
        The thumbnail, 640 x 360 px.
    """
    sheet = Image.new("RGB", SIZE, _PAPER)
    pen = ImageDraw.Draw(sheet)
    bottom = SIZE[1] - _MARGIN - _LINE
    right = SIZE[0] - _MARGIN
    if made:
        right = _place_column(sheet, pen, given, bottom, 120 if len(made[0]) > len(made) else 190)
        _draw_arrow(pen, right + _ARROW // 2, bottom // 2 + _MARGIN // 2)
        _place_rows(sheet, made, (right + _ARROW, _MARGIN, SIZE[0] - _MARGIN, bottom))
    else:
        _place_row(sheet, pen, given, bottom)
    pen.text((SIZE[0] // 2, SIZE[1] - _MARGIN + 4), prompt, _INK, ImageFont.load_default(19), anchor="ms")
    return sheet


def _place_column(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, tiles: Sequence[Tile], bottom: int, largest: int
) -> int:
    """Sets tiles of at most `largest` px one below the other; returns the right end."""
    side = min((bottom - _MARGIN - _GAP * (len(tiles) - 1)) // len(tiles) - 20, largest)
    y = _MARGIN + (bottom - _MARGIN - len(tiles) * (side + 20) - _GAP * (len(tiles) - 1)) // 2
    for tile in tiles:
        _place(sheet, pen, tile, (_MARGIN, y, side))
        y += side + 20 + _GAP
    return _MARGIN + side


def _place_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, tiles: Sequence[Tile], bottom: int) -> None:
    side = min((SIZE[0] - 2 * _MARGIN - _GAP * (len(tiles) - 1)) // len(tiles), bottom - _MARGIN - 20)
    x = (SIZE[0] - len(tiles) * side - _GAP * (len(tiles) - 1)) // 2
    for tile in tiles:
        _place(sheet, pen, tile, (x, (bottom - side) // 2, side))
        x += side + _GAP


def _place(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, where: tuple[int, int, int]) -> None:
    x, y, side = where
    sheet.paste(Image.fromarray(tile.image).resize((side, side), Image.Resampling.LANCZOS), (x, y))
    pen.text((x + side // 2, y + side + 16), tile.caption, _GRAY, ImageFont.load_default(14), anchor="ms")


def _place_rows(
    sheet: Image.Image, rows: Sequence[Sequence[np.ndarray]], area: tuple[int, int, int, int]
) -> None:
    """Sets images of one size into an area, as large as they fit."""
    left, top, right, bottom = area
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    scale = min(
        (right - left - _GAP * (columns - 1)) / (columns * width),
        (bottom - top - _GAP * (len(rows) - 1)) / (len(rows) * height),
    )
    size = int(width * scale), int(height * scale)
    x0 = left + (right - left - columns * size[0] - _GAP * (columns - 1)) // 2
    y0 = top + (bottom - top - len(rows) * size[1] - _GAP * (len(rows) - 1)) // 2
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            shown = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(shown, (x0 + column * (size[0] + _GAP), y0 + row * (size[1] + _GAP)))


def _draw_arrow(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    pen.line((x - 16, y, x + 8, y), _INK, 4)
    pen.polygon(((x + 6, y - 9), (x + 18, y), (x + 6, y + 9)), _INK)
