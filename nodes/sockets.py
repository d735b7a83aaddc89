"""The custom socket types and what flows through them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..f2d.options import ALIGNMENTS

if TYPE_CHECKING:
    from ..f2d.encoder import FaceEncoder
    from ..f2d.identity import FaceExpression, FaceIdentity

Encoder = io.Custom("F2D_ENCODER")  # f2d.encoder.FaceEncoder, as nodes.management.ManagedFaceEncoder
Identity = io.Custom("F2D_IDENTITY")  # EncodedIdentity
Expression = io.Custom("F2D_EXPRESSION")  # f2d.identity.FaceExpression
PoseKeypoint = io.Custom("POSE_KEYPOINT")  # a list of dictionaries, of the pose preprocessors

CATEGORY = "face2diffusion"


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedIdentity:
    """A person with the encoder that turns them into words."""

    identity: FaceIdentity
    encoder: FaceEncoder

    def words(self, expression: FaceExpression | None = None) -> torch.Tensor:
        """Compute S*, shape (2, D)."""
        return self.encoder.words(self.identity, expression)


_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def supported_fields(**fields: Any) -> dict[str, Any]:
    """Keep the fields of `io.Schema` that this version of ComfyUI knows (0.3.64 has no search aliases)."""
    return {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}


def min_score_input(tooltip: str) -> io.Float.Input:
    """Describe the input for how sure YuNet must be of a face."""
    return io.Float.Input("min_score", default=0.6, min=0.1, max=1.0, step=0.05, tooltip=tooltip)


def alignment_input(**options: Any) -> io.Combo.Input:
    """Describe the input for whether a photo is aligned already."""
    tooltip = (
        "'detect' finds the face in any photo. 'FFHQ' takes a square picture cropped the FFHQ way; "
        "'112 px' takes a square crop that is aligned for ArcFace."
    )
    return io.Combo.Input(
        "alignment", options=list(ALIGNMENTS), default=ALIGNMENTS[0], tooltip=tooltip, **options
    )
