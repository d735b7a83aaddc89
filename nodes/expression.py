"""Expression Reference."""

import torch
from comfy_api.latest import io

from ..f2d.options import ALIGNMENTS, Alignment
from .sockets import CATEGORY, Encoder, Expression, alignment_input, supported_fields


class ExpressionReference(io.ComfyNode):
    """Photo to expression."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ExpressionReference",
            display_name="Expression Reference",
            category=CATEGORY,
            description="Takes the expression of the largest face in a photo, of whomever, to put it on S*. Without it the prompt rules.",
            inputs=[
                Encoder.Input("encoder", tooltip="From Load Face Encoder, with an expression network."),
                io.Image.Input(
                    "image", tooltip="A photo with the expression; of a batch, the first picture counts."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="From 0 (no reference: the prompt rules the expression) to 1 (the expression of the photo).",
                ),
                alignment_input(optional=True),
            ],
            outputs=[
                Expression.Output(
                    "expression", display_name="expression", tooltip="The expression, for Inject S*."
                ),
                io.Image.Output(
                    "face", display_name="face", tooltip="The 224 px face crop that was measured."
                ),
            ],
            **supported_fields(search_aliases=["face2diffusion", "f2d", "facial expression", "emotion"]),
        )

    @classmethod
    def execute(
        cls, encoder, image: torch.Tensor, strength: float, alignment: Alignment = ALIGNMENTS[0]
    ) -> io.NodeOutput:
        """Measure the expression."""
        from ..f2d.identity import FaceExpression
        from ..f2d.image import from_comfy, to_comfy

        crop = encoder.crop_expression(from_comfy(image[:1])[0], alignment).crop
        return io.NodeOutput(FaceExpression(encoder.embed_expression([crop])[0], strength), to_comfy([crop]))
