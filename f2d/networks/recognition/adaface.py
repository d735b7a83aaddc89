"""AdaFace [mk-minchul/AdaFace]: an improved ResNet on the ArcFace crop.

Dimension letters: B batch, W width of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from ...face.alignment import TEMPLATE_SIZE, align_face, inverse_similarity_transform
from ...face.detection import Face
from ...image import Photo, to_signed
from .recognizer import FaceRecognizer

_WIDTHS = (64, 128, 256, 512)
_UNITS = {"IR-50": (3, 4, 14, 3), "IR-101": (3, 13, 30, 3)}  # of each width


class AdaFace(FaceRecognizer):
    """An improved ResNet on the ArcFace crop, BGR."""

    name = "AdaFace"
    marker = "input_layer.0.weight"

    def __init__(self, variant: str = "IR-101") -> None:
        """Build the network with random weights.

        Args:
            variant: "IR-50" or "IR-101".
        """
        super().__init__()
        self.variant = variant
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        inputs, units = 64, []
        for width, count in zip(_WIDTHS, _UNITS[variant], strict=True):
            for index in range(count):
                units.append(_ImprovedUnit(inputs, width, stride=1 if index else 2))
                inputs = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(inputs * (TEMPLATE_SIZE // 16) ** 2, 512),
            nn.BatchNorm1d(512, affine=False),
        )

    @classmethod
    def for_tensors(cls, tensors: Mapping[str, Tensor]) -> FaceRecognizer:
        """Choose the depth by the number of units; one that is neither is told by the comparison of names."""
        units = len({key.split(".")[1] for key in tensors if key.startswith("body.")})
        return cls("IR-50" if units <= sum(_UNITS["IR-50"]) else "IR-101")

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Warp to ArcFace's template as cp2tform: photo of shape (H, W, 3), crop of shape (112, 112, 3)."""
        return align_face(photo, face.landmarks, fit=inverse_similarity_transform)

    def normalize(self, crops: Tensor) -> Tensor:
        """Convert RGB crops of shape (B, 112, 112, 3) to BGR in [-1, 1], shape (B, 3, 112, 112)."""
        return to_signed(crops).flip(1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features.

        Args:
            x: shape (B, 3, 112, 112), of `normalize`.

        Returns:
            shape (B, 512), of length 1.
        """
        x = self.input_layer(x)  # (B, 64, 112, 112)
        x = self.body(x)  # (B, 512, 7, 7)
        return functional.normalize(self.output_layer(x))  # (B, 512)


class _ImprovedUnit(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)  # (B, W, h / stride, w / stride)
