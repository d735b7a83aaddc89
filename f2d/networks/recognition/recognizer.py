"""What the face-recognition networks have in common.

Each module carries the tensor names of its public weight file, and knows the crop and the value range that it
was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...device import pass_size
from ...face.detection import Face
from ...image import Photo


class FaceRecognizer(nn.Module):
    """A network that turns a face into a feature vector."""

    name: ClassVar[str]  # as in Table 1
    marker: ClassVar[str]  # the tensor by which its file is known
    variant: str  # of the architecture

    @classmethod
    def for_tensors(cls, tensors: Mapping[str, Tensor]) -> FaceRecognizer:
        """Build the variant of the network, with random weights, that these tensors belong to."""
        return cls()

    def crop(self, photo: Photo, face: Face) -> Photo:
        """Crop a face as the network expects it.

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
        """Convert crops to the network's value range and channel order.

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
