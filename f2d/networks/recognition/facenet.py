"""FaceNet [timesler/facenet-pytorch]: InceptionResnetV1 on the detector's box.

Dimension letters: B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ...face.detection import Face
from ...image import Photo, to_signed
from .recognizer import FaceRecognizer

_SIZE = 160  # px


class FaceNet(FaceRecognizer):
    """InceptionResnetV1 on the detector's box, RGB."""

    name = "FaceNet"
    marker = "conv2d_1a.conv.weight"
    variant = "InceptionResnetV1"

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.conv2d_1a = _ConvNormReLU(3, 32, 3, stride=2)
        self.conv2d_2a = _ConvNormReLU(32, 32, 3)
        self.conv2d_2b = _ConvNormReLU(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = _ConvNormReLU(64, 80, 1)
        self.conv2d_4a = _ConvNormReLU(80, 192, 3)
        self.conv2d_4b = _ConvNormReLU(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _Branches(
            _chain(256, (384, 3, 2)),
            _chain(256, (192, 1), (192, 3), (256, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Branches(
            _chain(896, (256, 1), (384, 3, 2)),
            _chain(896, (256, 1), (256, 3, 2)),
            _chain(896, (256, 1), (256, 3), (256, 3, 2)),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, relu=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Resize the detector's box, not rotated: photo of shape (H, W, 3), crop of shape (160, 160, 3)."""
        if face.landmarks68 is not None:
            raise ValueError(
                "FaceNet needs the detector's box, but FAN returns landmarks only. "
                "Detect the face with YuNet."
            )
        height, width = photo.shape[:2]
        left, top = (max(int(value), 0) for value in face.box[:2])
        right, bottom = (
            min(int(end), side)
            for end, side in zip(face.box[:2] + face.box[2:], (width, height), strict=True)
        )
        if left >= right or top >= bottom:
            raise ValueError(
                f"The face lies outside the {width}x{height} px photo: its box is {face.box.tolist()}. "
                "Use another photo."
            )
        size = _SIZE, _SIZE
        return np.array(
            Image.fromarray(photo[top:bottom, left:right]).resize(size, Image.Resampling.BILINEAR)
        )

    def normalize(self, crops: Tensor) -> Tensor:
        """Convert RGB crops of shape (B, 160, 160, 3) to (value - 127.5) / 128, shape (B, 3, 160, 160)."""
        return to_signed(crops) * (127.5 / 128)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features.

        Args:
            x: shape (B, 3, 160, 160), of `normalize`.

        Returns:
            shape (B, 512), of length 1.
        """
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))  # (B, 64, 77, 77)
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))  # (B, 192, 36, 36)
        x = self.repeat_1(self.conv2d_4b(x))  # (B, 256, 17, 17)
        x = self.repeat_2(self.mixed_6a(x))  # (B, 896, 8, 8)
        x = self.block8(self.repeat_3(self.mixed_7a(x)))  # (B, 1792, 3, 3)
        return functional.normalize(self.last_bn(self.last_linear(x.mean((2, 3)))))  # (B, 512)


class _ConvNormReLU(nn.Module):
    def __init__(
        self,
        inputs: int,
        width: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _chain(inputs: int, *layers: tuple[int, int | tuple[int, int]] | tuple[int, int, int]) -> nn.Module:
    """Build convolutions in a row: (width, kernel), padded to keep the size, or (width, kernel, stride)."""
    units = []
    for width, kernel, *stride in layers:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if stride else (sides[0] // 2, sides[1] // 2)
        units.append(_ConvNormReLU(inputs, width, kernel, stride[0] if stride else 1, padding))
        inputs = width
    return units[0] if len(units) == 1 else nn.Sequential(*units)


class _Branches(nn.Module):
    """Branches side by side, named as in the file, with their channels one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch for name, branch in self.named_children() if name.startswith("branch")]
        return torch.cat([branch(x) for branch in branches], dim=1)


class _ResidualBranches(_Branches):
    def __init__(
        self, *branches: nn.Module, joined: int, width: int, scale: float, relu: bool = True
    ) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, width, 1)
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.conv2d(super().forward(x))
        return functional.relu(x) if self.relu else x


def _block35() -> nn.Module:
    branches = _chain(256, (32, 1)), _chain(256, (32, 1), (32, 3)), _chain(256, (32, 1), (32, 3), (32, 3))
    return _ResidualBranches(*branches, joined=96, width=256, scale=0.17)


def _block17() -> nn.Module:
    branches = _chain(896, (128, 1)), _chain(896, (128, 1), (128, (1, 7)), (128, (7, 1)))
    return _ResidualBranches(*branches, joined=256, width=896, scale=0.1)


def _block8(scale: float, relu: bool = True) -> nn.Module:
    branches = _chain(1792, (192, 1)), _chain(1792, (192, 1), (192, (1, 3)), (192, (3, 1)))
    return _ResidualBranches(*branches, joined=384, width=1792, scale=scale, relu=relu)
