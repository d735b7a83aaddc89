"""FID with a stand-in for InceptionV3: the distance, which real images count, and what results record."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import save_png
from face2diffusion.training.evaluation import evaluate as module
from face2diffusion.training.evaluation import fid
from face2diffusion.training.evaluation.results import Results
from support import evaluation
from support.evaluation import SIZE, write_faces

torch_fidelity = pytest.importorskip(
    "torch_fidelity", reason="needs torch-fidelity: pip install torch-fidelity"
)
CAPTIONS = (
    "A <PERSON> at the beach",
    "two women",
    "the man\nin black",
    "a Woman, sitting",
    "human hand",
    "mankind",
)


class Color(torch_fidelity.FeatureExtractorBase):
    """Stands in for InceptionV3: the mean color is the feature."""

    get_provided_features_list = staticmethod(lambda: ("color",))
    get_default_feature_layer_for_metric = staticmethod(lambda metric: "color")
    can_be_compiled = staticmethod(lambda: False)

    def __init__(self, name: str, features: list[str], **options: Any) -> None:
        super().__init__(name, features)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images.float().mean((2, 3)),)


torch_fidelity.register_feature_extractor("color", Color)


def write_colors(folder: Path, colors: np.ndarray, shape: tuple[int, int, int] = (40, 64, 3)) -> list[Path]:
    for number, color in enumerate(colors):
        save_png(folder / f"{number:02d}.png", np.full(shape, color, np.uint8))
    return sorted(folder.iterdir())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_fid_of_colors(tmp_path: Path, weights: Path) -> None:
    """With the mean color as the feature, FID is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)."""
    chance = np.random.default_rng(0)
    generated, real = chance.integers(0, 100, (12, 3)), chance.integers(100, 250, (10, 3))
    files = write_colors(tmp_path / "generated", generated, (32, 32, 3))
    write_colors(tmp_path / "real", real)
    images = fid.list_real_images(tmp_path / "real")
    found = fid.frechet_distance(files, images, weights, 32, "cpu", 4, "color")
    covariances = [np.cov(colors.T) for colors in (generated, real)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    assert found.value == pytest.approx(
        ((generated.mean(0) - real.mean(0)) ** 2).sum() + np.trace(sum(covariances)) - 2 * root, rel=1e-4
    )
    assert (found.generated, found.real, found.words) == (12, 10, ())
    with pytest.raises(ValueError, match="at least 2 generated images, not 1"):
        fid.frechet_distance(files[:1], images, weights, 32, "cpu", 4, "color")


def test_captions_choose_the_real_images(tmp_path: Path) -> None:
    files = write_colors(tmp_path / "00000", np.zeros((len(CAPTIONS) + 1, 3)))
    for file, caption in zip(files, CAPTIONS, strict=False):  # the last image has none
        file.with_suffix(".txt").write_text(caption)
    words = ("person", "man", "woman")
    assert fid.list_real_images(tmp_path, words).names == ("00000/00.png", "00000/02.png", "00000/03.png")
    assert fid.list_real_images(tmp_path, words).words == words
    assert len(fid.list_real_images(tmp_path, ()).names) == 7
    with pytest.raises(ValueError, match="holds 1 images whose caption has women in it"):
        fid.list_real_images(tmp_path, ("women",))
    for file in files:
        file.with_suffix(".txt").unlink(missing_ok=True)
    without = fid.list_real_images(tmp_path, words)
    assert (len(without.names), without.words) == (7, ())


def test_missing_inputs_are_named_before_any_work(tmp_path: Path, weights: Path) -> None:
    write_colors(tmp_path / "real", np.zeros((2, 3)))
    with pytest.raises(
        FileNotFoundError, match="--fid-weights '' .* https://github.com/toshas/torch-fidelity"
    ):
        fid.check_fid(tmp_path / "real", "", ())
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth"):
        fid.check_fid(tmp_path / "real", tmp_path / "text.pth", ())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 images, but FID needs at least 2"):
        fid.check_fid(tmp_path / "empty", weights, ())
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        fid.check_fid(tmp_path / "nowhere", weights, ())
    with (
        mock.patch.dict(sys.modules, {"torch_fidelity": None}),
        pytest.raises(ImportError, match=r"pip install \"face2diffusion\[train\]\""),
    ):
        fid.check_fid(tmp_path / "real", weights, ())


def test_results_record_the_real_images(tmp_path: Path, weights: Path) -> None:
    faces, chance = write_faces(tmp_path / "faces"), np.random.default_rng(0)
    images = tmp_path / "images"
    for name in ("alice", "bob"):
        for place in range(2):
            color = chance.integers(0, 255, 3)
            save_png(images / f"{name}/2/{place}.png", np.full((SIZE, SIZE, 3), color, np.uint8))
    write_colors(tmp_path / "real", chance.integers(0, 255, (5, 3)))
    options = {
        "method": "rival", "faces": str(faces), "aligned": True, "images": str(images), "prompts": (2,),
        "images_per_prompt": 2, "size": SIZE, "clip": str(tmp_path), "device": "cpu",
        "fid": str(tmp_path / "real"), "fid_weights": str(weights),
    }  # fmt: skip

    def run(name: str) -> Results:
        distance = partial(fid.frechet_distance, extractor="color")
        with mock.patch.object(module, "frechet_distance", distance):
            return Results.load(evaluation.evaluate({**options, "out": str(tmp_path / name)})[0])

    first = run("first.json")
    assert first.costs["fid"] > 0
    described = first.details["fid"]
    assert (described["generated"], described["real"], described["size"]) == (4, 5, SIZE)
    assert len(described["real_sha256"]) == 64 and described["words"] == []
    assert run("second.json").details["fid"] == described
    save_png(tmp_path / "real/00.png", np.zeros((40, 64, 3), np.uint8))
    assert run("third.json").details["fid"]["real_sha256"] != described["real_sha256"]
