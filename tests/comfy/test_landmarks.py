"""Face Landmarks in a real ComfyUI: from keypoints, from photos, and into the landmark ControlNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face2diffusion.f2d.face.detection import YuNet
from face2diffusion.f2d.face.landmarks import draw_all, find_landmarks, read_pose
from face2diffusion.f2d.image import load_photo
from PIL import Image
from safetensors.torch import load_file
from support.server import ComfyServer, Result

Prompt = dict[str, Any]
FACE = (
    np.column_stack([np.random.default_rng(0).uniform((100, 80), (300, 320), (70, 2)), np.ones(70)])
    .ravel()
    .tolist()
)
POSE = [
    {
        "people": [{"pose_keypoints_2d": [0.0] * 54, "face_keypoints_2d": FACE}],
        "canvas_width": 400,
        "canvas_height": 500,
    }
]


def draw(pack: ComfyServer, graph: Prompt, pose: Any = None, **inputs: Any) -> Result:
    """Draw landmarks with other inputs than the defaults."""
    values: dict[str, Any] = {"resolution": 512, "min_score": 0.6, **inputs}
    if pose is not None:
        graph["pose"] = {"class_type": "F2DProbeReadPose", "inputs": {"json": json.dumps(pose)}}
        values["pose_keypoint"] = ["pose", 0]
    graph["landmarks"] = {"class_type": "F2DFaceLandmarks", "inputs": values}
    graph["probe"] = {
        "class_type": "F2DProbeSaveTensors",
        "inputs": {"image": ["landmarks", 0], "name": "landmarks"},
    }
    return pack.run(graph)


def test_keypoints_become_the_librarys_picture_with_a_preview(pack: ComfyServer, graph: Prompt) -> None:
    result = draw(pack, graph, POSE)
    assert result.status == "success", result.message
    found = load_file(result.file("probe"))["image"].numpy()
    (expected,) = draw_all(read_pose(POSE))
    assert found.shape == (1, 640, 512, 3)
    assert np.array_equal(found[0] * 255, expected)
    with Image.open(result.file("landmarks")) as preview:
        assert np.array_equal(np.asarray(preview), expected)


def test_photo_and_encoder_become_the_librarys_picture(
    pack: ComfyServer, graph: Prompt, detector_file: Path
) -> None:
    result = draw(pack, graph, image=["photo", 0], encoder=["encoder", 0], resolution=256)
    assert result.status == "success", result.message
    expected = draw_all([find_landmarks(load_photo(pack.input / "example.png"), YuNet(detector_file))], 256)[
        0
    ]
    assert np.array_equal(load_file(result.file("probe"))["image"].numpy()[0] * 255, expected)


def test_pictures_without_a_face_stay_black_in_a_batch(pack: ComfyServer, graph: Prompt) -> None:
    graph["nothing"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 0},
    }
    graph["batch"] = {
        "class_type": "ImageBatch",
        "inputs": {"image1": ["nothing", 0], "image2": ["photo", 0]},
    }
    result = draw(pack, graph, image=["batch", 0], encoder=["encoder", 0])
    found = load_file(result.file("probe"))["image"]
    assert not found[0].any() and found[1].any()


CASES = {
    "nothing connected": ({}, "Neither of pose_keypoint and image"),
    "both connected": ({"pose": POSE, "image": ["photo", 0]}, "Both of pose_keypoint and image"),
    "a photo without an encoder and without FAN": ({"image": ["photo", 0]}, "pip install face-alignment"),
    "no face in the keypoints": (
        {"pose": [{**POSE[0], "people": []}]},
        "None of 1 image(s) shows a face",
    ),
    "no keypoints": ({"pose": []}, "not a frame of OpenPose keypoints"),
    "broken keypoints": (
        {"pose": [{**POSE[0], "people": [{"face_keypoints_2d": [1, 2]}]}]},
        "its face keypoints are [1, 2]",
    ),
    "no canvas": ({"pose": [{"people": []}]}, "its canvas has 0x0 px"),
    "no face in the photo": (
        {"image": ["photo", 0], "encoder": ["encoder", 0], "min_score": 1.0},
        "None of 1 image(s) shows a face",
    ),
    "a resolution out of range": ({"pose": POSE, "resolution": 0}, "resolution"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_drawn_is_explained(pack: ComfyServer, graph: Prompt, name: str) -> None:
    inputs, message = CASES[name]
    result = draw(pack, graph, **inputs)
    assert result.errors[0].node == "landmarks", result.message
    assert message in result.message


def test_an_encoder_without_a_detector_is_explained(pack: ComfyServer, graph: Prompt) -> None:
    graph["encoder"]["inputs"]["detector"] = "none"
    result = draw(pack, graph, image=["photo", 0], encoder=["encoder", 0])
    assert result.errors[0].node == "landmarks"
    assert "No detector is loaded" in result.message
