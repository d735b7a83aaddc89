"""Encode Face Identity: photos of one person to an identity."""

import torch
from comfy_api.latest import io, ui

from ..f2d.options import Alignment, Order
from .core_faces import choose_found, found_face_inputs
from .notices import Progress, notify
from .schema_parts import (
    IDENTITY,
    alignment_input,
    min_score_input,
    numbering_inputs,
    search_aliases,
    supported_fields,
)
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
                *numbering_inputs(
                    "How the faces in a photo are numbered: by size or from left to right. "
                    "The preview shows the numbers.",
                    "Number of the face to encode, starting at 0, as shown in the preview.",
                ),
                min_score_input("Lower it for profiles, drawings and blurred photos."),
                *found_face_inputs("If there are several, face_order and face_index choose one of them."),
            ],
            outputs=[
                Identity.Output("identity", display_name="identity", tooltip="Connect to Inject S*."),
                io.Image.Output(
                    "face",
                    display_name="face",
                    tooltip="The aligned face crops that were encoded, one per photo with a face.",
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="All photos with every face numbered; the encoded one is green. "
                    "A photo without a face is skipped and has no box.",
                ),
            ],
            **search_aliases("face id", "identity", "faceid encode"),
            **supported_fields(has_intermediate_output=True, essentials_category="Image Generation"),
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
        **found,
    ) -> io.NodeOutput:
        """Find the face in each photo and encode their mean; photos without a face are skipped."""
        from ..f2d.face.batch import crop_batch
        from ..f2d.face.detection import draw_faces
        from ..f2d.image import from_comfy, to_comfy
        from ..f2d.options import FaceChoice

        photos = from_comfy(image)
        choice = FaceChoice(face_order, face_index, min_score)
        progress = Progress(len(photos), "Photo")

        def crop_face(number: int):
            progress.advance()
            return encoder.crop_face(photos[number], alignment, choose_found(choice, image, number, **found))

        batch = crop_batch(range(len(photos)), crop_face)
        if batch.report:
            notify(batch.report)
        drawn = [
            photo if face is None else draw_faces(photo, face.faces, face.chosen)
            for photo, face in zip(photos, batch.crops, strict=True)
        ]
        crops, preview = [face.crop for face in batch.used], to_comfy(drawn)
        person = EncodedIdentity(encoder.identify_crops(crops), encoder)
        return io.NodeOutput(person, to_comfy(crops), preview, ui=ui.PreviewImage(preview, cls=cls))
