"""Face Landmarks."""

from functools import lru_cache
from typing import TYPE_CHECKING

import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from .sockets import CATEGORY, Encoder, PoseKeypoint, min_score_input, supported_fields

if TYPE_CHECKING:
    from ..f2d.face.detection import FAN


class F2DFaceLandmarks(io.ComfyNode):
    """Keypoints or photo to the picture that the landmark ControlNet takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DFaceLandmarks",
            display_name="Face Landmarks",
            category=CATEGORY,
            description="Draws the condition picture of the face-landmark ControlNet: a white dot on each landmark of every face, on black.",
            inputs=[
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=256,
                    max=2048,
                    step=64,
                    tooltip="Short side of the picture in px; draw with a latent of the picture's size. The ControlNet knows 512 best.",
                ),
                min_score_input(
                    "For photos: how sure YuNet must be, from 0.1 to 1. Keypoints have been chosen by their preprocessor."
                ),
                PoseKeypoint.Input(
                    "pose_keypoint",
                    optional=True,
                    tooltip="From a DWPose, OpenPose or SDPose node with face detection on. Or use image.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A photo with the pose, or a batch of them. Or use pose_keypoint.",
                ),
                Encoder.Input(
                    "encoder",
                    optional=True,
                    tooltip="For image: its detector finds the face. FAN finds 68 landmarks; YuNet finds five, on which a mean face is laid. "
                    "Without an encoder FAN is used (pip install face-alignment).",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "landmarks",
                    display_name="landmarks",
                    tooltip="White dots on black, for Apply ControlNet with the landmark model.",
                )
            ],
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "face pose",
                    "openpose face",
                    "landmark controlnet",
                    "pose transfer",
                ]
            ),
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
        """Find the landmarks and draw them."""
        from ..f2d.face.landmarks import draw_all, find_landmarks, read_pose
        from ..f2d.image import from_comfy, to_comfy

        if (pose_keypoint is None) == (image is None):
            raise ValueError(
                f"Expected pose_keypoint or image, got {'neither' if image is None else 'both'}. Connect one of them."
            )
        if image is None:
            frames = read_pose(pose_keypoint)
        else:
            detector = fan() if encoder is None else encoder.detector
            photos, frames = from_comfy(image), []
            progress = comfy.utils.ProgressBar(len(photos))
            for photo in photos:
                throw_exception_if_processing_interrupted()
                frames.append(find_landmarks(photo, detector, min_score))
                progress.update(1)
        picture = to_comfy(draw_all(frames, resolution))
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


@lru_cache(maxsize=1)
def fan() -> "FAN":
    """Load FAN once; raise an ImportError that says how to get its package."""
    from ..f2d.face.detection import FAN

    return FAN()
