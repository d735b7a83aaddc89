"""Named tensors from .safetensors files and from pickles, of which nothing is ever run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping

import torch
from safetensors import SafetensorError, safe_open

from .files import check_file

SAFETENSORS = (".safetensors", ".sft")  # endings, in lowercase
_WRAPPERS = ("net_recon", "state_dict", "model")  # Deep3DFaceRecon, Lightning, and plain training scripts
_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile

Tensors = dict[str, torch.Tensor]


def read_tensors(
    path: str | os.PathLike, what: str, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Tensors, dict[str, str]]:
    """Read a file's tensors, on the CPU.

    Args:
        path: .safetensors, or a .pt, .pth, .ckpt or .bin pickle.
        what: what should be in it, for the message.
        wanted: chooses tensors by name; of a .safetensors file the others are not read.

    Returns:
        The tensors by name, of any shape, and the metadata (empty for pickles).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds something else than tensors.
    """
    path = check_file(path, what)
    if not path.lower().endswith(SAFETENSORS):
        return {name: tensor for name, tensor in _read_pickle(path).items() if wanted(name)}, {}
    try:
        with safe_open(path, "pt") as file:
            names = {_strip_prefixes(name): name for name in file.keys()}  # noqa: SIM118 (not a dict)
            tensors = {name: file.get_tensor(stored) for name, stored in names.items() if wanted(name)}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"The .safetensors file '{path}' is damaged ({error}). Download it again."
        ) from error


def _read_pickle(path: str) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{path}' is damaged, or holds other objects than tensors, perhaps code, which was not run. "
            "Get the file from its authors, or convert it to .safetensors if you trust it. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"'{path}' is damaged, or not a weight file (.pt, .pth or .safetensors). Download it again."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"'{path}' holds no named tensors but a value of type {type(content).__name__}. "
            "Choose a state dict."
        )
    other = next((name for name, value in content.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise ValueError(
            f"'{path}' holds more than tensors: '{other}' has the type {type(content[other]).__name__}. "
            "Choose a state dict."
        )
    return {_strip_prefixes(str(name)): value for name, value in content.items()}


def _strip_prefixes(name: str) -> str:
    """Remove the names of wrappers, which may be nested in any order."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name
