"""Files through ComfyUI's folder_paths: weights in `models/face2diffusion`, identities in its subfolder, names that users type."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator

import folder_paths
import torch

FOLDER = "face2diffusion"
IDENTITIES = "face2diffusion_identities"
EMBEDDINGS = "embeddings"  # ComfyUI's own
_SUBFOLDER = "identities"
_ENDING = ".safetensors"
_LONGEST = 200  # bytes; file systems store 255, of which atomic writing and numbers need some
NONE = "none"
FAN = "FAN"
_WEIGHTS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")


def register_folders() -> None:
    """Add the folders to ComfyUI's, beside those that extra_model_paths.yaml names; make them, so that users find them."""
    default = os.path.join(folder_paths.models_dir, FOLDER)
    _register(FOLDER, [default], {*folder_paths.supported_pt_extensions, ".onnx"})
    folders: list[str] = [default, *folder_paths.get_folder_paths(FOLDER)]
    _register(IDENTITIES, [os.path.join(folder, _SUBFOLDER) for folder in folders], {_ENDING})


def _register(key: str, folders: list[str], endings: set[str]) -> None:
    for folder in folders:
        folder_paths.add_model_folder_path(key, folder)
    paths, _ = folder_paths.folder_names_and_paths[key]
    folder_paths.folder_names_and_paths[key] = (paths, endings)
    with contextlib.suppress(OSError):
        os.makedirs(folders[0], exist_ok=True)


def weight_files(hint: str) -> list[str]:
    """List the weight files; those with the hint in their names come first, so that a new node has a sensible choice."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(_WEIGHTS)]
    names = [name for name in names if name.partition(os.sep)[0] != _SUBFOLDER]
    return sorted(names, key=lambda name: (hint not in name.lower(), name))


def detector_files() -> list[str]:
    """List the detectors, YuNet files first."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(".onnx")]
    return sorted(names, key=lambda name: ("yunet" not in name.lower(), name))


def identity_files() -> list[str]:
    """List the saved identities, those in subfolders too."""
    return folder_paths.get_filename_list(IDENTITIES)


def full_path(
    name: str, folder: str = FOLDER, advice: str = "Download it as the README's table of weights says."
) -> str:
    """Find a file by the name that the node shows; raise a FileNotFoundError that names the folders."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        folders = " or ".join(folder_paths.get_folder_paths(folder))
        raise FileNotFoundError(f"Expected '{name}' in {folders}, got no such file. {advice}")
    return path


def state(name: str, folder: str = FOLDER) -> tuple[int, int] | None:
    """Give time and size of a file, so that a node runs again when the file has changed; ComfyUI writes this into pictures, so no path."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def new_path(folder: str, name: str, content: torch.Tensor, overwrite: bool) -> str:
    """Choose where in a folder to write a one-tensor file: under the name, or under a numbered one where another content has the name.

    Args:
        folder: a key of folder_paths; the first of its folders is written to.
        name: what the user typed; may begin with subfolders, and end with .safetensors.
        content: the tensor that is to be written, of any shape.
        overwrite: take the name in any case.

    Returns:
        The path.

    Raises:
        ValueError: a name that leads out of the folder, or that some system cannot store.
    """
    root, names = folder_paths.get_folder_paths(folder)[0], _numbered(os.path.join(*_name_parts(name)))
    paths = ((name, os.path.join(root, name + _ENDING)) for name in names)
    return next(
        path for name, path in paths if overwrite or not _is_taken(name, folder) or _holds(path, content)
    )


def listed_name(path: str, folder: str) -> str:
    """Give the path of a new file as ComfyUI's lists show it: without the folder it was put into."""
    return os.path.relpath(path, folder_paths.get_folder_paths(folder)[0])


def _name_parts(name: str) -> list[str]:
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
                f"Expected a file name such as 'alice' or 'friends/alice', got {name!r}. Windows, macOS and Linux all have to be able to "
                'store it, inside its folder: leave out .. and drives, spaces and dots at the ends, the signs < > : " | ? *, and names such as CON.'
            )
    return parts


def _numbered(first: str) -> Iterator[str]:
    yield first
    for number in itertools.count(2):
        yield f"{first}_{number:05}"


def _is_taken(name: str, folder: str) -> bool:
    """Tell whether ComfyUI may find a file under a name: in any of a key's folders, for embeddings also in their subfolders."""
    places, endings = folder_paths.folder_names_and_paths[folder]
    if folder == EMBEDDINGS:
        places = [place for root in places for place, *_ in os.walk(root, followlinks=True)]
    return any(os.path.exists(os.path.join(place, name + ending)) for place in places for ending in endings)


def _holds(path: str, content: torch.Tensor) -> bool:
    from ..f2d.checkpoint import read

    try:
        tensors = list(read(path).tensors.values())
    except (ValueError, OSError):
        return False
    return len(tensors) == 1 and torch.equal(tensors[0], content)
