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
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 (not a dict)
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The .safetensors file '{path}' is damaged ({error}). Get it again.") from error


def _read_pickle(path: str) -> Tensors:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Expected tensors only, got '{path}', which is damaged or holds other objects, perhaps code; "
            "it was not run. Get the file from its authors, or convert it to .safetensors if you trust it. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"Expected a weight file (.pt, .pth or .safetensors), got '{path}', which is damaged or "
            "something else. Get it again."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"Expected named tensors, got '{path}' with {type(content).__name__}. Choose a state dict."
        )
    other = next((name for name, value in content.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise ValueError(
            f"Expected tensors only, got '{path}' with {type(content[other]).__name__} under '{other}'. "
            "Choose a state dict."
        )
    return {_strip_prefixes(str(name)): value for name, value in content.items()}


def _strip_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
