"""Save, Load and Mix Identities."""

import os

from comfy_api.latest import io, ui

from ..f2d.identity import INTERPOLATIONS, Interpolation
from .files import IDENTITIES, full_path, identity_files, listed_name, new_path, state
from .sockets import CATEGORY, EncodedIdentity, Encoder, Identity, supported_fields

SLOTS = 6


class F2DSaveIdentity(io.ComfyNode):
    """Identity to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DSaveIdentity",
            display_name="Save Identity",
            category=CATEGORY,
            description="Keeps an identity as a file in models/face2diffusion/identities, without any photo, for Load Identity.",
            inputs=[
                Identity.Input(
                    "identity", tooltip="Whom to keep, from Encode Face Identity or Mix Identities."
                ),
                io.String.Input(
                    "filename",
                    default="alice",
                    tooltip="The name, with subfolders if you like: 'alice', 'friends/alice'.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Off: where someone else has the name already, a number is added to it. On: the old file is replaced.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "saved_as",
                    display_name="saved as",
                    tooltip="The name under which Load Identity lists it.",
                )
            ],
            is_output_node=True,
            **supported_fields(
                search_aliases=["face2diffusion", "f2d", "save face", "store identity", "save embeds"]
            ),
        )

    @classmethod
    def execute(cls, identity, filename: str, overwrite: bool) -> io.NodeOutput:
        """Write the file."""
        path = new_path(IDENTITIES, filename, identity.identity.v_id, overwrite)
        identity.identity.save(path)
        name = listed_name(path, IDENTITIES)
        return io.NodeOutput(name, ui=ui.PreviewText(f"Saved as {name} in {os.path.dirname(path)}"))


class F2DLoadIdentity(io.ComfyNode):
    """File to identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DLoadIdentity",
            display_name="Load Identity",
            category=CATEGORY,
            description="Loads an identity that Save Identity or 'f2d encode --identity' has written. It needs the encoder, but no photo.",
            inputs=[
                Encoder.Input(
                    "encoder",
                    tooltip="From Load Face Encoder, with the MSID file that the identity was made with.",
                ),
                io.Combo.Input(
                    "identity_file",
                    options=identity_files(),
                    tooltip="A file in models/face2diffusion/identities or its subfolders. Press R to see new ones.",
                ),
            ],
            outputs=[
                Identity.Output("identity", display_name="identity", tooltip="Who it is, for Inject S*.")
            ],
            **supported_fields(
                search_aliases=["face2diffusion", "f2d", "load face", "face file", "load embeds"]
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, identity_file: str, **linked) -> tuple[int, int] | None:
        """Run again when the file has changed."""
        return state(identity_file, IDENTITIES)

    @classmethod
    def execute(cls, encoder, identity_file: str) -> io.NodeOutput:
        """Read the file."""
        path = full_path(identity_file, IDENTITIES, "Choose another; Save Identity makes them.")
        return io.NodeOutput(EncodedIdentity(encoder.load_identity(path), encoder))


class F2DMixIdentities(io.ComfyNode):
    """Several identities to one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        numbers = range(1, SLOTS + 1)
        sockets = [
            Identity.Input(
                f"identity_{number}",
                optional=number > 2,
                tooltip="A person, from Encode Face Identity, Load Identity or another Mix Identities.",
            )
            for number in numbers
        ]
        weights = [
            io.Float.Input(
                f"weight_{number}",
                default=1.0,
                min=-2.0,
                max=2.0,
                step=0.05,
                optional=number > 2,
                tooltip=f"How much of identity_{number}, as a share of all weights. Below 0, with 'linear' only, leads away from the person.",
            )
            for number in numbers
        ]
        return io.Schema(
            node_id="F2DMixIdentities",
            display_name="Mix Identities",
            category=CATEGORY,
            description="Makes one person out of several, by weights. More than six are mixes of mixes.",
            inputs=[
                *sockets,
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default=INTERPOLATIONS[0],
                    tooltip="'spherical' keeps the mix as distinct as a real person; 'linear' is the plain mean, and fainter.",
                ),
                *weights,
            ],
            outputs=[
                Identity.Output(
                    "identity", display_name="identity", tooltip="The mix, for Inject S* or Save Identity."
                )
            ],
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "merge faces",
                    "blend faces",
                    "face morph",
                    "interpolate",
                ]
            ),
        )

    @classmethod
    def execute(cls, interpolation: Interpolation, **slots) -> io.NodeOutput:
        """Mix those that are connected; the first with a weight gives the mix its encoder."""
        used = [number for number in range(1, SLOTS + 1) if slots.get(f"identity_{number}") is not None]
        names = [f"identity_{number}" for number in used]
        weights = [slots.get(f"weight_{number}", 1.0) for number in used]
        people = [slots[name] for name in names]
        first = next((person for person, weight in zip(people, weights, strict=True) if weight), people[0])
        mixed = first.encoder.mix([person.identity for person in people], weights, interpolation, names)
        return io.NodeOutput(EncodedIdentity(mixed, first.encoder))
