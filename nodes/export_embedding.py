"""Export Embedding: an identity to a textual inversion embedding."""

import logging
import os

from comfy_api.latest import io, ui

from ..f2d.prompt.embedding import DEFAULT_POSITION, check_name
from .model_folders import EMBEDDINGS
from .new_files import check_file_name, listed_name, new_path
from .schema_parts import (
    ADVANCED,
    CONDITIONING,
    check_inputs,
    identity_input,
    overwrite_input,
    search_aliases,
)
from .sockets import Expression
from .subject_clip import plain_clip, position_embedding

log = logging.getLogger(__name__)


class F2DExportEmbedding(io.ComfyNode):
    """F2D_IDENTITY to a file in models/embeddings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="F2DExportEmbedding",
            display_name="Export Embedding",
            category=CONDITIONING,
            description="Saves S* as a textual inversion embedding, which ComfyUI, A1111 and diffusers use "
            "without Face2Diffusion.",
            inputs=[
                identity_input(),
                io.Clip.Input(
                    "clip",
                    tooltip="CLIP of the SD 1.x checkpoint that will use the embedding: "
                    "its position embedding is subtracted.",
                ),
                io.String.Input(
                    "filename",
                    default="f2d_alice",
                    tooltip="Name in prompts ('embedding:f2d_alice') and of the file in models/embeddings. "
                    "Letters, digits, _ - . and subfolders.",
                ),
                io.Int.Input(
                    "place",
                    display_name="position",
                    default=DEFAULT_POSITION,
                    min=1,
                    max=74,
                    step=1,
                    **ADVANCED,
                    tooltip="Token position at which the embedding is exact (the start token is 0). "
                    "4 fits 'A photo of S*'.",
                ),
                overwrite_input(),
                Expression.Input(
                    "expression",
                    optional=True,
                    tooltip="From Expression Reference; becomes part of the embedding.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "word",
                    display_name="word",
                    tooltip="The word to write in prompts: 'embedding:f2d_alice'.",
                )
            ],
            is_output_node=True,
            **search_aliases("textual inversion", "save embedding", "ti export", "a1111"),
        )

    @classmethod
    def validate_inputs(cls, filename: str | None = None) -> bool | str:
        """Refuse a name that no prompt or no file system can hold."""
        return check_inputs((lambda name: check_name(name.strip()), filename), (check_file_name, filename))

    @classmethod
    def execute(
        cls, identity, clip, filename: str, place: int, overwrite: bool, expression=None
    ) -> io.NodeOutput:
        from ..f2d.prompt.embedding import embedding_rows, save_embedding, warn_of_token

        check_name(filename.strip())
        words, positional = identity.words(expression), identity.encoder.mapper.config.positional
        rows = embedding_rows(words, position_embedding(clip, words), positional, place)
        path = new_path(EMBEDDINGS, filename, rows, overwrite)
        save_embedding(path, rows)
        name, _ = os.path.splitext(listed_name(path, EMBEDDINGS))
        word = f"embedding:{name.replace(os.sep, '/')}"
        lines = [f"Saved as {word} in {os.path.dirname(path)}"]
        if warning := warn_of_token(name, _count_tokens(clip, os.path.basename(name))):
            log.warning("%s", warning)
            lines.append(warning)
        return io.NodeOutput(word, ui=ui.PreviewText("\n".join(lines)))


def _count_tokens(clip, text: str) -> int:
    """Count a text's tokens in the vocabulary of a CLIP."""
    (chunks,) = plain_clip(clip).tokenize(text, return_word_ids=True).values()
    return sum(bool(word) for chunk in chunks for *_, word in chunk)
