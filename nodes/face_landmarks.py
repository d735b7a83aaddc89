"""Face Landmarks: a photo or pose keypoints to the input image of the landmark ControlNet."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io, ui

from .notices import Progress
from .schema_parts import IMAGE, min_score_input, search_aliases, supported_fields
from .sockets import Encoder, PoseKeypoint

if TYPE_CHECKING:
    from ..f2d.face.detection import FAN


class F2DFaceLandmarks(io.ComfyNode):
    """POSE_KEYPOINT or IMAGE to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DFaceLandmarks",
            display_name="Face Landmarks",
            category=IMAGE,
            description="Draws the input image of the face-landmark ControlNet: "
            "a white dot on each landmark of every face, on black.",
            inputs=[
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=256,
                    max=2048,
                    step=64,
                    tooltip="Short side of the image in px. Use a latent of the same size. "
                    "The ControlNet works best at 512.",
                ),
                min_score_input("Applies to image, not to pose_keypoint."),
                PoseKeypoint.Input(
                    "pose_keypoint",
                    optional=True,
                    tooltip="From a DWPose, OpenPose or SDPose node with face detection on. "
                    "Alternative to image.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A photo with the pose, or a batch of photos. Alternative to pose_keypoint.",
                ),
                Encoder.Input(
                    "encoder",
                    optional=True,
                    tooltip="Face detector for image. FAN finds 68 landmarks; YuNet finds 5, "
                    "to which a mean face is fitted. If unconnected, FAN is used "
                    "(pip install face-alignment).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "landmarks",
                    display_name="landmarks",
                    tooltip="White dots on black. Connect to Apply ControlNet with the landmark model.",
                )
            ],
            **search_aliases("face pose", "openpose face", "landmark controlnet", "pose transfer"),
            **supported_fields(has_intermediate_output=True),
        )

    @classmethod
    def execute(
        cls,
        resolution: int,
        min_score: float,
        pose_keypoint=None,
        image: torch.Tensor | None = None,
        encoder=None,
    ) -> io.NodeOutput:
        from ..f2d.face.landmarks import draw_all, find_landmarks, read_pose
        from ..f2d.image import from_comfy, to_comfy

        if (pose_keypoint is None) == (image is None):
            raise ValueError(
                f"{'Neither' if image is None else 'Both'} of pose_keypoint and image "
                f"{'is' if image is None else 'are'} connected. Connect exactly one."
            )
        if image is None:
            frames = read_pose(pose_keypoint)
        else:
            detector = fan() if encoder is None else encoder.detector
            photos, frames = from_comfy(image), []
            progress = Progress(len(photos), "Photo")
            for photo in photos:
                progress.advance()
                frames.append(find_landmarks(photo, detector, min_score))
        landmarks = to_comfy(draw_all(frames, resolution))
        return io.NodeOutput(landmarks, ui=ui.PreviewImage(landmarks, cls=cls))


@lru_cache(maxsize=1)
def fan() -> "FAN":
    """Load FAN once; raise an ImportError with the command that installs its package."""
    from ..f2d.face.detection import FAN

    return FAN()
