"""The custom socket types and what flows through them."""

from comfy_api.latest import io

Encoder = io.Custom("F2D_ENCODER")  # f2d.encoder.FaceEncoder, as nodes.managed_encoder.ManagedFaceEncoder
Identity = io.Custom("F2D_IDENTITY")  # f2d.identity.FaceIdentity
Expression = io.Custom("F2D_EXPRESSION")  # f2d.identity.FaceExpression
PoseKeypoint = io.Custom("POSE_KEYPOINT")  # list of dictionaries, from the pose preprocessors
