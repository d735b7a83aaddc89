"""Mix Identities and List Identities: several people to one, or to a list."""

from typing import Any

from comfy_api.latest import io

from ..f2d.identity import INTERPOLATIONS, Interpolation, describe_refined_mix
from .notices import notify
from .schema_parts import IDENTITY, search_aliases
from .sockets import EncodedIdentity, Identity

SLOTS = 6


def _identity_inputs(required: int, tooltip: str) -> list[Any]:
    return [
        Identity.Input(f"identity_{number}", optional=number > required, tooltip=tooltip)
        for number in range(1, SLOTS + 1)
    ]


class F2DMixIdentities(io.ComfyNode):
    """Up to six F2D_IDENTITY to one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weights = [
            io.Float.Input(
                f"weight_{number}",
                default=1.0,
                min=-2.0,
                max=2.0,
                step=0.05,
                optional=number > 2,
                tooltip="Weight of the identity with the same number, relative to the sum of all weights. "
                "A negative weight ('linear' only) moves away from the person.",
            )
            for number in range(1, SLOTS + 1)
        ]
        return io.Schema(
            node_id="F2DMixIdentities",
            display_name="Mix Identities",
            category=IDENTITY,
            description="Blends up to six people into one by weight. "
            "For more people, chain another Mix Identities.",
            inputs=[
                *_identity_inputs(
                    required=2,
                    tooltip="A person, from Encode Face Identity, Load Identity or another Mix Identities.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default=INTERPOLATIONS[0],
                    tooltip="'spherical' keeps the mix as distinct as a real person. "
                    "'linear' is the plain mean, which is weaker.",
                ),
                *weights,
            ],
            outputs=[
                Identity.Output(
                    "identity", display_name="identity", tooltip="Connect to Inject S* or Save Identity."
                )
            ],
            **search_aliases("merge faces", "blend faces", "face morph", "interpolate"),
        )

    @classmethod
    def execute(cls, interpolation: Interpolation, **slots) -> io.NodeOutput:
        used = [number for number in range(1, SLOTS + 1) if slots.get(f"identity_{number}") is not None]
        names = [f"identity_{number}" for number in used]
        weights = [slots.get(f"weight_{number}", 1.0) for number in used]
        people = [slots[name] for name in names]
        # The first person with a weight lends the mix its encoder.
        first = next((person for person, weight in zip(people, weights, strict=True) if weight), people[0])
        identities = [person.identity for person in people]
        mixed = first.encoder.mix(identities, weights, interpolation, names)
        if notice := describe_refined_mix(identities, weights):
            notify(notice)
        return io.NodeOutput(EncodedIdentity(mixed, first.encoder))


class F2DListIdentities(io.ComfyNode):
    """Up to six F2D_IDENTITY to a list, for each of which ComfyUI runs the nodes that follow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DListIdentities",
            display_name="List Identities",
            category=IDENTITY,
            description="Puts up to six people into a list; the nodes after it run once per person. "
            "For more people, chain another List Identities.",
            inputs=_identity_inputs(required=1, tooltip="A person, or a list of people."),
            outputs=[
                Identity.Output(
                    "identities",
                    display_name="identities",
                    tooltip="One person at a time. Connect to Inject S*.",
                    is_output_list=True,
                )
            ],
            is_input_list=True,
            **search_aliases("several faces", "batch of people", "identity list"),
        )

    @classmethod
    def execute(cls, **people: list[Any]) -> io.NodeOutput:
        found = [
            person
            for number in range(1, SLOTS + 1)
            for person in people.get(f"identity_{number}") or []
            if person is not None
        ]
        return io.NodeOutput(found)
