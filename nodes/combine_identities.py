"""A list of people, and one batch in which each picture has its own."""

from typing import Any

import torch
from comfy_api.latest import io

from .save_load_identity import SLOTS
from .sockets import CATEGORY, Identity, supported_fields


class F2DListIdentities(io.ComfyNode):
    """Several identities to a list, for whose items ComfyUI runs all that follows in turn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        sockets = [
            Identity.Input(f"identity_{number}", optional=number > 1, tooltip="A person, or a list of them.")
            for number in range(1, SLOTS + 1)
        ]
        return io.Schema(
            node_id="F2DListIdentities",
            display_name="List Identities",
            category=CATEGORY,
            description="Puts several people into a list: what follows runs once for each. More than six are lists of lists.",
            inputs=sockets,
            outputs=[
                Identity.Output(
                    "identities",
                    display_name="identities",
                    tooltip="One person after the other, for Inject S*.",
                    is_output_list=True,
                )
            ],
            is_input_list=True,
            **supported_fields(
                search_aliases=["face2diffusion", "f2d", "several faces", "batch of people", "identity list"]
            ),
        )

    @classmethod
    def execute(cls, **people: list[Any]) -> io.NodeOutput:
        """Put the people in the order of the sockets."""
        found = [
            person
            for number in range(1, SLOTS + 1)
            for person in people.get(f"identity_{number}") or []
            if person is not None
        ]
        return io.NodeOutput(found)


class F2DBatchConditioning(io.ComfyNode):
    """A list of conditionings to one whose pictures differ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DBatchConditioning",
            display_name="Batch Conditioning",
            category=CATEGORY,
            description="Makes a list of conditionings, one a person, into one conditioning for a batch of pictures, each with its own.",
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="Of the same kind of prompt for each person of a List Identities."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "batched",
                    display_name="conditioning",
                    tooltip="For one KSampler: picture i has the i-th person.",
                ),
                io.Int.Output(
                    "batch_size",
                    display_name="batch size",
                    tooltip="The number of people, for Empty Latent Image.",
                ),
            ],
            is_input_list=True,
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "conditioning batch",
                    "list to batch",
                    "one person per image",
                ]
            ),
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]]) -> io.NodeOutput:
        """Stack the conditionings, entry by entry."""
        if len({len(entries) for entries in conditioning}) > 1:
            raise ValueError(
                "Expected conditionings of one kind, got some of several parts. Encode one prompt for all people."
            )
        batched = [stack(entries) for entries in zip(*conditioning, strict=True)]
        return io.NodeOutput(batched, sum(len(entries[0][0]) for entries in conditioning))


def stack(entries: tuple[Any, ...]) -> list[Any]:
    """Make one entry of ComfyUI's conditioning from one of each person: (tensor of shape (B, N, D), options)."""
    shapes = sorted({tuple(cond.shape[1:]) for cond, _ in entries})
    if len(shapes) > 1:
        raise ValueError(
            f"Expected prompts of one length, got {' and '.join(str(length) for length, *_ in shapes)} tokens. Use one prompt for all people."
        )
    options = dict(entries[0][1])
    for key in {key for _, other in entries for key in other}:
        values = [other.get(key) for _, other in entries]
        if key == "pooled_output" and all(torch.is_tensor(value) for value in values):
            options[key] = torch.cat(values)
        elif not all(_same(values[0], value) for value in values):
            raise ValueError(
                f"Expected conditionings that differ in the person only, got several '{key}'. Put this node right behind the prompt."
            )
    return [torch.cat([cond for cond, _ in entries]), options]


def _same(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)
    return one is other or (not torch.is_tensor(one) and not torch.is_tensor(other) and bool(one == other))
