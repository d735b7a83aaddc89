"""Save Identity and Load Identity."""

import os

from comfy_api.latest import io, ui

from .model_folders import IDENTITIES, full_path, identity_files, state
from .new_files import check_file_name, listed_name, new_path
from .schema_parts import IDENTITY, check_inputs, identity_input, overwrite_input, search_aliases
from .sockets import EncodedIdentity, Encoder, Identity


class F2DSaveIdentity(io.ComfyNode):
    """F2D_IDENTITY to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DSaveIdentity",
            display_name="Save Identity",
            category=IDENTITY,
            description="Saves an identity, without the photo, to models/face2diffusion/identities "
            "for Load Identity.",
            inputs=[
                identity_input(),
                io.String.Input(
                    "filename",
                    default="alice",
                    tooltip="File name, with subfolders if you like: 'alice', 'friends/alice'.",
                ),
                overwrite_input(),
            ],
            outputs=[
                io.String.Output(
                    "saved_as", display_name="saved as", tooltip="The name that Load Identity lists."
                )
            ],
            is_output_node=True,
            **search_aliases("save face", "store identity", "save embeds"),
        )

    @classmethod
    def validate_inputs(cls, filename: str | None = None) -> bool | str:
        """Refuse a name that some file system cannot hold."""
        return check_inputs((check_file_name, filename))

    @classmethod
    def execute(cls, identity, filename: str, overwrite: bool) -> io.NodeOutput:
        path = new_path(IDENTITIES, filename, identity.identity.v_id, overwrite)
        identity.identity.save(path)
        name = listed_name(path, IDENTITIES)
        return io.NodeOutput(name, ui=ui.PreviewText(f"Saved as {name} in {os.path.dirname(path)}"))


class F2DLoadIdentity(io.ComfyNode):
    """A file to F2D_IDENTITY."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DLoadIdentity",
            display_name="Load Identity",
            category=IDENTITY,
            description="Loads an identity written by Save Identity or 'f2d encode --identity'. "
            "Needs the face encoder, but no photo.",
            inputs=[
                Encoder.Input(
                    "encoder",
                    tooltip="From Load Face Encoder, with the MSID file that encoded the identity.",
                ),
                io.Combo.Input(
                    "identity_file",
                    options=identity_files(),
                    tooltip="A file in models/face2diffusion/identities or its subfolders. "
                    "Press R to refresh the list.",
                ),
            ],
            outputs=[Identity.Output("identity", display_name="identity", tooltip="Connect to Inject S*.")],
            **search_aliases("load face", "face file", "load embeds"),
        )

    @classmethod
    def validate_inputs(cls, identity_file: str | None = None) -> bool | str:
        """Refuse a graph that names a missing file."""
        return check_inputs((_identity_path, identity_file))

    @classmethod
    def fingerprint_inputs(cls, identity_file: str, **linked) -> tuple[int, int] | None:
        """Run again when the file has changed."""
        return state(identity_file, IDENTITIES)

    @classmethod
    def execute(cls, encoder, identity_file: str) -> io.NodeOutput:
        path = _identity_path(identity_file)
        return io.NodeOutput(EncodedIdentity(encoder.load_identity(path), encoder))


def _identity_path(name: str) -> str:
    return full_path(name, IDENTITIES, "Choose another; Save Identity makes them.")
