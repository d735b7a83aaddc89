"""The custom socket types and what flows through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

if TYPE_CHECKING:
    from ..f2d.encoder import FaceEncoder
    from ..f2d.identity import FaceExpression, FaceIdentity

Encoder = io.Custom("F2D_ENCODER")  # f2d.encoder.FaceEncoder, as nodes.managed_encoder.ManagedFaceEncoder
Identity = io.Custom("F2D_IDENTITY")  # EncodedIdentity
Expression = io.Custom("F2D_EXPRESSION")  # f2d.identity.FaceExpression
Regions = io.Custom("F2D_FACE_REGIONS")  # f2d.face.regions.FaceRegions
PoseKeypoint = io.Custom("POSE_KEYPOINT")  # list of dictionaries, from the pose preprocessors


@dataclass(frozen=True, eq=False)
class EncodedIdentity:
    """A person with the encoder that turns them into words."""

    identity: FaceIdentity
    encoder: FaceEncoder

    def words(self, expression: FaceExpression | None = None) -> torch.Tensor:
        """Compute S*, shape (2, D)."""
        return self.encoder.words(self.identity, expression)
