"""S* Conditioning and Batch Conditioning: prompts with S* to CONDITIONING."""

from typing import Any

import torch
from comfy_api.latest import io

from ..f2d.prompt.injection import (
    CLASS_WORDS,
    PLACEHOLDER,
    delayed_ranges,
    names_subject,
    replace_placeholders,
)
from .schema_parts import ADVANCED, CONDITIONING, search_aliases
from .subject_clip import SubjectTokenizer, check_clip, plain_clip


class F2DConditioning(io.ComfyNode):
    """Prompts to CONDITIONING, with S* from a chosen moment of the denoising on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DConditioning",
            display_name="S* Conditioning",
            category=CONDITIONING,
            description="Encodes a prompt with S* and a negative prompt. "
            "Can delay S* until the scene has formed (delayed subject conditioning).",
            inputs=[
                io.Clip.Input("clip", tooltip="From Inject S*."),
                io.String.Input(
                    "prompt",
                    default=f"A photo of {PLACEHOLDER} as a chef",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="A prompt that contains S*.",
                ),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image should not show. The authors leave it empty.",
                ),
                io.String.Input(
                    "class_words",
                    default=CLASS_WORDS,
                    tooltip="Replaces S* in the prompt while S* is delayed.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "subject_from",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Fraction of the denoising before S* is used. 0: S* from the start. "
                    "0.2: delayed subject conditioning as in the paper (alpha = 0.8), "
                    "for scenes that the face would distort.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="Connect to the KSampler's positive input."
                ),
                io.Conditioning.Output(
                    "negative", display_name="negative", tooltip="Connect to the KSampler's negative input."
                ),
            ],
            **search_aliases("delayed subject conditioning", "dsc", "clip text encode"),
        )

    @classmethod
    def execute(
        cls, clip, prompt: str, negative_prompt: str, class_words: str, subject_from: float
    ) -> io.NodeOutput:
        if not isinstance(check_clip(clip).tokenizer, SubjectTokenizer):
            raise ValueError("This CLIP has no S*. Connect the output of Inject S*.")
        placeholders, plain = clip.tokenizer.placeholders, plain_clip(clip)
        class_prompt = replace_placeholders(prompt, placeholders, class_words)
        negative_clip = clip if names_subject(negative_prompt, placeholders) else plain
        negative = negative_clip.encode_from_tokens_scheduled(negative_clip.tokenize(negative_prompt))
        if not subject_from:
            return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), negative)
        before, after = delayed_ranges(subject_from)
        positive = [*_encode(plain, class_prompt, before), *_encode(clip, prompt, after)]
        return io.NodeOutput(positive, negative)


def _encode(clip, prompt: str, share: tuple[float, float]) -> list:
    """Encode a prompt for a share of the denoising, from start to end."""
    times = {"start_percent": share[0], "end_percent": share[1]}
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt), add_dict=times)


class F2DBatchConditioning(io.ComfyNode):
    """A list of CONDITIONING to one for a batch of different people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DBatchConditioning",
            display_name="Batch Conditioning",
            category=CONDITIONING,
            description="Combines a list of conditionings, one per person, into one conditioning for a batch "
            "with one person per image.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="One conditioning per person, all from the same prompt after List Identities.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "batched",
                    display_name="conditioning",
                    tooltip="Connect to one KSampler: image i shows person i.",
                ),
                io.Int.Output(
                    "batch_size",
                    display_name="batch size",
                    tooltip="Number of people. Connect to batch_size of Empty Latent Image.",
                ),
            ],
            is_input_list=True,
            **search_aliases("conditioning batch", "list to batch", "one person per image"),
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]]) -> io.NodeOutput:
        if len({len(entries) for entries in conditioning}) > 1:
            raise ValueError(
                "Some conditionings have several parts and others do not. Encode one prompt for all people."
            )
        batched = [stack(entries) for entries in zip(*conditioning, strict=True)]
        return io.NodeOutput(batched, sum(len(entries[0][0]) for entries in conditioning))


def stack(entries: tuple[Any, ...]) -> list[Any]:
    """Combine entries of several people, (tensor of shape (B, N, D), options), into one entry."""
    shapes = sorted({tuple(cond.shape[1:]) for cond, _ in entries})
    if len(shapes) > 1:
        lengths = " and ".join(str(length) for length, *_ in shapes)
        raise ValueError(f"The prompts differ in length: {lengths} tokens. Use one prompt for all people.")
    options = dict(entries[0][1])
    for key in {key for _, other in entries for key in other}:
        values = [other.get(key) for _, other in entries]
        if key == "pooled_output" and all(torch.is_tensor(value) for value in values):
            options[key] = torch.cat(values)
        elif not all(_same(values[0], value) for value in values):
            raise ValueError(
                f"The conditionings differ in '{key}', not only in the person. "
                "Put this node directly after the prompt."
            )
    return [torch.cat([cond for cond, _ in entries]), options]


def _same(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)
    return one is other or (not torch.is_tensor(one) and not torch.is_tensor(other) and bool(one == other))
