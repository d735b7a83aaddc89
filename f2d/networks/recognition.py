"""Face-recognition networks that judge likeness: AdaFace (IR-50, IR-101), SphereFace (sphere20a) and FaceNet (InceptionResnetV1).

None of them has a part in making S*, so they can judge it. Each module carries the tensor names of its public weight file, and knows
the crop and the value range that it was trained with.

photo (H, W, 3) uint8 and a face
  -> crop        (h, w, 3) uint8: 112 x 112, 112 x 96 or 160 x 160 px
  -> normalize   (3, h, w) in [-1, 1], RGB or BGR
  -> forward     feature (512); two faces are compared by the cosine

Dimension letters: B batch, W width of a layer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import read
from ..device import pass_size
from ..face.alignment import TEMPLATE_SIZE, align_face
from ..face.detection import Detector, Face, NoFaceError, sort_faces
from ..image import Photo, to_signed
from .loading import load_strictly

_TRAINING_HEADS = (
    "head.",
    "fc6.",
    "logits.",
)  # of AdaFace, SphereFace and FaceNet: classifiers over the training identities
_LIGHTNING_PREFIX = "model."  # of AdaFace's network in its file


class FaceRecognizer(nn.Module):
    """What the three have in common."""

    name: ClassVar[str]  # as in Table 1
    marker: ClassVar[str]  # the tensor by which its file is known
    variant: str  # of the architecture

    @classmethod
    def for_tensors(cls, tensors: Mapping[str, Tensor]) -> FaceRecognizer:
        """Build the variant of the network, with random weights, that these tensors belong to."""
        return cls()

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Cut a face out as the network wants it.

        Args:
            photo: shape (H, W, 3), uint8, RGB.
            face: one that was found in it.

        Returns:
            shape (h, w, 3), uint8, RGB.

        Raises:
            ValueError: the face lies outside the photo.
        """
        raise NotImplementedError

    def normalize(self, crops: Tensor) -> Tensor:
        """Bring crops into the network's value range and order of channels.

        Args:
            crops: shape (B, h, w, 3), uint8, RGB.

        Returns:
            shape (B, 3, h, w), float32.
        """
        raise NotImplementedError

    @torch.no_grad()
    def embed(self, crops: Sequence[Photo]) -> Tensor:
        """Compute the features of cropped faces.

        Args:
            crops: B of shape (h, w, 3), uint8, RGB.

        Returns:
            shape (B, 512), float32, CPU.
        """
        device = next(self.parameters()).device
        batches = torch.from_numpy(np.stack(crops)).split(pass_size(device))
        return torch.cat([self(self.normalize(batch.to(device))).float().cpu() for batch in batches])


def find_faces(detector: Detector, photo: Photo, min_score: float = 0.6) -> list[Face]:
    """Find the faces in a picture that may have none.

    Args:
        detector: what finds them.
        photo: shape (H, W, 3), uint8, RGB.
        min_score: in [0, 1].

    Returns:
        The largest first; empty where there is none. Faces that a detector imagines outside the picture are left out.
    """
    try:
        faces = detector.detect(photo, min_score)
    except NoFaceError:
        return []
    inside = [
        face
        for face in faces
        if ((face.landmarks >= 0) & (face.landmarks < photo.shape[1::-1])).all(axis=1).any()
    ]
    return sort_faces(inside)


def load_recognizer(path: str | os.PathLike, name: str | None = None) -> FaceRecognizer:
    """Load a public weight file, in evaluation mode on the CPU.

    Args:
        path: AdaFace's `.ckpt`, SphereFace's `sphere20a_20171020.pth`, FaceNet's `20180402-114759-vggface2.pt` (or `...-casia-webface.pt`), or
            a .safetensors with the same names.
        name: "AdaFace", "SphereFace" or "FaceNet" where only this one will do.

    Returns:
        The network, float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something else is in it.
    """
    checkpoint = read(path)
    tensors = {
        key.removeprefix(_LIGHTNING_PREFIX): value
        for key, value in checkpoint.tensors.items()
        if not key.startswith(_TRAINING_HEADS)
    }
    found = next((network for network in RECOGNIZERS if network.marker in tensors), None)
    if found is None or name not in (None, found.name):
        wanted = name or "AdaFace, SphereFace or FaceNet"
        what = f"{found.name}'s network" if found else checkpoint.described
        raise ValueError(
            f"Expected weights of {wanted}, got '{checkpoint.path}': this is {what}. Choose another file."
        )
    network = found.for_tensors(tensors)
    load_strictly(network, tensors, checkpoint.path)
    return network.eval().requires_grad_(False)


# --- AdaFace [mk-minchul/AdaFace] ----------------------------------------------------------------------------------------------------

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
        """Warp to ArcFace's template: photo of shape (H, W, 3), crop of shape (112, 112, 3)."""
        return align_face(photo, face.landmarks)

    def normalize(self, crops: Tensor) -> Tensor:
        """Give BGR in [-1, 1], shape (B, 3, 112, 112), of RGB crops of shape (B, 112, 112, 3)."""
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


# --- SphereFace [clcarwin/sphereface_pytorch] ------------------------------------------------------------------------------------------

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
            for number in range(1, 2 + 2 * pairs):  # the first halves the picture
                self.add_module(
                    f"conv{stage}_{number}",
                    nn.Conv2d(inputs, width, 3, stride=2 if number == 1 else 1, padding=1),
                )
                self.add_module(f"relu{stage}_{number}", nn.PReLU(width))
                inputs = width
        self.fc5 = nn.Linear(inputs * 7 * 6, 512)

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Warp to ArcFace's template shifted by 8 px: photo of shape (H, W, 3), crop of shape (112, 96, 3)."""
        return align_face(photo, face.landmarks)[:, 8:-8]

    def normalize(self, crops: Tensor) -> Tensor:
        """Give BGR, (value - 127.5) / 128, shape (B, 3, 112, 96), of RGB crops of shape (B, 112, 96, 3)."""
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


# --- FaceNet [timesler/facenet-pytorch] ------------------------------------------------------------------------------------------------

_FACENET_SIZE = 160  # px


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
            _ConvNormReLU(256, 384, 3, stride=2),
            nn.Sequential(
                _ConvNormReLU(256, 192, 1),
                _ConvNormReLU(192, 192, 3, padding=1),
                _ConvNormReLU(192, 256, 3, stride=2),
            ),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Branches(
            nn.Sequential(_ConvNormReLU(896, 256, 1), _ConvNormReLU(256, 384, 3, stride=2)),
            nn.Sequential(_ConvNormReLU(896, 256, 1), _ConvNormReLU(256, 256, 3, stride=2)),
            nn.Sequential(
                _ConvNormReLU(896, 256, 1),
                _ConvNormReLU(256, 256, 3, padding=1),
                _ConvNormReLU(256, 256, 3, stride=2),
            ),
            nn.MaxPool2d(3, 2),
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, relu=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=1e-3)

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Resize the detector's box, without rotation: photo of shape (H, W, 3), crop of shape (160, 160, 3)."""
        height, width = photo.shape[:2]
        left, top = (max(int(value), 0) for value in face.box[:2])
        right, bottom = (
            min(int(face.box[0] + face.box[2]), width),
            min(int(face.box[1] + face.box[3]), height),
        )
        if left >= right or top >= bottom:
            raise ValueError(
                f"Expected a face inside the {width}x{height} px photo, got the box {face.box.tolist()}. Use another photo."
            )
        size = _FACENET_SIZE, _FACENET_SIZE
        return np.array(
            Image.fromarray(photo[top:bottom, left:right]).resize(size, Image.Resampling.BILINEAR)
        )

    def normalize(self, crops: Tensor) -> Tensor:
        """Give RGB, (value - 127.5) / 128, shape (B, 3, 160, 160), of crops of shape (B, 160, 160, 3)."""
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


class _Branches(nn.Module):
    """Branches side by side, named as in the file, with their channels one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [branch(x) for name, branch in self.named_children() if name.startswith("branch")], dim=1
        )


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
    return _ResidualBranches(
        _ConvNormReLU(256, 32, 1),
        nn.Sequential(_ConvNormReLU(256, 32, 1), _ConvNormReLU(32, 32, 3, padding=1)),
        nn.Sequential(
            _ConvNormReLU(256, 32, 1),
            _ConvNormReLU(32, 32, 3, padding=1),
            _ConvNormReLU(32, 32, 3, padding=1),
        ),
        joined=96,
        width=256,
        scale=0.17,
    )


def _block17() -> nn.Module:
    return _ResidualBranches(
        _ConvNormReLU(896, 128, 1),
        nn.Sequential(
            _ConvNormReLU(896, 128, 1),
            _ConvNormReLU(128, 128, (1, 7), padding=(0, 3)),
            _ConvNormReLU(128, 128, (7, 1), padding=(3, 0)),
        ),
        joined=256,
        width=896,
        scale=0.1,
    )


def _block8(scale: float, relu: bool = True) -> nn.Module:
    return _ResidualBranches(
        _ConvNormReLU(1792, 192, 1),
        nn.Sequential(
            _ConvNormReLU(1792, 192, 1),
            _ConvNormReLU(192, 192, (1, 3), padding=(0, 1)),
            _ConvNormReLU(192, 192, (3, 1), padding=(1, 0)),
        ),
        joined=384,
        width=1792,
        scale=scale,
        relu=relu,
    )


RECOGNIZERS: tuple[type[FaceRecognizer], ...] = (AdaFace, SphereFace, FaceNet)
