"""FID between a method's pictures and real ones, through torch-fidelity (Table 2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...f2d.checkpoint import read
from ..data.face_datasets import PICTURES

_WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


def frechet_distance(
    pictures: Sequence[str | os.PathLike],
    real: str | os.PathLike,
    weights: str | os.PathLike,
    size: int,
    device: str,
    batch_size: int = 64,
    extractor: str = "inception-v3-compat",
) -> float:
    """Compute the FID.

    Args:
        pictures: generated ones.
        real: folder of real ones; they are resized and center-cropped to the size of the generated ones.
        weights: InceptionV3 of torch-fidelity.
        size: of the pictures, px.
        device: where the network runs.
        batch_size: pictures at once.
        extractor: torch-fidelity's name of the network.

    Returns:
        The distance.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: there are no such weights, or no such folder.
        ValueError: other weights, or fewer than two real pictures.
    """
    try:
        import torch_fidelity
        from torch_fidelity.datasets import ImagesPathDataset, TransformPILtoRGBTensor
        from torchvision.transforms import CenterCrop, Compose, Resize
    except ImportError as error:
        raise ImportError(
            'Expected torch-fidelity for --fid, got none. Run `pip install "face2diffusion[train]"`.'
        ) from error
    if not os.fspath(weights):
        raise ValueError(
            f"Expected --fid-weights with torch-fidelity's InceptionV3, got none. Get it from {_WEIGHTS}"
        )
    read(weights)  # torch-fidelity unpickles it, whatever it is
    files = real_pictures(real)
    squares = ImagesPathDataset(
        [str(file) for file in files], Compose([Resize(size), CenterCrop(size), TransformPILtoRGBTensor()])
    )
    found = torch_fidelity.calculate_metrics(
        input1=ImagesPathDataset([str(file) for file in pictures]),
        input2=squares,
        fid=True,
        feature_extractor=extractor,
        feature_extractor_weights_path=os.fspath(weights),
        cuda=device.startswith("cuda"),
        batch_size=batch_size,
        save_cpu_ram=not device.startswith("cuda"),
        cache=False,
    )
    return float(found["frechet_inception_distance"])


def real_pictures(folder: str | os.PathLike) -> list[Path]:
    """List the real pictures.

    Args:
        folder: of pictures, with subfolders.

    Returns:
        Their files, sorted.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than two are in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected --fid with a folder of real pictures, got '{folder}', which is no folder. Check the path."
        )
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
    if len(files) < 2:
        raise ValueError(
            f"Expected real pictures in '{folder}' for FID, got {len(files)}. Name the folder that has them."
        )
    return files
