"""The miniature as it is shipped: the demo's sheet, its scores, and its installation into a ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.cli import main
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature import FILES, load_evaluators, portraits
from face2diffusion.f2d.miniature.comfyui import CHECKPOINT, WORKFLOW, install
from face2diffusion.training.miniature.shipping import PEOPLE
from face2diffusion.training.miniature.world.samples import HELD_OUT_PEOPLE, render_sample
from PIL import Image
from safetensors import safe_open


@pytest.fixture(scope="module")
def sheet(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.png"
    assert main(["demo", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def scores(sheet) -> list[dict]:
    with Image.open(sheet) as image:
        return json.loads(image.text["face2diffusion"])["scores"]


@pytest.mark.slow
def test_the_demo_makes_a_sheet(sheet):
    pixels = np.asarray(Image.open(sheet))
    assert pixels.std() > 10
    assert min(pixels.shape[:2]) > 1500


@pytest.mark.slow
def test_the_people_are_recognized(scores):
    same = [score["identity"] for score in scores if "identity" in score]
    assert len(same) == 3 * 6
    assert np.mean(same) > 0.6


@pytest.mark.slow
def test_two_people_are_kept_apart_in_regions_and_in_one_prompt(scores):
    apart, together = (
        [score[side] for score in scores if how in score["text asked"] for side in ("left", "right")]
        for how in ("a region for each", "in one prompt")
    )
    assert len(apart) == len(together) == 6
    assert np.mean(apart) > 0.45
    assert np.mean(together) > 0.55, "0.4 with the paper's mapper"


@pytest.mark.slow
def test_the_prompts_are_followed(scores):
    assert np.mean([score["text"] for score in scores if "text" in score and "identity" in score]) > 0.9
    assert np.mean([score["text"] for score in scores if "identity" not in score and "text" in score]) > 0.9


def test_the_verifier_recognizes_held_out_people():
    verifier, _ = load_evaluators()
    again = [
        render_sample(90_000_000 + number, HELD_OUT_PEOPLE[number]).rendering.image
        for number, _ in PEOPLE.values()
    ]
    features = verifier.embed([*(load_photo(path) for path in portraits().values()), *again])
    same = features[: len(again)] @ features[len(again) :].T
    assert same.argmax(1).tolist() == list(range(len(again)))


def test_it_goes_into_a_comfyui(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert main(["demo", "--comfyui", str(tmp_path)]) == 0
    assert "open Workflows -> face2diffusion_miniature" in capsys.readouterr().out
    folder = tmp_path / "models" / "face2diffusion" / "miniature"
    FaceEncoder.load(*(folder / name for name in FILES.values()))
    with safe_open(tmp_path / "models" / "checkpoints" / CHECKPOINT, "pt") as checkpoint:
        assert "model.diffusion_model.input_blocks.0.0.weight" in checkpoint.keys()  # noqa: SIM118
    assert len(list((tmp_path / "input").glob("miniature_*.png"))) == 6
    workflow = tmp_path / "user" / "default" / "workflows" / WORKFLOW
    nodes = {node["type"]: node.get("widgets_values") for node in json.loads(workflow.read_text())["nodes"]}
    assert nodes["CheckpointLoaderSimple"] == [CHECKPOINT]
    assert (tmp_path / "input" / nodes["LoadImage"][0]).exists()
    assert {name.replace("\\", "/") for name in nodes["LoadFaceEncoder"][:2]} == {
        "miniature/msid.safetensors",
        "miniature/mapper.safetensors",
    }
    assert r" S\* " in nodes["MarkdownNote"][0], "a backslash too many is shown in the note"
    workflow.write_text("mine")
    logged: list[str] = []
    install(tmp_path, logged.append)
    assert workflow.read_text() == "mine"
    assert logged[-1] == f"kept: {workflow}"


def test_a_folder_without_comfyui_is_refused(tmp_path, capsys):
    assert main(["demo", "--comfyui", str(tmp_path)]) == 2
    assert "Name the folder that has main.py" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
