"""Where the weights come from; nothing is fetched unless a user types `f2d download NAME`."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from .checkpoint import read
from .checkpoint_kinds import Kind
from .diffusion.single_file_config import fetch_config
from .files import atomic_file, check_file, hash_file


@dataclass(frozen=True)
class Weights:
    """One downloadable file."""

    file: str
    source: str  # "drive:ID", "drive-folder:ID" or "hub:REPOSITORY"
    page: str  # for people
    license: str
    kind: Kind | None = None  # what `checkpoint.read` must find in it
    size: int | None = None  # bytes, where known
    sha256: str | None = None  # where known


WEIGHTS: dict[str, Weights] = {
    "msid": Weights(
        "msid.pt",
        "drive:1DjUf-ib612SDDt86TRlsDkHqXTeYx030",
        "https://github.com/mapooon/Face2Diffusion",
        "CC BY-NC-SA 4.0",
        "msid",
    ),
    "mapping": Weights(
        "mapping.pt",
        "drive:1Lf_mwMgme_HVYJCkViGr4TfGOfKw9PhE",
        "https://github.com/mapooon/Face2Diffusion",
        "CC BY-NC-SA 4.0",
        "mapper",
    ),
    "expression": Weights(
        "epoch_20.pth",
        "drive-folder:1liaIxn9smpudjjqMaWWRpP0mXRW_qRPP",
        "https://github.com/sicxu/Deep3DFaceRecon_pytorch",
        "code MIT; no license is stated for the weights",
        "expression",
    ),
    "yunet": Weights(
        "face_detection_yunet_2023mar.onnx",
        "hub:opencv/face_detection_yunet",
        "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        "MIT",
        None,
        232_589,
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    ),
}


@dataclass(frozen=True)
class ModelFolder:
    """A model of several files, from the Hugging Face hub."""

    repository: str  # its last part names the folder
    files: tuple[str, ...]  # or patterns of their names
    license: str
    size: str  # for people


FOLDERS: dict[str, ModelFolder] = {
    "stable-diffusion": ModelFolder(
        "CompVis/stable-diffusion-v1-4",
        (
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer/*",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ),
        "CreativeML OpenRAIL-M",
        "4.3 GB",
    ),
    "face-parsing": ModelFolder(
        "jonathandinu/face-parsing",
        ("config.json", "model.safetensors", "preprocessor_config.json"),
        "read the model's page; its data, CelebAMask-HQ, is for non-commercial research",
        "0.3 GB",
    ),
}
SD_CONFIG = "sd-config"  # not one file: the configs and the tokenizer that a single-file checkpoint lacks


def download(name: str, folder: str | os.PathLike) -> str:
    """Fetch a weight file, check it, and put it into a folder; a complete file that is already there is kept.

    Args:
        name: a key of `WEIGHTS` or `FOLDERS`, or "sd-config".
        folder: where to; for sd-config the hub's own cache is used.

    Returns:
        The path.

    Raises:
        ValueError: an unknown name, or a file with the wrong size, hash or content.
        ImportError: the packages for downloads are missing.
        OSError: the source cannot be reached, or the folder cannot be written to.
    """
    if name == SD_CONFIG:
        with _network("sd-config", "https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5"):
            return fetch_config()
    if name in FOLDERS:
        with _network(name, f"https://huggingface.co/{FOLDERS[name].repository}"):
            return _fetch_folder(FOLDERS[name], os.fspath(folder))
    if name not in WEIGHTS:
        names = ", ".join([*WEIGHTS, *FOLDERS, SD_CONFIG])
        raise ValueError(f"There is no download '{name}'. Choose one of {names}.")
    weights = WEIGHTS[name]
    target = os.path.join(os.fspath(folder), weights.file)
    if os.path.exists(target):
        verify(target, weights)
        return target
    with tempfile.TemporaryDirectory() as scratch:
        with _network(weights.file, weights.page):
            fetched = _fetch(weights, scratch)
        with atomic_file(target) as temporary:
            shutil.copyfile(fetched, temporary)
            verify(temporary, weights)
    return target


@contextlib.contextmanager
def _network(what: str, page: str) -> Iterator[None]:
    """Turn what the packages for downloads raise, each of its own kind, into an OSError with advice."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'{error.name} is not installed. Run `pip install "face2diffusion[download]"`.'
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(f"No space is left for {what} in '{tempfile.gettempdir()}'. Free some.") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConnectionError(
            f"{what} cannot be downloaded ({reason}). Check the connection, or get it from {page} through a "
            "browser."
        ) from error


def verify(path: str, weights: Weights) -> None:
    """Raise a ValueError if a file is not what it should be."""
    check_file(path, weights.file)
    size = os.path.getsize(path)
    if weights.size is not None and size != weights.size:
        raise ValueError(
            f"'{path}' has {size} bytes, but {weights.file} has {weights.size}. Delete it and download it "
            "again."
        )
    if weights.sha256 is not None:
        digest = hash_file(path)
        if digest != weights.sha256:
            raise ValueError(
                f"'{path}' has the SHA-256 {digest}, but {weights.file} has {weights.sha256}. Delete it and "
                "download it again."
            )
    if weights.kind is not None:
        read(path).expect(weights.kind)


def _fetch_folder(model: ModelFolder, folder: str) -> str:
    """Download a model's files into a folder of its name; what is there already is kept."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f'{error.name} is not installed. Run `pip install "face2diffusion[download]"`.'
        ) from error
    target = os.path.join(folder, model.repository.split("/")[1])
    snapshot_download(model.repository, allow_patterns=list(model.files), local_dir=target)
    for file in model.files:
        if "*" not in file:
            check_file(os.path.join(target, file), file)
    return target


def _fetch(weights: Weights, scratch: str) -> str:
    """Download a file into a folder, and return its path there."""
    source, identifier = weights.source.split(":", 1)
    if source == "hub":
        from huggingface_hub import hf_hub_download

        return hf_hub_download(identifier, weights.file, local_dir=scratch)
    return _fetch_from_drive(source, identifier, os.path.join(scratch, weights.file))


def _fetch_from_drive(source: str, identifier: str, path: str) -> str:
    import gdown

    if source == "drive":
        found = [gdown.download(id=identifier, output=path)]
    else:
        files = gdown.download_folder(id=identifier, output=os.path.dirname(path)) or []
        found = [file for file in files if os.path.basename(str(file)) == os.path.basename(path)]
    if not found or found[0] is None:
        raise OSError("Google Drive has not given the file")
    return str(found[0])
