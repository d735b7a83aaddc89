"""The expression branch: Deep3DFaceRecon's coefficients and its own 224 px alignment (Sec. 3.3).

Dimension letters: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image
from timm import create_model
from torch import Tensor, nn

from ..checkpoint import Checkpoint
from ..image import Photo
from .loading import build_config, load_strictly

CROP_SIZE = 224  # px
EXPRESSION_DIM = 64
_HEADS = {
    "identity": 80,
    "expression": EXPRESSION_DIM,
    "texture": 80,
    "angle": 3,
    "light": 27,
    "shift": 2,
    "depth": 1,
}
_EXPRESSION_HEAD = list(_HEADS).index("expression")  # columns 80:144 of the 257 coefficients
_WIDTHS = {"resnet50": 2048, "mobilenetv3_small_050": 288}  # of the backbones' last feature maps
_FACE_SCALE = 102.0  # px in the crop for one unit of the mean face
# Five points of the mean face (Basel face model): image-left eye, image-right eye, nose tip, image-left and -right mouth corner.
MEAN_FACE = np.array(
    [
        (-0.31148657, 0.29036078, 0.13377953),
        (0.30979887, 0.28972036, 0.13179526),
        (0.0032535, -0.04617932, 0.55244243),
        (-0.25216928, -0.38133916, 0.22405732),
        (0.2484662, -0.38128236, 0.22235769),
    ]
)


@dataclass(frozen=True)
class Crop:
    """Where Deep3DFaceRecon cuts its crop: the photo is resized to (width, height), then cut at (left, top), all px."""

    shift: tuple[float, float]  # t, px, with y upwards
    scale: float  # s, px for one unit of the mean face
    width: int
    height: int
    left: int
    top: int


def expression_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Reduce 68 landmarks to Deep3DFaceRecon's five: eyes from their two corners, then nose tip and mouth corners.

    Args:
        landmarks: shape (5, 2) (returned as it is) or (68, 2) in the iBUG 300-W order, px.

    Returns:
        shape (5, 2), px.
    """
    if len(landmarks) == 5:
        return landmarks
    left_eye, right_eye = (landmarks[36] + landmarks[39]) / 2, (landmarks[42] + landmarks[45]) / 2
    return np.stack([left_eye, right_eye, landmarks[30], landmarks[48], landmarks[54]])


def fit_crop(landmarks: np.ndarray, width: int, height: int) -> Crop:
    """Fit a scaled orthographic camera that takes the mean face to the landmarks, and derive the crop from it.

    Args:
        landmarks: shape (5, 2), px, y downwards.
        width: of the photo, px.
        height: of the photo, px.

    Returns:
        The crop's numbers.

    Raises:
        ValueError: the landmarks coincide, or are not finite.
    """
    points = np.asarray(landmarks, np.float64) * (1, -1) + (0, height - 1)
    model = np.column_stack([MEAN_FACE, np.ones(5)])
    if not np.isfinite(points).all():
        raise ValueError(f"Expected finite landmarks, got {points.tolist()}. Use another photo.")
    camera = np.linalg.lstsq(model, points, rcond=None)[0]  # (4, 2): a column for x and one for y
    shift = float(camera[3, 0]), float(camera[3, 1])
    scale = float(np.linalg.norm(camera[:3], axis=0).mean())
    if scale < 1:
        raise ValueError(
            f"Expected landmarks at different places, got {np.asarray(landmarks).tolist()}. Use another photo."
        )
    zoom = _FACE_SCALE / scale
    new_width, new_height = int(width * zoom), int(height * zoom)
    left = int(new_width / 2 - CROP_SIZE / 2 + (shift[0] - width / 2) * zoom)
    top = int(new_height / 2 - CROP_SIZE / 2 + (height / 2 - shift[1]) * zoom)
    return Crop(shift, scale, new_width, new_height, left, top)


def align_expression(photo: Photo, landmarks: np.ndarray) -> Photo:
    """Cut Deep3DFaceRecon's crop: bicubic, black outside the photo.

    Only the part of the photo under the crop is resampled; the result is that of resizing the whole photo first.

    Args:
        photo: shape (H, W, 3), uint8, RGB.
        landmarks: shape (5, 2), px, as `expression_landmarks` gives them.

    Returns:
        shape (224, 224, 3), uint8, RGB.

    Raises:
        ValueError: the landmarks coincide, are not finite, or lie outside the photo.
    """
    height, width = photo.shape[:2]
    crop = fit_crop(landmarks, width, height)
    x0, x1 = max(crop.left, 0), min(crop.left + CROP_SIZE, crop.width)
    y0, y1 = max(crop.top, 0), min(crop.top + CROP_SIZE, crop.height)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"Expected a face inside the {width}x{height} px photo, got landmarks {np.asarray(landmarks).tolist()}. Use another photo."
        )
    zoom_x, zoom_y = width / crop.width, height / crop.height
    box = (x0 * zoom_x, y0 * zoom_y, min(x1 * zoom_x, width), min(y1 * zoom_y, height))
    part = Image.fromarray(photo).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
    face = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    face[y0 - crop.top : y1 - crop.top, x0 - crop.left : x1 - crop.left] = np.asarray(part)
    return face


@dataclass(frozen=True)
class ExpressionConfig:
    """Kind of the network; the default is Deep3DFaceRecon's."""

    backbone: str = "resnet50"  # timm's name; "mobilenetv3_small_050" is the miniature's

    def __post_init__(self) -> None:
        """Check the name."""
        if self.backbone not in _WIDTHS:
            raise ValueError(
                f"Expected the backbone to be one of {', '.join(_WIDTHS)}, got '{self.backbone}'. Choose another file."
            )


class ExpressionNetwork(nn.Module):
    """f_exp: Deep3DFaceRecon's ResNet-50 with seven 1x1 heads; its tensor names are those of `epoch_20.pth`."""

    def __init__(self, config: ExpressionConfig | None = None) -> None:
        """Build the network with random weights.

        Args:
            config: kind of the network; Deep3DFaceRecon's where left out.
        """
        super().__init__()
        self.config = config or ExpressionConfig()
        self.backbone: Any = create_model(self.config.backbone, num_classes=0, global_pool="")
        if hasattr(self.backbone, "conv_head"):
            self.backbone.conv_head = nn.Identity()  # a classifier's; the heads here look at the feature map
        width = _WIDTHS[self.config.backbone]
        self.final_layers = nn.ModuleList(nn.Conv2d(width, size, 1) for size in _HEADS.values())

    @property
    def expression_head(self) -> nn.Conv2d:
        """The one of the heads that is used."""
        return cast(nn.Conv2d, self.final_layers[_EXPRESSION_HEAD])

    def forward(self, face: Tensor) -> Tensor:
        """Compute v_exp = f_exp(x) (Sec. 3.3): columns 80 to 143 of the coefficients, as they are.

        Args:
            face: shape (B, 3, 224, 224), RGB in [0, 1].

        Returns:
            shape (B, 64).
        """
        x = self.backbone.forward_features(face)  # (B, 2048, 7, 7)
        x = x.mean((2, 3), keepdim=True)  # (B, 2048, 1, 1)
        return self.expression_head(x).flatten(1)  # (B, 64)


def load_expression(checkpoint: Checkpoint) -> ExpressionNetwork:
    """Build the expression network that a weight file holds, in evaluation mode on the CPU.

    Args:
        checkpoint: of kind "expression".

    Returns:
        The network, float32.

    Raises:
        ValueError: the file holds something else, or its tensors do not fit.
    """
    tensors = checkpoint.expect("expression").tensors
    network = ExpressionNetwork(build_config(ExpressionConfig, checkpoint.config or {}, checkpoint.path))
    load_strictly(network, tensors, checkpoint.path)
    return network.eval().requires_grad_(False)
