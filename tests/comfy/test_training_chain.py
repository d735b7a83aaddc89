"""From photos to a picture: prepare, mapper, `f2d generate`, and the trained mapper in a real ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face2diffusion.f2d.cli import main as f2d
from face2diffusion.training.cli import main as f2d_train
from PIL import Image
from safetensors.torch import load_file
from skimage.data import astronaut
from support.parsers import write_bisenet
from support.random_pipeline import random_pipeline
from support.server import ComfyServer
from support.shared import make_once


@pytest.fixture(scope="session")
def trained(files, detector_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a mapper that was trained on two photos, for the same files as in the server."""
    return make_once(tmp_path_factory, "chain", lambda folder: train(folder, files, detector_file))


def train(folder: Path, files, detector_file: Path) -> None:
    (folder / "photos").mkdir()
    for name, photo in (
        ("a", astronaut()),
        ("b", astronaut()[:300, 80:380]),
        ("none", np.zeros((256, 256, 3), np.uint8)),
    ):
        Image.fromarray(photo).save(folder / "photos" / f"{name}.png")
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    write_bisenet(folder / "79999_iter.pth")
    weights = [
        "--msid",
        str(files.msid),
        "--expression",
        str(files.expression),
        "--parser",
        str(folder / "79999_iter.pth"),
    ]
    weights += [
        "--detector",
        str(detector_file),
        "--base",
        str(folder / "sd"),
        "--device",
        "cpu",
        "--image-size",
        "64",
    ]
    assert (
        f2d_train(["prepare", "--photos", str(folder / "photos"), "--out", str(folder / "cache"), *weights])
        == 0
    )
    run = ["--cache", str(folder / "cache"), "--base", str(folder / "sd"), "--out", str(folder / "run")]
    assert (
        f2d_train(["mapper", *run, "--steps", "2", "--batch-size", "2", "--workers", "0", "--lr", "1e-3"])
        == 0
    )


def test_a_photo_without_a_face_is_listed(trained: Path) -> None:
    import json

    report = json.loads((trained / "cache" / "report.json").read_text())
    assert (report["photos"], report["cached"]) == (3, 2)
    assert [photo["photo"] for photo in report["list"]] == ["none.png"]


def test_the_command_line_draws_with_the_trained_mapper(trained: Path, files, detector_file: Path) -> None:
    weights = [
        "--msid",
        str(files.msid),
        "--mapper",
        str(trained / "run" / "mapper-00000002.safetensors"),
        "--detector",
        str(detector_file),
    ]
    draw = [
        "--model",
        str(trained / "sd"),
        "--steps",
        "1",
        "--size",
        "64x64",
        "--device",
        "cpu",
        "--out",
        str(trained / "a.png"),
    ]
    assert f2d(["generate", str(files.photo), "S* here", *weights, *draw]) == 0
    assert Image.open(trained / "a.png").size == (64, 64)


def test_comfyui_takes_the_trained_mapper(
    pack: ComfyServer, graph: dict[str, Any], trained: Path, files, detector_file: Path
) -> None:
    mapper = trained / "run" / "mapper-00000002.safetensors"
    pack.place(mapper, "models", "face2diffusion", "trained.safetensors")
    graph["encoder"]["inputs"]["mapper"] = "trained.safetensors"
    graph["probe"] = {
        "class_type": "F2DProbeSaveTokens",
        "inputs": {"clip": ["inject", 0], "text": "S*", "name": "trained"},
    }
    result = pack.run(graph)
    assert result.status == "success", result.message
    out = trained / "words.safetensors"
    weights = [
        "--msid",
        str(files.msid),
        "--mapper",
        str(mapper),
        "--detector",
        str(detector_file),
        "--device",
        "cpu",
    ]
    assert f2d(["encode", str(files.photo), *weights, "--out", str(out)]) == 0
    vectors, words = load_file(result.file("probe"))["vectors"], load_file(out)["words"]
    positions = words - vectors  # the same for any person: CLIP's position embedding at places 1 and 2
    graph["encoder"]["inputs"]["mapper"] = files.mapper.name
    weights[3] = str(files.mapper)
    assert f2d(["encode", str(files.photo), *weights, "--out", str(out)]) == 0
    other = load_file(out)["words"] - load_file(pack.run(graph).file("probe"))["vectors"]
    assert abs(positions - other).max() < 1e-5
