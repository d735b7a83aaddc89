"""Files of learned words: the embeddings that textual inversion and its relatives write.

| layout | written by |
|---|---|
| `{placeholder: (N, D) or (D,)}`, .safetensors or .bin | diffusers' textual inversion, DVAR, `f2d export` |
| `{"string_to_param": {"*": (N, D)}, ...}`, .pt | AUTOMATIC1111 |
| a bare (N, D) tensor, .pt | CelebBasis' `extract_pt.py` |

Dimension letters: N words, D width of the text encoder.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...f2d.files import check_file
from ...f2d.tensor_files import SAFETENSORS, read_tensors

_SUFFIXES = (*SAFETENSORS, ".bin", ".pt")
_LAST = ("learned_embeds", "learned_weights_last")  # beside earlier steps of the same training


def find_words(folder: str | os.PathLike, identity: str) -> Path | None:
    """Find an identity's file of words.

    Args:
        folder: with `alice.pt`, or a subfolder `alice` with one file, as a training writes it.
        identity: its name.

    Returns:
        The file; None if there is none.

    Raises:
        ValueError: there are several, and none is known to be the last of a training.
    """
    folder = Path(folder)
    found = [folder / f"{identity}{suffix}" for suffix in _SUFFIXES]
    if (folder / identity).is_dir():
        found += sorted(path for path in (folder / identity).iterdir() if path.suffix in _SUFFIXES)
    files = [path for path in found if path.is_file()]
    files = [path for path in files if path.stem in _LAST][:1] or files
    if len(files) > 1:
        raise ValueError(
            f"'{folder}' holds {len(files)} files of words for '{identity}' ({files[0].name}, "
            f"{files[1].name}). Leave one of them there."
        )
    return files[0] if files else None


def read_words(path: str | os.PathLike) -> Tensor:
    """Read a file of words.

    Args:
        path: .safetensors, or a .bin or .pt pickle, of which nothing is run.

    Returns:
        shape (N, D), float32: rows that a text encoder adds its position embedding to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or does not hold exactly one embedding.
    """
    embeddings = [
        tensor
        for tensor in list_tensors(read_content(path))
        if tensor.is_floating_point() and tensor.ndim in (1, 2)
    ]
    if len(embeddings) != 1:
        raise ValueError(
            f"'{path}' holds {len(embeddings)} embeddings, not one of shape (words, width). Choose the file "
            "of one person, trained for Stable Diffusion 1.x."
        )
    words = embeddings[0].detach().float()
    if not words.isfinite().all():
        raise ValueError(f"The words in '{path}' have NaN or infinity. Train them again.")
    return words.reshape(-1, words.shape[-1])


def read_content(path: str | os.PathLike) -> Any:
    """Read a weight file that may hold plain data beside tensors; of a pickle nothing is run.

    Args:
        path: .safetensors, or a .bin or .pt pickle.

    Returns:
        Containers of tensors and plain data, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds other objects.
    """
    path = check_file(path, "a weight file")
    if path.lower().endswith(SAFETENSORS):
        return read_tensors(path, "a weight file")[0]
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"'{path}' is damaged, or holds other objects than tensors, which were not run "
            f"({str(error).splitlines()[0]}). Convert it to .safetensors if you trust it."
        ) from error


def list_tensors(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dictionaries."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from list_tensors(value)
