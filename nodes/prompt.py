"""Inject S*, and prompts with S*."""

from comfy_api.latest import io

from ..f2d.prompt.injection import (
    CLASS_WORDS,
    PLACEHOLDER,
    delayed_ranges,
    names_subject,
    replace_placeholders,
)
from .clip import SubjectTokenizer, check_clip, inject_subject, plain_clip
from .sockets import CATEGORY, Expression, Identity, supported_fields


class InjectSStar(io.ComfyNode):
    """Identity to a CLIP that knows S*."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="InjectSStar",
            display_name="Inject S*",
            category=CATEGORY,
            description="Teaches a CLIP the word S*: from here on every prompt with S* means this person. Two people are two of these in a row.",
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP of an SD 1.x checkpoint, or of another Inject S*. It stays as it is; the output is a copy.",
                ),
                Identity.Input("identity", tooltip="Who S* is, from Encode Face Identity."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip=f"From 0 ('{CLASS_WORDS}') to 1 (this person); above 1 exaggerates.",
                ),
                io.String.Input(
                    "placeholder",
                    default=PLACEHOLDER,
                    tooltip="The word that stands for the person in prompts: 'S*', or 'S1*' and 'S2*' for two people.",
                ),
                Expression.Input(
                    "expression",
                    optional=True,
                    tooltip="From Expression Reference. Without it the prompt rules the expression.",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    "subject_clip",
                    display_name="CLIP",
                    tooltip="Understands S* in any prompt node: CLIP Text Encode, regional prompts, ...",
                )
            ],
            **supported_fields(
                search_aliases=["face2diffusion", "f2d", "face in prompt", "personalization", "subject"]
            ),
        )

    @classmethod
    def execute(cls, clip, identity, strength: float, placeholder: str, expression=None) -> io.NodeOutput:
        """Compute S* and clone the CLIP."""
        encoder = identity.encoder
        words = encoder.words(identity, expression)
        return io.NodeOutput(
            inject_subject(clip, placeholder, words, encoder.mapper.config.positional, strength)
        )


class F2DConditioning(io.ComfyNode):
    """Prompts to conditioning, with the face from a chosen moment on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DConditioning",
            display_name="F2D Conditioning",
            category=CATEGORY,
            description="Encodes a prompt with S* and its negative; can hold the face back while the scene forms (delayed subject conditioning).",
            inputs=[
                io.Clip.Input("clip", tooltip="From Inject S*."),
                io.String.Input(
                    "prompt",
                    default=f"A photo of {PLACEHOLDER} as a chef",
                    multiline=True,
                    tooltip="A prompt with S* in it.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    tooltip="What the picture should not show. The authors leave it empty.",
                ),
                io.String.Input(
                    "class_words",
                    default=CLASS_WORDS,
                    tooltip="What stands in place of S* while the face is held back.",
                ),
                io.Float.Input(
                    "subject_from",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Share of the denoising before the face comes in. 0: the face from the start. 0.2: the paper's delayed subject conditioning "
                    "(alpha = 0.8), for scenes that the face would disturb.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="For the KSampler's positive."
                ),
                io.Conditioning.Output(
                    "negative", display_name="negative", tooltip="For the KSampler's negative."
                ),
            ],
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "delayed subject conditioning",
                    "dsc",
                    "clip text encode",
                ]
            ),
        )

    @classmethod
    def execute(
        cls, clip, prompt: str, negative_prompt: str, class_words: str, subject_from: float
    ) -> io.NodeOutput:
        """Encode the prompts, each for its range of the denoising."""
        if not isinstance(check_clip(clip).tokenizer, SubjectTokenizer):
            raise ValueError("This CLIP has no S*. Connect the output of Inject S*.")
        placeholders, plain = clip.tokenizer.placeholders, plain_clip(clip)
        class_prompt = replace_placeholders(prompt, placeholders, class_words)
        negative_clip = clip if names_subject(negative_prompt, placeholders) else plain
        negative = negative_clip.encode_from_tokens_scheduled(negative_clip.tokenize(negative_prompt))
        if not subject_from:
            return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), negative)
        before, after = delayed_ranges(subject_from)
        positive = [
            *_encode(plain, class_prompt, before),
            *_encode(clip, prompt, after),
        ]
        return io.NodeOutput(positive, negative)


def _encode(clip, prompt: str, share: tuple[float, float]) -> list:
    """Encode a prompt for a share of the denoising, from start to end."""
    return clip.encode_from_tokens_scheduled(
        clip.tokenize(prompt), add_dict={"start_percent": share[0], "end_percent": share[1]}
    )
