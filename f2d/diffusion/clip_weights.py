"""Single tensors of CLIP from a model's files, without building its networks."""

from __future__ import annotations

import os

from torch import Tensor

from ..tensor_files import read_tensors
from .folder import TEXT_ENCODER

_WEIGHT_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")  # of a diffusers folder
_POSITION = "embeddings.position_embedding.weight"
_PROJECTION = "text_projection"  # with ".weight" behind it where it is stored as (C, T), as transformers does


def read_position_embedding(model: str | os.PathLike) -> Tensor:
    """Read the position embedding of a Stable Diffusion model's text encoder.

    Args:
        model: a folder in diffusers layout, or a single-file checkpoint.

    Returns:
        shape (77, D), float32.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: no or several text encoders in it.
    """
    path = os.fspath(model)
    if os.path.isdir(path):
        files = [os.path.join(path, TEXT_ENCODER, name) for name in _WEIGHT_FILES]
        path = next((file for file in files if os.path.exists(file)), files[0])
    found, _ = read_tensors(path, "a Stable Diffusion 1.x model", lambda name: name.endswith(_POSITION))
    if len(found) != 1:
        raise ValueError(
            f"'{path}' has {len(found)} text encoders instead of one. Use a Stable Diffusion 1.x model."
        )
    return next(iter(found.values())).float()


def read_text_projection(path: str | os.PathLike) -> Tensor:
    """Read the matrix that takes CLIP's text encoder into the space that it shares with the image encoder.

    Files of the whole CLIP or of its text half have it; checkpoints of Stable Diffusion 1.x leave it out.

    Args:
        path: a .safetensors or a pickle of CLIP.

    Returns:
        shape (C, T), float32: C width of the joint space, T width of the text encoder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or has none or several such matrices.
    """
    found, _ = read_tensors(path, "CLIP's text encoder", _is_projection)
    if len(found) != 1 or next(iter(found.values())).ndim != 2:
        raise ValueError(
            f"'{os.fspath(path)}' has {len(found)} tensors '{_PROJECTION}', not one. Choose a file of all of "
            "CLIP ViT-L/14 or of its text encoder (clip_l.safetensors); SD 1.x checkpoints have none."
        )
    ((name, matrix),) = found.items()
    return (matrix if name.endswith(".weight") else matrix.T).float()


def _is_projection(name: str) -> bool:
    return name.removesuffix(".weight").split(".")[-1] == _PROJECTION
