"""Face parsing: which pixels belong to the identity region M (Sec. 3.4).

Two kinds of weights are read: a folder of transformers' SegFormer (jonathandinu/face-parsing and its like),
and BiSeNet's `79999_iter.pth` [zllrunning/face-parsing.PyTorch], which facexlib distributes as
`parsing_bisenet.pth`.

Dimension letters: B batch, K classes, H and W sides of the photo.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import resnet18
from torch import Tensor, nn
from torch.nn import functional

from ...f2d.checkpoint import read
from ...f2d.networks.loading import load_strictly

# CelebAMask-HQ's names, in the order of its own label maps and in that of BiSeNet's.
CELEBAMASK_LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
BISENET_LABELS = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
INPUT_SIZE = 512  # px; both networks were trained at it
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class FaceParser(nn.Module):
    """A segmentation network with names for its labels."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, labels: Sequence[str], size: int = INPUT_SIZE) -> None:
        """Wrap a network.

        Args:
            network: takes (B, 3, size, size), normalized as for ImageNet; gives logits (B, K, h, w), or an
                object that has them.
            labels: K names.
            size: side of the network's input in px.
        """
        super().__init__()
        self.network, self.labels, self.size = network, tuple(labels), size
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """Label each pixel.

        Args:
            photos: shape (B, 3, H, W), RGB in [0, 1].

        Returns:
            shape (B, H, W), int64, numbers of `labels`.
        """
        x = photos  # (B, 3, H, W)
        if x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(
                x, (self.size, self.size), mode="bilinear", antialias=True
            )  # (B, 3, size, size)
        logits = self.network((x - self.mean) / self.std)  # (B, K, h, w)
        logits = getattr(logits, "logits", logits)
        if logits.shape[2:] != photos.shape[2:]:
            logits = functional.interpolate(logits, photos.shape[2:], mode="bilinear")  # (B, K, H, W)
        return logits.argmax(1)  # (B, H, W)

    @torch.no_grad()
    def identity_mask(self, photos: Tensor, classes: Sequence[str]) -> Tensor:
        """Find the identity region M.

        Args:
            photos: shape (B, 3, H, W), RGB in [0, 1].
            classes: names of what belongs to M.

        Returns:
            shape (B, H, W), bool.

        Raises:
            ValueError: no class, or an unknown one.
        """
        chosen = self.class_table(classes).to(photos.device)
        return chosen[self(photos)]

    def class_table(self, classes: Sequence[str]) -> Tensor:
        """Mark the chosen labels: shape (K,), bool; a ValueError lists the valid names for an unknown one."""
        check_classes(classes)
        return torch.tensor([label in classes for label in self.labels])


def check_classes(classes: Sequence[str]) -> None:
    """Raise a ValueError unless there is at least one class and all are CelebAMask-HQ's."""
    unknown = [name for name in classes if name not in CELEBAMASK_LABELS]
    if unknown or not classes:
        problem = f"--classes has unknown names ({', '.join(unknown)})" if unknown else "--classes is empty"
        raise ValueError(f"{problem}. Choose from {', '.join(CELEBAMASK_LABELS)}.")


def load_parser(path: str | os.PathLike, size: int = INPUT_SIZE) -> FaceParser:
    """Load a face parser, in evaluation mode on the CPU.

    Args:
        path: a SegFormer folder, or BiSeNet's .pth.
        size: side of the network's input in px.

    Returns:
        The parser, float32.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: something else is in it, or its labels are in an unknown order.
    """
    if not os.path.isdir(path):
        checkpoint = read(path)
        network = BiSeNet()
        load_strictly(network, checkpoint.tensors, checkpoint.path)
        return FaceParser(network, BISENET_LABELS, size).eval().requires_grad_(False)
    _check_segformer(Path(path))
    from transformers import SegformerForSemanticSegmentation

    try:
        segformer: Any = SegformerForSemanticSegmentation.from_pretrained(path, local_files_only=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"The SegFormer weights in '{path}' cannot be read ({error}). Download the folder again."
        ) from error
    return FaceParser(segformer.float(), CELEBAMASK_LABELS, size).eval().requires_grad_(False)


def _check_segformer(folder: Path) -> None:
    """Refuse other models and wrong label orders, which early copies of jonathandinu/face-parsing have."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"'{folder}' is no SegFormer folder: it has no config.json. Name the folder that has it."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        names = config.get("id2label") or {}
        labels = tuple(names[str(number)] for number in range(len(names)))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"'{file}' is not a model's config ({error}). Download it again.") from error
    if config.get("model_type") != "segformer":
        raise ValueError(
            f"The model in '{folder}' is '{config.get('model_type')}', not SegFormer. "
            "Use face parsing with SegFormer or BiSeNet."
        )
    if labels != CELEBAMASK_LABELS:
        raise ValueError(
            f"The labels in '{file}' are {', '.join(map(str, labels)) or 'missing'}; they must be "
            f"{', '.join(CELEBAMASK_LABELS)}, in this order. Early copies of jonathandinu/face-parsing name "
            "their classes wrongly: download the present one."
        )


# --- BiSeNet, under the names of its weight file ---


class BiSeNet(nn.Module):
    """BiSeNet on a ResNet-18, without a spatial path of its own: the trunk's features at 1/8 take its place.

    The two outer heads served training only; they are in the file, and not computed.
    """

    def __init__(self, classes: int = len(BISENET_LABELS)) -> None:
        """Build the network with random weights.

        Args:
            classes: K.
        """
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion(256)
        self.conv_out = _Head(256, 256, classes)
        self.conv_out16 = _Head(128, 64, classes)
        self.conv_out32 = _Head(128, 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Args:
            x: shape (B, 3, H, W), sides divisible by 32.

        Returns:
            shape (B, K, H, W).
        """
        trunk, context = self.cp(x)  # (B, 128, H/8, W/8) each
        fused = self.ffm(torch.cat([trunk, context], dim=1))  # (B, 256, H/8, W/8)
        logits = self.conv_out(fused)  # (B, K, H/8, W/8)
        return functional.interpolate(
            logits, x.shape[2:], mode="bilinear", align_corners=True
        )  # (B, K, H, W)


class _ConvNormReLU(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _Head(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvNormReLU(inputs, width)
        self.conv_out = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class _AttentionRefinement(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _ConvNormReLU(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)  # (B, C, h, w)
        attention = self.bn_atten(self.conv_atten(_global_mean(x))).sigmoid()  # (B, C, 1, 1)
        return x * attention


class _FeatureFusion(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convblk = _ConvNormReLU(width, width, kernel=1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convblk(x)  # (B, C, h, w)
        attention = self.conv2(functional.relu(self.conv1(_global_mean(x)))).sigmoid()  # (B, C, 1, 1)
        return x * attention + x


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet18(num_classes=0, global_pool="")
        self.arm16 = _AttentionRefinement(256, 128)
        self.arm32 = _AttentionRefinement(512, 128)
        self.conv_head32 = _ConvNormReLU(128, 128)
        self.conv_head16 = _ConvNormReLU(128, 128)
        self.conv_avg = _ConvNormReLU(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.resnet
        x = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))  # (B, 64, H/4, W/4)
        x8 = net.layer2(x)  # (B, 128, H/8, W/8)
        x16 = net.layer3(x8)  # (B, 256, H/16, W/16)
        x32 = net.layer4(x16)  # (B, 512, H/32, W/32)
        context = self.arm32(x32) + self.conv_avg(_global_mean(x32))  # (B, 128, H/32, W/32)
        context = self.conv_head32(functional.interpolate(context, x16.shape[2:]))  # (B, 128, H/16, W/16)
        context = self.arm16(x16) + context
        return x8, self.conv_head16(functional.interpolate(context, x8.shape[2:]))  # (B, 128, H/8, W/8)


def _global_mean(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)
