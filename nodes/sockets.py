"""The custom socket types and what flows through them."""

import dataclasses
from typing import Any

from comfy_api.latest import io

Encoder = io.Custom("F2D_ENCODER")  # f2d.encoder.FaceEncoder, as nodes.management.ManagedFaceEncoder
Identity = io.Custom("F2D_IDENTITY")  # f2d.identity.FaceIdentity
Expression = io.Custom("F2D_EXPRESSION")  # f2d.identity.FaceExpression
PoseKeypoint = io.Custom("POSE_KEYPOINT")  # a list of dictionaries, of the pose preprocessors

CATEGORY = "face2diffusion"

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def where_known(**fields: Any) -> dict[str, Any]:
    """Keep the fields of `io.Schema` that this version of ComfyUI knows (0.3.64 has no search aliases)."""
    return {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}
