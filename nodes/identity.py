"""Encode Face Identity."""

import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..f2d.options import ORDERS, Alignment, Order
from .sockets import (
    CATEGORY,
    EncodedIdentity,
    Encoder,
    Identity,
    alignment_input,
    min_score_input,
    supported_fields,
)


class EncodeFaceIdentity(io.ComfyNode):
    """Photo to identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EncodeFaceIdentity",
            display_name="Encode Face Identity",
            category=CATEGORY,
            description="Finds the face in a photo and encodes who it is. Several photos of one person, as a batch, are averaged.",
            inputs=[
                Encoder.Input("encoder", tooltip="From Load Face Encoder."),
                io.Image.Input(
                    "image", tooltip="A photo of the person, or a batch of photos of the same person."
                ),
                alignment_input(),
                io.Combo.Input(
                    "face_order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="How the faces in a photo are counted: by size, or from left to right. The preview shows the numbers.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=99,
                    step=1,
                    tooltip="Which face to take, counted from 0 as in the preview.",
                ),
                min_score_input(
                    "How sure YuNet must be, from 0.1 to 1. Lower it for profiles, drawings and blurred photos."
                ),
            ],
            outputs=[
                Identity.Output("identity", display_name="identity", tooltip="Who it is, for Inject S*."),
                io.Image.Output(
                    "face",
                    display_name="face",
                    tooltip="The upright face crop that was encoded, one a photo.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The photos with all faces numbered; the chosen one is green.",
                ),
            ],
            **supported_fields(
                search_aliases=["face2diffusion", "f2d", "face id", "identity", "faceid encode"]
            ),
        )

    @classmethod
    def execute(
        cls,
        encoder,
        image: torch.Tensor,
        alignment: Alignment,
        face_order: Order,
        face_index: int,
        min_score: float,
    ) -> io.NodeOutput:
        """Find the face in each photo and encode their mean."""
        from ..f2d.face.detection import draw_faces
        from ..f2d.image import from_comfy, to_comfy
        from ..f2d.options import FaceChoice

        photos, found = from_comfy(image), []
        choice = FaceChoice(face_order, face_index, min_score)
        progress = comfy.utils.ProgressBar(len(photos))
        for number, photo in enumerate(photos, start=1):
            throw_exception_if_processing_interrupted()
            try:
                found.append(encoder.crop_face(photo, alignment, choice))
            except ValueError as error:
                raise ValueError(f"Photo {number} of {len(photos)}: {error}") from error
            progress.update(1)
        drawn = [
            draw_faces(photo, face.faces, face.chosen) for photo, face in zip(photos, found, strict=True)
        ]
        crops, preview = [face.crop for face in found], to_comfy(drawn)
        person = EncodedIdentity(encoder.identify_crops(crops), encoder)
        return io.NodeOutput(person, to_comfy(crops), preview, ui=ui.PreviewImage(preview, cls=cls))
