"""The curve of a loss as an image, for a host that shows previews."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

_WIDTH, _HEIGHT, _MARGIN = 480, 240, 16  # px
_DECAY = 0.9  # of the running mean, per step


def draw_losses(losses: Sequence[float], steps: int) -> Image.Image:
    """Draw each step's loss as a dot, and their running mean as a line.

    Args:
        losses: of the steps so far, at least one.
        steps: in all; the width of the image.

    Returns:
        480 x 240 px, RGB.
    """
    values, means = np.asarray(losses, np.float64), []
    mean = values[0]
    for value in values:
        mean = _DECAY * mean + (1 - _DECAY) * value
        means.append(mean)
    low, high = values.min(), values.max()

    def place(step: int, value: float) -> tuple[float, float]:
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * step / max(steps - 1, 1)
        return x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / max(high - low, 1e-12)

    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    for step, value in enumerate(values):
        x, y = place(step, value)
        canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill="#b9c7d6")
    canvas.line([place(step, mean) for step, mean in enumerate(means)], fill="#1f5fa8", width=3)
    return image
