"""The miniature's evaluators: who is in an image, and which scene attributes it shows.

They are trained apart from the encoder under test (`training.miniature.models.train_evaluators`): on other
people, with another architecture and loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from ..image import Photo, to_signed
from .prompts import KINDS, SceneAttributes

FEATURES = 128
PAIR_CENTERS = (0.39, 1.11)  # of the heads in an image of two people, in image heights


def divide(image: Photo) -> list[Photo]:
    """Split an image of two people into one of each, with the head in the middle.

    Args:
        image: shape (128, 192, 3), uint8; it is continued beyond its sides by its border.

    Returns:
        The left and the right person, each of shape (128, 128, 3).
    """
    size = image.shape[0]
    wide = np.pad(image, ((0, 0), (size // 2, size // 2), (0, 0)), mode="edge")
    return [wide[:, round(center * size) : round(center * size) + size] for center in PAIR_CENTERS]


class Evaluator(nn.Module):
    """A small ResNet over images of 128 px."""

    def __init__(self, outputs: int) -> None:
        """Build with random weights.

        Args:
            outputs: how many numbers it gives.
        """
        super().__init__()
        build: Any = ResNet  # timm's annotations do not fit its own calls
        network = build(
            BasicBlock, [1, 1, 1, 1], outputs, stem_type="deep", stem_width=16, channels=(32, 64, 128, 192)
        )
        network.maxpool = nn.Identity()  # a face's details are few pixels wide
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images, shape (B, 3, 128, 128), in [-1, 1], on any device, to shape (B, N) on the network's."""
        return self.network(images.to(next(self.parameters()).device, memory_format=torch.channels_last))


class Verifier(Evaluator):
    """Tells people apart."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__(FEATURES)

    @torch.no_grad()
    def embed(self, images: Sequence[Photo]) -> Tensor:
        """Embed the people in B images of shape (128, 128, 3), uint8: shape (B, 128), of length 1."""
        return functional.normalize(self(to_signed(images)).float(), dim=1)


class Attributes(Evaluator):
    """Recognizes jobs, places and expressions."""

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__(sum(len(names) for names in KINDS.values()))

    def split(self, outputs: Tensor) -> dict[str, Tensor]:
        """Split outputs of shape (B, N) into the logits of each kind of attribute."""
        return dict(zip(KINDS, outputs.split([len(names) for names in KINDS.values()], dim=1), strict=True))

    @torch.no_grad()
    def recognize(self, images: Sequence[Photo]) -> list[SceneAttributes]:
        """Recognize the attributes of B images of shape (128, 128, 3), uint8."""
        found = {
            kind: logits.argmax(1).tolist() for kind, logits in self.split(self(to_signed(images))).items()
        }
        return [
            SceneAttributes(**{kind: KINDS[kind][found[kind][row]] for kind in KINDS})
            for row in range(len(images))
        ]
