"""Landmarks from a person or another program, in any order: mend what can be mended, refuse the rest."""

from __future__ import annotations

import logging

import numpy as np

from .alignment import ARCFACE_TEMPLATE, move_points, similarity_transform

_MAX_MISFIT = 15.0  # px of 112; real faces, profiles too, have at most 12.2, a wrong order 17 or more
_GOOD_MISFIT = 10.0  # px of 112, for a mended order
_ORDERS = {
    "the eyes were swapped": [1, 0, 2, 3, 4],
    "the mouth corners were swapped": [0, 1, 2, 4, 3],
    "the person's left came first": [1, 0, 2, 4, 3],
}
_EXPECTED = "eyes, nose tip and mouth corners as x,y in px, each pair from the left of the image"

log = logging.getLogger("face2diffusion")


def measure_misfit(landmarks: np.ndarray) -> tuple[float, float]:
    """Compare landmarks with ArcFace's template.

    Args:
        landmarks: shape (5, 2), px.

    Returns:
        The root mean square distance after the similarity fit, px of 112, and the roll in [0, pi].

    Raises:
        ValueError: the landmarks coincide, or are not finite.
    """
    transform = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    distances = move_points(np.asarray(landmarks, np.float64), transform) - ARCFACE_TEMPLATE
    roll = abs(float(np.arctan2(transform[1, 0], transform[0, 0])))
    return float((distances**2).sum(1).mean() ** 0.5), roll


def mend_order(landmarks: np.ndarray) -> np.ndarray:
    """Check the order of given landmarks, and mend swapped sides and exchanged coordinates.

    Args:
        landmarks: shape (5, 2), px.

    Returns:
        The same array where the order is right; else a mended copy. Of several orders that fit, the one with
        the most upright face is taken, since exchanged coordinates are a mirrored face lying on its side.

    Raises:
        ValueError: the points are not those of a face in any of these orders, or coincide.
    """
    misfit = measure_misfit(landmarks)[0]
    if misfit <= _MAX_MISFIT:
        return landmarks
    mended = {what: landmarks[order] for what, order in _ORDERS.items()}
    mended["x and y were exchanged"] = landmarks[:, ::-1]
    fits = {what: measure_misfit(points) for what, points in mended.items()}
    good = [what for what in mended if fits[what][0] <= _GOOD_MISFIT]
    if not good:
        raise ValueError(
            f"The landmarks are not those of a face: they miss a mean face by {misfit:.1f} px of 112 "
            f"(at most {_MAX_MISFIT:.0f}). Give {_EXPECTED}."
        )
    what = min(good, key=lambda what: fits[what][1])
    log.warning("The order of the landmarks was mended: %s. Expected: %s.", what, _EXPECTED)
    return mended[what]
