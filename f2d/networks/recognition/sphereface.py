"""SphereFace [clcarwin/sphereface_pytorch]: a 20-layer network on a narrow ArcFace crop.

Dimension letters: B batch, W width of a layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...face.alignment import align_face, inverse_similarity_transform
from ...face.detection import Face
from ...image import Photo, to_signed
from .recognizer import FaceRecognizer

_WIDTHS = (64, 128, 256, 512)
_PAIRS = (1, 2, 4, 1)  # residual pairs of each width


class SphereFace(FaceRecognizer):
    """The 20-layer network on the ArcFace crop without 8 columns on each side, BGR."""

    name = "SphereFace"
    marker = "conv1_1.weight"
    variant = "sphere20a"

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        inputs = 3
        for stage, (width, pairs) in enumerate(zip(_WIDTHS, _PAIRS, strict=True), start=1):
            for number in range(1, 2 + 2 * pairs):  # the first halves the resolution
                self.add_module(
                    f"conv{stage}_{number}",
                    nn.Conv2d(inputs, width, 3, stride=2 if number == 1 else 1, padding=1),
                )
                self.add_module(f"relu{stage}_{number}", nn.PReLU(width))
                inputs = width
        self.fc5 = nn.Linear(inputs * 7 * 6, 512)

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Warp to ArcFace's template less 8 px a side: photo (H, W, 3), crop of shape (112, 96, 3)."""
        return align_face(photo, face.landmarks, fit=inverse_similarity_transform)[:, 8:-8]

    def normalize(self, crops: Tensor) -> Tensor:
        """Convert RGB crops of shape (B, 112, 96, 3) to BGR, (value - 127.5) / 128, shape (B, 3, 112, 96)."""
        return to_signed(crops).flip(1) * (127.5 / 128)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features.

        Args:
            x: shape (B, 3, 112, 96), of `normalize`.

        Returns:
            shape (B, 512).
        """
        for stage, pairs in enumerate(_PAIRS, start=1):
            x = self._layer(x, f"{stage}_1")  # (B, W, h / 2, w / 2)
            for number in range(2, 2 + 2 * pairs, 2):
                x = x + self._layer(self._layer(x, f"{stage}_{number}"), f"{stage}_{number + 1}")
        return self.fc5(x.flatten(1))  # (B, 512)

    def _layer(self, x: Tensor, name: str) -> Tensor:
        return getattr(self, f"relu{name}")(getattr(self, f"conv{name}")(x))
