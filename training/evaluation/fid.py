"""FID between a method's images and real ones, with torch-fidelity (Table 2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ...f2d.checkpoint import read
from ..data.face_datasets import PICTURES

_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


def frechet_distance(
    images: Sequence[str | os.PathLike],
    real: str | os.PathLike,
    weights: str | os.PathLike,
    size: int,
    device: str,
    batch_size: int = 64,
    extractor: str = "inception-v3-compat",
) -> float:
    """Compute the FID.

    Args:
        images: generated ones.
        real: folder of real ones; they are resized and center-cropped to the size of the generated ones.
        weights: InceptionV3 of torch-fidelity.
        size: of the images, px.
        device: where the network runs.
        batch_size: images at once.
        extractor: torch-fidelity's name of the network.

    Returns:
        The distance.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: the weights or the folder are missing.
        ValueError: other weights, or fewer than two real images.
    """
    try:
        import torch_fidelity
        from torch_fidelity.datasets import ImagesPathDataset, TransformPILtoRGBTensor
        from torchvision.transforms import CenterCrop, Compose, Resize
    except ImportError as error:
        raise ImportError('--fid needs torch-fidelity. Run `pip install "face2diffusion[train]"`.') from error
    if not os.fspath(weights):
        raise ValueError(f"--fid-weights is missing. Set it to torch-fidelity's InceptionV3, from {_WEIGHTS}")
    read(weights)  # refuses unsafe pickles, which torch-fidelity would load
    files = list_real_images(real)
    squares = ImagesPathDataset(
        [str(file) for file in files], Compose([Resize(size), CenterCrop(size), TransformPILtoRGBTensor()])
    )
    metrics = torch_fidelity.calculate_metrics(
        input1=ImagesPathDataset([str(file) for file in images]),
        input2=squares,
        fid=True,
        feature_extractor=extractor,
        feature_extractor_weights_path=os.fspath(weights),
        cuda=device.startswith("cuda"),
        batch_size=batch_size,
        save_cpu_ram=not device.startswith("cuda"),
        cache=False,
    )
    return float(metrics["frechet_inception_distance"])


def list_real_images(folder: str | os.PathLike) -> list[Path]:
    """List the real images.

    Args:
        folder: of images, with subfolders.

    Returns:
        Their files, sorted.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: it holds fewer than two images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--fid '{folder}' is not a folder. Set it to a folder of real images.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
    if len(files) < 2:
        raise ValueError(
            f"--fid '{folder}' holds {len(files)} images, but FID needs at least 2. Choose another folder."
        )
    return files
