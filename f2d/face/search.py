"""Where in a photo a detector looks for faces, and at which size: cheap looks first, until one is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from ..image import Photo
from .face import Face, keep_distinct

Look = Callable[[Photo], list[Face]]  # runs the network once, on an image as it is

# Long side in px and border as a share of it. YuNet detects faces of 10 to 300 px: a close-up needs a smaller
# image and room around the head, a face in a crowd a larger image.
_PASSES = ((1024, 0.0), (512, 0.25), (256, 0.5))
_CROWD = (2048, 0.0)
_MIN_INPUT = 64  # px; OpenCV 4 finds faces in nothing where a side is one cell of 32 px
_TILE, _TILE_OVERLAP = 1024, 128  # px
_MAX_TILED = 6144  # px, long side; larger photos are reduced, which bounds the time


def search_faces(look: Look, photo: Photo) -> Iterator[tuple[list[Face], bool]]:
    """Search for faces with one method after the other.

    Args:
        look: detects faces in an image.
        photo: shape (H, W, 3), uint8, RGB.

    Yields:
        The candidates of upright looks at several sizes, of the photo in the other three turns, and of the
        tiles of a photo that is larger than any of these looks; and whether it was a look at the upright,
        whole photo, where false faces are rare. The caller stops when it has found a face.
    """
    for long_side, border in (*_PASSES, _CROWD):
        yield _look_resized(look, photo, long_side, border), True
    small, back = _resize(photo, _PASSES[0][0])
    for long_side, border in _PASSES:
        turned = [
            face.moved(_turn_back(small.shape, quarter)).moved(back)
            for quarter in (1, 2, 3)
            for face in _look_resized(look, np.rot90(small, quarter), long_side, border)
        ]
        yield keep_distinct(turned), False
    if max(photo.shape[:2]) > _CROWD[0]:
        yield _look_at_tiles(look, photo), False


def _look_resized(look: Look, photo: Photo, long_side: int, border: float) -> list[Face]:
    """Search a photo at one size, with its edges continued by a share of the long side."""
    # Without a border nothing is enlarged: enlarged images show faces where there are none.
    image, back = _resize(photo, long_side, enlarge=bool(border))
    size = image.shape[1::-1]
    pad = np.array([max(round(border * max(size)), (_MIN_INPUT - side + 1) // 2) for side in size])
    image = cv2.copyMakeBorder(image, pad[1], pad[1], pad[0], pad[0], cv2.BORDER_REPLICATE)
    back[:, 2] -= back[:, :2] @ pad
    return [face.moved(back) for face in look(image)]


def _look_at_tiles(look: Look, photo: Photo) -> list[Face]:
    """Search overlapping tiles at full size."""
    image, back = _resize(photo, _MAX_TILED)
    height, width = image.shape[:2]
    step = _TILE - _TILE_OVERLAP
    found = []
    for top in range(0, max(height - _TILE_OVERLAP, 1), step):
        for left in range(0, max(width - _TILE_OVERLAP, 1), step):
            tile = image[top : top + _TILE, left : left + _TILE]
            shift = np.array([(1.0, 0, left), (0, 1.0, top)])
            found += [face.moved(shift) for face in _look_resized(look, tile, _TILE, 0.0)]
    return [face.moved(back) for face in keep_distinct(found)]


def _resize(photo: Photo, long_side: int, enlarge: bool = False) -> tuple[Photo, np.ndarray]:
    """Resize a photo; also give the transform of shape (2, 3) back to its px."""
    halved = 1
    while max(photo.shape[:2]) >= 2 * long_side and min(photo.shape[:2]) > 1:
        photo = _halve(photo)
        halved *= 2
    height, width = photo.shape[:2]
    scale = long_side / max(height, width)
    scale = scale if enlarge else min(scale, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    zoom = np.array([width / size[0], height / size[1]]) * halved
    return image, np.column_stack([np.diag(zoom), zoom / 2 - 0.5])


def _halve(photo: Photo) -> Photo:
    """Average blocks of 2 x 2 px, ten times as fast as other ratios; leave out an odd last row or column."""
    height, width = (side // 2 for side in photo.shape[:2])
    return cv2.resize(photo[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def _turn_back(shape: tuple[int, ...], quarter: int) -> np.ndarray:
    """Return the (2, 3) transform from `np.rot90(photo, quarter)` back to a photo of shape (H, W, 3)."""
    height, width = shape[:2]
    return np.array(
        [
            [(1, 0, 0), (0, 1, 0)],
            [(0, -1, width - 1), (1, 0, 0)],
            [(-1, 0, width - 1), (0, -1, height - 1)],
            [(0, 1, 0), (-1, 0, height - 1)],
        ][quarter],
        np.float64,
    )
