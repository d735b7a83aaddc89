"""Export Embedding."""

import os

from comfy_api.latest import io, ui

from ..f2d.prompt.embedding import PLACE
from .clip import position_embedding
from .files import EMBEDDINGS, listed_name, new_path
from .sockets import CATEGORY, Expression, Identity, supported_fields


class F2DExportEmbedding(io.ComfyNode):
    """Identity to textual inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="F2DExportEmbedding",
            display_name="Export Embedding",
            category=CATEGORY,
            description="Writes S* as a textual-inversion embedding for ComfyUI, A1111 and diffusers: no Face2Diffusion is needed to use it.",
            inputs=[
                Identity.Input(
                    "identity",
                    tooltip="Who it is, from Encode Face Identity, Load Identity or Mix Identities.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP of the SD 1.x checkpoint that will use it: its position embedding is taken off.",
                ),
                io.String.Input(
                    "filename",
                    default="alice",
                    tooltip="The name in prompts, as in 'embedding:alice'; goes into models/embeddings. Letters, digits, _ - . and subfolders.",
                ),
                io.Int.Input(
                    "place",
                    default=PLACE,
                    min=1,
                    max=74,
                    step=1,
                    tooltip="Where in the prompt it is exact: the number of tokens before it, the start counting as one. 4: 'A photo of S*'.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Off: where another embedding has the name already, a number is added to it. On: the old file is replaced.",
                ),
                Expression.Input(
                    "expression",
                    optional=True,
                    tooltip="From Expression Reference; it becomes part of the embedding.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "word", display_name="word", tooltip="What to write in prompts: 'embedding:alice'."
                )
            ],
            is_output_node=True,
            **supported_fields(
                search_aliases=[
                    "face2diffusion",
                    "f2d",
                    "textual inversion",
                    "save embedding",
                    "ti export",
                    "a1111",
                ]
            ),
        )

    @classmethod
    def execute(
        cls, identity, clip, filename: str, place: int, overwrite: bool, expression=None
    ) -> io.NodeOutput:
        """Compute S* and write it."""
        from ..f2d.prompt.embedding import check_name, embedding_rows, save_embedding

        check_name(filename.strip())
        words, positional = identity.words(expression), identity.encoder.mapper.config.positional
        rows = embedding_rows(words, position_embedding(clip, words), positional, place)
        path = new_path(EMBEDDINGS, filename, rows, overwrite)
        save_embedding(path, rows)
        name, _ = os.path.splitext(listed_name(path, EMBEDDINGS))
        word = f"embedding:{name.replace(os.sep, '/')}"
        return io.NodeOutput(word, ui=ui.PreviewText(f"Saved as {word} in {os.path.dirname(path)}"))
