"""Where nodes write new files: names that users type, to paths inside ComfyUI's folders."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping

import folder_paths
import torch

from .model_folders import EMBEDDINGS

_ENDING = ".safetensors"
_LONGEST = 200  # bytes; file systems allow 255, of which atomic writing and numbers need some


def new_path(folder: str, name: str, content: Mapping[str, torch.Tensor], overwrite: bool) -> str:
    """Choose the path of a new file of tensors, with a number appended if other content has the name.

    Args:
        folder: key of folder_paths; the file goes into the first of its folders.
        name: what the user typed, optionally with subfolders and the ending .safetensors.
        content: the tensors to be written, of any shape; the name of a single one does not matter.
        overwrite: use the name even if it is taken.

    Returns:
        The path.

    Raises:
        ValueError: the name leads out of the folder, or some operating system cannot store it.
    """
    root, names = folder_paths.get_folder_paths(folder)[0], _numbered(os.path.join(*check_file_name(name)))
    paths = ((name, os.path.join(root, name + _ENDING)) for name in names)
    return next(
        path for name, path in paths if overwrite or not _is_taken(name, folder) or _holds(path, content)
    )


def listed_name(path: str, folder: str) -> str:
    """Return the path of a new file as ComfyUI's lists show it: relative to the folder."""
    return os.path.relpath(path, folder_paths.get_folder_paths(folder)[0])


def check_file_name(name: str) -> list[str]:
    """Split a name into its parts; raise a ValueError if it leads out of the folder or cannot be stored."""
    parts = (
        re.sub(re.escape(_ENDING) + "$", "", name.strip(), flags=re.IGNORECASE).replace("\\", "/").split("/")
    )
    for part in parts:
        if (
            not part.strip(". ")
            or part != part.strip()
            or part.endswith(".")
            or re.search(r'[<>:"|?*\x00-\x1f\ud800-\udfff]', part)
            or re.fullmatch(
                r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", part, re.IGNORECASE
            )
            or len(part.encode()) > _LONGEST
        ):
            raise ValueError(
                f"{name!r} cannot be the name of a file in this folder on Windows, macOS and Linux. "
                'Leave out .. and drives, spaces and dots at the ends, the signs < > : " | ? *, '
                "and names such as CON; 'alice' and 'friends/alice' work."
            )
    return parts


def _numbered(first: str) -> Iterator[str]:
    yield first
    for number in itertools.count(2):
        yield f"{first}_{number:05}"


def _is_taken(name: str, folder: str) -> bool:
    """Return whether a key's folders hold a file of this name; embeddings are found in all subfolders."""
    places, endings = folder_paths.folder_names_and_paths[folder]
    if folder == EMBEDDINGS:
        places = [place for root in places for place, *_ in os.walk(root, followlinks=True)]
    return any(os.path.exists(os.path.join(place, name + ending)) for place in places for ending in endings)


def _holds(path: str, content: Mapping[str, torch.Tensor]) -> bool:
    from ..f2d.checkpoint import read

    try:
        tensors = read(path).tensors
    except (ValueError, OSError):
        return False
    if len(content) == len(tensors) == 1:
        return torch.equal(*tensors.values(), *content.values())
    return tensors.keys() == content.keys() and all(
        torch.equal(tensor, content[name]) for name, tensor in tensors.items()
    )
