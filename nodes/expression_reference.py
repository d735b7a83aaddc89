"""Expression Reference: a photo to its expression."""

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io

from ..f2d.options import ALIGNMENTS, LARGEST_FACE, Alignment
from .core_faces import choose_found, found_face_inputs
from .notices import notify
from .schema_parts import ADVANCED, CONDITIONING, alignment_input, search_aliases, strength_input
from .sockets import Encoder, Expression


class ExpressionReference(io.ComfyNode):
    """IMAGE to F2D_EXPRESSION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExpressionReference",
            display_name="Expression Reference",
            category=CONDITIONING,
            description="Copies the expression of the largest face in any photo. "
            "If unconnected, the prompt controls the expression.",
            inputs=[
                Encoder.Input("encoder", tooltip="From Load Face Encoder, with an expression network."),
                io.Image.Input(
                    "image",
                    tooltip="A photo of anyone with the expression. Of a batch, the first image with a face "
                    "is used.",
                ),
                strength_input(
                    1.0,
                    "0: no reference, the prompt controls the expression. 1: the expression of the photo.",
                ),
                alignment_input(optional=True, **ADVANCED),
                *found_face_inputs("If there are several, the largest is used."),
            ],
            outputs=[
                Expression.Output(
                    "expression",
                    display_name="expression",
                    tooltip="Connect to Inject S* or Export Embedding.",
                ),
                io.Image.Output(
                    "face", display_name="face", tooltip="The 224 px face crop that was measured."
                ),
            ],
            **search_aliases("facial expression", "emotion"),
        )

    @classmethod
    def execute(
        cls, encoder, image: torch.Tensor, strength: float, alignment: Alignment = ALIGNMENTS[0], **found
    ) -> io.NodeOutput:
        """Encode the expression in the first image with a face."""
        from ..f2d.face.batch import crop_batch
        from ..f2d.identity import FaceExpression
        from ..f2d.image import check_comfy, from_comfy, to_comfy

        check_comfy(image)

        def crop_expression(number: int):
            throw_exception_if_processing_interrupted()
            photo = from_comfy(image[number : number + 1])[0]
            choice = choose_found(LARGEST_FACE, image, number, **found)
            return encoder.crop_expression(photo, alignment, choice).crop

        batch = crop_batch(range(len(image)), crop_expression, first_only=True)
        if batch.report:
            notify(batch.report)
        v_exp = encoder.embed_expression(batch.used)[0]
        return io.NodeOutput(FaceExpression(v_exp, strength), to_comfy(batch.used))
