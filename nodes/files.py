"""The weight files in `models/face2diffusion`, through ComfyUI's folder_paths."""

import contextlib
import os

import folder_paths

FOLDER = "face2diffusion"
NONE = "none"
FAN = "FAN"
_WEIGHTS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")


def register_folder() -> None:
    """Add the folder to ComfyUI's, beside those that extra_model_paths.yaml names; make it, so that users find it."""
    default = os.path.join(folder_paths.models_dir, FOLDER)
    folder_paths.add_model_folder_path(FOLDER, default)
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {*folder_paths.supported_pt_extensions, ".onnx"})
    with contextlib.suppress(OSError):
        os.makedirs(default, exist_ok=True)


def weight_files(hint: str) -> list[str]:
    """List the weight files; those with the hint in their names come first, so that a new node has a sensible choice."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(_WEIGHTS)]
    return sorted(names, key=lambda name: (hint not in name.lower(), name))


def detector_files() -> list[str]:
    """List the detectors, YuNet files first."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(".onnx")]
    return sorted(names, key=lambda name: ("yunet" not in name.lower(), name))


def full_path(name: str) -> str:
    """Find a file by the name that the node shows; raise a FileNotFoundError that names the folders."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        folders = " or ".join(folder_paths.get_folder_paths(FOLDER))
        raise FileNotFoundError(f"Expected '{name}' in {folders}, got no such file. Download it as the README's table of weights says.")
    return path


def state(name: str) -> tuple[int, int] | None:
    """Give time and size of a file, so that a node runs again when the file has changed; ComfyUI writes this into pictures, so no path."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
