"""Inject S*: an identity to a CLIP whose prompts can use S*."""

from comfy_api.latest import io

from ..f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, check_placeholder
from .schema_parts import (
    CONDITIONING,
    check_inputs,
    identity_input,
    search_aliases,
    strength_input,
    supported_fields,
)
from .sockets import Expression
from .subject_clip import inject_subject


class InjectSStar(io.ComfyNode):
    """F2D_IDENTITY to CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InjectSStar",
            display_name="Inject S*",
            category=CONDITIONING,
            description="Registers S* in a CLIP: every prompt encoded with the output can use S* for this "
            "person. For several people, chain one node per person.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="CLIP of an SD 1.x checkpoint, or of another Inject S*. "
                    "The input is not modified; the output is a copy.",
                ),
                identity_input(),
                strength_input(2.0, f"0: '{CLASS_WORDS}'. 1: this person. Above 1: exaggerated."),
                io.String.Input(
                    "placeholder",
                    default=PLACEHOLDER,
                    tooltip="The word for the person in prompts: 'S*', or 'S1*' and 'S2*' for two people.",
                ),
                Expression.Input(
                    "expression",
                    optional=True,
                    tooltip="From Expression Reference. If unconnected, the prompt controls the expression.",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    "subject_clip",
                    display_name="CLIP",
                    tooltip="Connect to any prompt node: CLIP Text Encode, S* Conditioning, "
                    "regional prompts.",
                )
            ],
            **search_aliases("face in prompt", "personalization", "subject"),
            **supported_fields(essentials_category="Image Generation"),
        )

    @classmethod
    def validate_inputs(cls, placeholder: str | None = None) -> bool | str:
        """Refuse a placeholder that no prompt can hold."""
        return check_inputs((check_placeholder, placeholder))

    @classmethod
    def execute(cls, clip, identity, strength: float, placeholder: str, expression=None) -> io.NodeOutput:
        """Compute S* and clone the CLIP."""
        words, positional = identity.words(expression), identity.encoder.mapper.config.positional
        return io.NodeOutput(inject_subject(clip, placeholder, words, positional, strength))
