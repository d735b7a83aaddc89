"""Expression Reference: a photo to its expression."""

import torch
from comfy_api.latest import io

from ..f2d.options import ALIGNMENTS, LARGEST_FACE, Alignment
from .core_faces import choose_found, found_face_inputs
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
                    tooltip="A photo of anyone with the expression. Only the first image of a batch is used.",
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
        from ..f2d.identity import FaceExpression
        from ..f2d.image import from_comfy, to_comfy

        photo, choice = from_comfy(image[:1])[0], choose_found(LARGEST_FACE, image, 0, **found)
        crop = encoder.crop_expression(photo, alignment, choice).crop
        return io.NodeOutput(FaceExpression(encoder.embed_expression([crop])[0], strength), to_comfy([crop]))
