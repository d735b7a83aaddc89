"""Altered copies of photos, which show other people: other proportions, another color of skin and hair.

A mapper learns from pairs of v_id and photo, and few faces teach it few pairs. An altered photo is encoded by
every network, so its v_id is that of the face it shows. The paper mirrors photos only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from ...f2d.image import Photo

_STRETCH, _SHEAR = 0.07, 0.028  # at most, of a length
_SATURATION, _GAMMA, _GAIN = 0.12, 0.15, 0.05  # at most; gamma and a channel's gain as exponents of e


@dataclass(frozen=True, eq=False)
class Alteration:
    """What is changed about a photo."""

    axes: np.ndarray  # (2, 2): where the axes of the image go
    saturation: float
    gamma: float
    gains: np.ndarray  # (3,), of red, green and blue

    @classmethod
    def draw(cls, name: str, variant: int) -> Alteration:
        """Draw the alteration of a photo's copy: the same one for the same name and number.

        Args:
            name: of the photo in its folder.
            variant: number of the copy, from 1.

        Returns:
            The alteration.
        """
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        generator = np.random.default_rng([variant, *np.frombuffer(digest, np.uint32)])
        limits = np.array([[_STRETCH, _SHEAR], [_SHEAR, _STRETCH]])
        return cls(
            np.eye(2) + generator.uniform(-limits, limits),
            generator.uniform(1 - _SATURATION, 1 + _SATURATION),
            float(np.exp(generator.uniform(-_GAMMA, _GAMMA))),
            np.exp(generator.uniform(-_GAIN, _GAIN, 3)),
        )

    def change_photo(self, photo: Photo) -> Photo:
        """Change shape and colors.

        Args:
            photo: shape (H, W, 3), uint8.

        Returns:
            Of the same shape; what is beyond the border is the mirrored inside.
        """
        colors = self._warp(photo, cv2.INTER_CUBIC).astype(np.float32) / 255  # (H, W, 3) in [0, 1]
        gray = colors.mean(axis=2, keepdims=True)  # (H, W, 1)
        saturated = (gray + (colors - gray) * self.saturation).clip(0, 1)
        changed = (saturated**self.gamma * self.gains).clip(0, 1)
        return (changed * 255).round().astype(np.uint8)

    def change_map(self, labels: np.ndarray) -> np.ndarray:
        """Change the shape of a map of labels, shape (H, W), as the photo's."""
        return self._warp(labels.astype(np.float32), cv2.INTER_NEAREST).astype(labels.dtype)

    def _warp(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        height, width = image.shape[:2]
        center = np.array([width - 1, height - 1]) / 2
        matrix = np.column_stack([self.axes, center - self.axes @ center])  # (2, 3), px
        return cv2.warpAffine(
            image, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
        )
