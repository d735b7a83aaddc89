"""The pack's model folders in ComfyUI's folder_paths, and the files in them."""

import contextlib
import os

import folder_paths

FOLDER = "face2diffusion"
IDENTITIES = "face2diffusion_identities"
EMBEDDINGS = "embeddings"  # ComfyUI's own
_ENDING = ".safetensors"
_SUBFOLDER = "identities"
_WEIGHTS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")


def register_folders() -> None:
    """Register the folders beside those that extra_model_paths.yaml names, and create the default ones."""
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
    """List the weight files, those with the hint in their names first: a new node shows the first one."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(_WEIGHTS)]
    names = [name for name in names if name.partition(os.sep)[0] != _SUBFOLDER]
    return sorted(names, key=lambda name: (hint not in name.lower(), name))


def detector_files() -> list[str]:
    """List the detectors, YuNet files first."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(".onnx")]
    return sorted(names, key=lambda name: ("yunet" not in name.lower(), name))


def identity_files() -> list[str]:
    """List the saved identities, including those in subfolders."""
    return folder_paths.get_filename_list(IDENTITIES)


def full_path(
    name: str, folder: str = FOLDER, advice: str = "Download it as the README's table of weights says."
) -> str:
    """Return the path of a file by the name that the node shows.

    Raises:
        FileNotFoundError: no such file; names the folders that were searched, and ends with the advice.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        folders = " or ".join(folder_paths.get_folder_paths(folder))
        raise FileNotFoundError(f"There is no file {name!r} in {folders}. {advice}")
    return path


def state(name: str, folder: str = FOLDER) -> tuple[int, int] | None:
    """Return a file's modification time (ns) and size (bytes): a node runs again when they change.

    ComfyUI writes them into images, so the path stays out of them.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
