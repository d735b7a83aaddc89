"""FID between a method's images and real ones, with torch-fidelity (Table 2).

The paper compares with the images of CC12M whose caption has "person", "man" or "woman" in it (Sec. 4.3). A
folder of img2dataset holds `000000012.jpg` with its caption in `000000012.txt`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...f2d.checkpoint import read
from ...f2d.files import hash_file
from ..data.face_datasets import IMAGE_SUFFIXES
from ..data.photo_files import hash_photos, split_files

_CAPTION = ".txt"
_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class RealImages:
    """The real images of an FID."""

    folder: Path
    names: tuple[str, ...]  # within the folder
    words: tuple[str, ...]  # of which each caption has one; empty if the folder has no captions

    @property
    def files(self) -> list[Path]:
        """Paths of the images."""
        return [self.folder / name for name in self.names]


@dataclass(frozen=True)
class FrechetDistance:
    """An FID, and what it depends on: FIDs are comparable if all but the value is the same."""

    value: float
    generated: int  # number of images
    real: int
    real_sha256: str  # of the real images' names and contents
    words: tuple[str, ...]  # see RealImages
    size: int  # px
    network: str  # file and hash of the weights

    def describe(self) -> dict[str, Any]:
        """Return all but the value, for JSON."""
        described = asdict(self)
        del described["value"]
        return {**described, "words": list(self.words)}


def check_fid(real: str | os.PathLike, weights: str | os.PathLike, words: Sequence[str]) -> None:
    """Check everything that FID needs, before any image is generated.

    Args:
        real: folder of real images.
        weights: InceptionV3 of torch-fidelity.
        words: of `list_real_images`.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: the weights or the folder are missing.
        ValueError: other weights, or fewer than two real images.
    """
    try:
        import torch_fidelity  # noqa: F401
    except ImportError as error:
        raise ImportError('--fid needs torch-fidelity. Run `pip install "face2diffusion[train]"`.') from error
    list_real_images(real, words)
    if not os.fspath(weights) or not os.path.isfile(weights):
        raise FileNotFoundError(
            f"--fid-weights '{os.fspath(weights)}' is not a file. Set it to torch-fidelity's InceptionV3, "
            f"from {_WEIGHTS}"
        )
    read(weights)  # refuses unsafe pickles, which torch-fidelity would load


def frechet_distance(
    images: Sequence[str | os.PathLike],
    real: RealImages,
    weights: str | os.PathLike,
    size: int,
    device: str,
    batch_size: int = 64,
    extractor: str = "inception-v3-compat",
) -> FrechetDistance:
    """Compute the FID.

    Args:
        images: generated ones.
        real: real ones; they are resized and center-cropped to the size of the generated ones.
        weights: InceptionV3 of torch-fidelity.
        size: of the images, px.
        device: where the network runs.
        batch_size: images at once.
        extractor: torch-fidelity's name of the network.

    Returns:
        The distance.

    Raises:
        ValueError: fewer than two generated images.
    """
    import torch_fidelity
    from torch_fidelity.datasets import ImagesPathDataset, TransformPILtoRGBTensor
    from torchvision.transforms import CenterCrop, Compose, Resize

    if len(images) < 2:
        raise ValueError(f"FID needs at least 2 generated images, not {len(images)}. Generate more.")
    squares = Compose([Resize(size), CenterCrop(size), TransformPILtoRGBTensor()])
    metrics = torch_fidelity.calculate_metrics(
        input1=ImagesPathDataset([str(file) for file in images]),
        input2=ImagesPathDataset([str(file) for file in real.files], squares),
        fid=True,
        feature_extractor=extractor,
        feature_extractor_weights_path=os.fspath(weights),
        cuda=device.startswith("cuda"),
        batch_size=batch_size,
        save_cpu_ram=not device.startswith("cuda"),
        cache=False,
    )
    return FrechetDistance(
        float(metrics["frechet_inception_distance"]),
        len(images),
        len(real.names),
        hash_photos(real.folder, real.names),
        real.words,
        size,
        f"{Path(weights).name}, SHA-256 {hash_file(weights)}",
    )


def list_real_images(folder: str | os.PathLike, words: Sequence[str] = ()) -> RealImages:
    """List the real images whose caption has one of some words in it.

    Args:
        folder: of images, with subfolders; captions are .txt files beside them.
        words: whole words, in any case; empty, or a folder without captions: all images.

    Returns:
        The images.

    Raises:
        FileNotFoundError: the folder is missing.
        ValueError: fewer than two images are left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"--fid '{folder}' is not a folder. Set it to a folder of real images.")
    names, others = split_files(folder, IMAGE_SUFFIXES)
    captions = {name.removesuffix(_CAPTION) for name in others if name.endswith(_CAPTION)}
    used: tuple[str, ...] = ()
    what = "images"
    if words and any(os.path.splitext(name)[0] in captions for name in names):
        used, what = tuple(words), f"images whose caption has {', '.join(words)} in it"
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
        names = [name for name in names if pattern.search(_read_caption(folder, name, captions))]
    if len(names) < 2:
        raise ValueError(
            f"--fid '{folder}' holds {len(names)} {what}, but FID needs at least 2. Choose another folder."
        )
    return RealImages(folder, tuple(names), used)


def _read_caption(folder: Path, name: str, captions: set[str]) -> str:
    stem = os.path.splitext(name)[0]
    if stem not in captions:
        return ""
    return (folder / f"{stem}{_CAPTION}").read_text(encoding="utf-8", errors="replace")
