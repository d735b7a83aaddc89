"""Encode Face Identity: photos of one person to an identity."""

import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..f2d.options import ORDERS, Alignment, Order
from .schema_parts import IDENTITY, alignment_input, min_score_input, search_aliases
from .sockets import EncodedIdentity, Encoder, Identity


class EncodeFaceIdentity(io.ComfyNode):
    """IMAGE to F2D_IDENTITY."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncodeFaceIdentity",
            display_name="Encode Face Identity",
            category=IDENTITY,
            description="Finds the face in a photo and encodes the person's identity. "
            "A batch of photos of one person is averaged into one identity.",
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
                    tooltip="How the faces in a photo are numbered: by size or from left to right. "
                    "The preview shows the numbers.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=99,
                    step=1,
                    tooltip="Number of the face to encode, starting at 0, as shown in the preview.",
                ),
                min_score_input("Lower it for profiles, drawings and blurred photos."),
            ],
            outputs=[
                Identity.Output("identity", display_name="identity", tooltip="Connect to Inject S*."),
                io.Image.Output(
                    "face",
                    display_name="face",
                    tooltip="The aligned face crops that were encoded, one per photo.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The photos with every face numbered; the encoded one is green.",
                ),
            ],
            **search_aliases("face id", "identity", "faceid encode"),
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
