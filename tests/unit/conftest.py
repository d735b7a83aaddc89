"""What the unit tests share: a real portrait with its landmarks, and encoders with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from support.official import write_mapper, write_msid


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are several times faster on one thread where other processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A photo of a person, (512, 512, 3) uint8."""
    return pytest.importorskip(
        "skimage.data", reason="needs scikit-image for a portrait: pip install scikit-image"
    ).astronaut()


@pytest.fixture(scope="session")
def landmarks() -> np.ndarray:
    """The portrait's five landmarks, px."""
    return np.array(
        [(200.12, 101.82), (247.13, 102.62), (220.37, 124.54), (198.61, 142.77), (239.67, 143.64)]
    )


@pytest.fixture(scope="session")
def encoder(official: Path) -> FaceEncoder:
    """The official networks without a detector."""
    return FaceEncoder.load(official / "msid.pt", official / "mapping.pt", official / "epoch_20.pth")


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small msid.pt (4 depths x 64) and a mapping.pt for it."""
    folder = tmp_path_factory.mktemp("small")
    write_msid(folder / "msid.pt", seed=4, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    write_mapper(folder / "mapping.pt", seed=5, id_dim=256, hidden_dim=128)
    return folder


@pytest.fixture(scope="session")
def small(small_files: Path) -> FaceEncoder:
    """A small encoder without a detector."""
    return FaceEncoder.load(small_files / "msid.pt", small_files / "mapping.pt")
