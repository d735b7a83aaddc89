"""Where the weights come from; nothing is fetched unless a user types `f2d download NAME`."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass

from .checkpoint import read
from .diffusion.pipeline import CONFIG_FILES, CONFIG_REPOSITORY
from .files import atomic_file, check_file


@dataclass(frozen=True)
class Weights:
    """One downloadable file."""

    file: str
    source: str  # "drive:ID", "drive-folder:ID" or "hub:REPOSITORY"
    page: str  # for people
    license: str
    kind: str | None = None  # what `checkpoint.read` must find in it
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
SD_CONFIG = "sd-config"  # not one file: the configs and the tokenizer that a single-file checkpoint lacks


def download(name: str, folder: str | os.PathLike) -> str:
    """Fetch a weight file, check it, and put it into a folder; a file that is there and whole is left alone.

    Args:
        name: a key of `WEIGHTS`, or "sd-config".
        folder: where to; for sd-config the hub's own cache is used.

    Returns:
        The path.

    Raises:
        ValueError: an unknown name, or a file of another size, hash or content than expected.
        ImportError: the packages for downloads are missing.
        OSError: the source cannot be reached, or the folder cannot be written to.
    """
    if name == SD_CONFIG:
        from huggingface_hub import snapshot_download

        return snapshot_download(CONFIG_REPOSITORY, allow_patterns=list(CONFIG_FILES))
    if name not in WEIGHTS:
        raise ValueError(f"Expected one of {', '.join([*WEIGHTS, SD_CONFIG])}, got '{name}'.")
    weights = WEIGHTS[name]
    target = os.path.join(os.fspath(folder), weights.file)
    if os.path.exists(target):
        verify(target, weights)
        return target
    with atomic_file(target) as temporary, tempfile.TemporaryDirectory() as scratch:
        shutil.copyfile(_fetch(weights, scratch), temporary)
        verify(temporary, weights)
    return target


def verify(path: str, weights: Weights) -> None:
    """Raise a ValueError if a file is not what it should be."""
    check_file(path, weights.file)
    size = os.path.getsize(path)
    if weights.size is not None and size != weights.size:
        raise ValueError(
            f"Expected {weights.file} of {weights.size} bytes, got '{path}' of {size}. Delete it and download it again."
        )
    if weights.sha256 is not None:
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        if digest != weights.sha256:
            raise ValueError(
                f"Expected {weights.file} with SHA-256 {weights.sha256}, got {digest} for '{path}'. Download it again."
            )
    if weights.kind is not None:
        read(path).expect(weights.kind)  # type: ignore[arg-type]


def _fetch(weights: Weights, scratch: str) -> str:
    source, identifier = weights.source.split(":", 1)
    try:
        if source == "hub":
            from huggingface_hub import hf_hub_download

            return hf_hub_download(identifier, weights.file, local_dir=scratch)
        import gdown
    except ImportError as error:
        raise ImportError(
            'Expected huggingface_hub and gdown, got neither or only one. Run `pip install "face2diffusion[download]"`.'
        ) from error
    path = os.path.join(scratch, weights.file)
    if source == "drive":
        found = [gdown.download(id=identifier, output=path)]
    else:
        found = [
            name
            for name in gdown.download_folder(id=identifier, output=scratch) or []
            if os.path.basename(name) == weights.file
        ]
    if not found or found[0] is None:
        raise OSError(
            f"Expected {weights.file} from {weights.page}, got nothing. Download it there through a browser."
        )
    return found[0]
