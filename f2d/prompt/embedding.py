"""S* as a textual-inversion embedding, to whose rows every program adds a position embedding."""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..files import atomic_file
from ..networks.mapping import Positional
from .injection import insertion_rows

DEFAULT_POSITION = 4  # of S1* in "A photo of S*", the paper's beginning of every prompt; the start token is 0


def embedding_rows(
    words: Tensor,
    position_embedding: Tensor,
    positional: Positional = "replace",
    position: int = DEFAULT_POSITION,
) -> Tensor:
    """Turn S* into the rows of an embedding that is exact at one position of the prompt.

    Args:
        words: shape (2, D), float32.
        position_embedding: shape (N, D), float32, of the base model's text encoder.
        positional: how the mapper was trained; words before the position embedding are exact everywhere.
        position: token position of S1*, from 1; there the text encoder gets exactly S*.

    Returns:
        shape (2, D), float32.

    Raises:
        ValueError: a position outside the prompt, or a text encoder of another width.
    """
    last, width = len(position_embedding) - 3, position_embedding.shape[1]  # S2* and the end token follow
    if width != words.shape[1]:
        raise ValueError(
            f"The text encoder is {width} wide, S* is {words.shape[1]} wide. Use a Stable Diffusion 1.x "
            "model."
        )
    if not 1 <= position <= last:
        raise ValueError(f"The token position {position} is out of range. Use one from 1 to {last}.")
    return insertion_rows(words, position_embedding[position : position + 2], positional)


def check_name(name: str) -> str:
    """Return the name of an embedding as it is, if prompts can hold it.

    Args:
        name: what is to stand behind `embedding:`; may begin with subfolders.

    Returns:
        The name.

    Raises:
        ValueError: it has signs that end a name in a prompt, or cannot be that of a tensor.
    """
    if not re.fullmatch(r"[\w./\\-]+", name):
        raise ValueError(
            f"The name {name!r} cannot be used in a prompt. Use letters, digits and the signs _ - . / only."
        )
    if name == "__metadata__":
        raise ValueError(
            "An embedding cannot be named '__metadata__', which .safetensors files reserve. "
            "Choose another name."
        )
    return name


def warn_of_token(name: str, token_count: int) -> str:
    """Build the warning for a name that CLIP has as one token: diffusers refuses it, A1111 hides the word.

    Args:
        name: of the embedding; may begin with subfolders.
        token_count: of the name without subfolders, in CLIP's own vocabulary.

    Returns:
        The warning; "" where the name is free.
    """
    if token_count != 1:
        return ""
    stem = name.replace("\\", "/").rpartition("/")[2]
    return (
        f"CLIP has a token '{stem}', so diffusers refuses this name: use token='<{stem}>' there, or name the "
        f"embedding 'f2d_{stem}'."
    )


def save_embedding(path: str | os.PathLike, rows: Tensor) -> str:
    """Write an embedding atomically: one tensor under the file's name, which is what all three programs read.

    Args:
        path: where to; ends with .safetensors.
        rows: shape (2, D), float32.

    Returns:
        The name of the embedding.

    Raises:
        ValueError: the name cannot be used in a prompt.
        OSError: the folder cannot be written to.
    """
    name = check_name(Path(path).stem)
    with atomic_file(path) as temporary:
        save_file({name: rows.contiguous()}, temporary, {"format": "pt"})
    return name
