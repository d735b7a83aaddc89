"""Encode Face Identity and Expression Reference with faces that ComfyUI's own nodes found."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from face2diffusion.f2d.face.alignment import align_face
from face2diffusion.f2d.face.detection import YuNet
from face2diffusion.f2d.image import load_photo
from support.graph import node
from support.schema import NEWER, core_types
from support.server import ComfyServer, Result

Prompt = dict[str, Any]
INPUTS = {"box", "face_landmarks"}


@pytest.fixture
def newer(pack: ComfyServer) -> ComfyServer:
    """A ComfyUI that has both types."""
    if not core_types(pack.object_info()) >= NEWER:
        pytest.skip("needs a ComfyUI with face landmarks, such as 0.33")
    return pack


@pytest.fixture
def couple(graph: Prompt) -> Prompt:
    """A large face at the left and a small one at the right of one image of 1024x512 px."""
    half = node(
        "ImageScale", image=["photo", 0], upscale_method="area", width=256, height=256, crop="disabled"
    )
    small = node("ImagePadForOutpaint", image=["half", 0], left=0, top=256, right=256, bottom=0, feathering=0)
    both = node("ImageStitch", image1=["photo", 0], image2=["small", 0], direction="right")
    both["inputs"] |= {"match_image_size": False, "spacing_width": 0, "spacing_color": "black"}
    graph["identity"]["inputs"]["image"] = ["couple", 0]
    return {**graph, "half": half, "small": small, "couple": both}


def encode(pack: ComfyServer, graph: Prompt, **inputs: Any) -> Result:
    """Runs Encode Face Identity, whose face is saved."""
    graph["identity"]["inputs"] |= inputs
    graph["save"] = node("SaveImage", images=["identity", 1], filename_prefix="core_faces")
    kept = {name: graph[name] for name in graph if name not in ("model", "inject")}
    return pack.run(kept)


def faces(result: Result) -> list[np.ndarray]:
    assert result.status == "success", result.message
    return [load_photo(path) for path in result.files["save"]]


def boxes(value: Any) -> dict[str, Any]:
    return node("F2DProbeReadBoxes", text=json.dumps(value))


def box(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "width": width, "height": height}


RIGHT, LEFT = box(512, 256, 256, 256), box(0, 0, 512, 512)  # around the people


@pytest.mark.parametrize(
    ("value", "index"),
    [(RIGHT, 1), ([RIGHT], 1), ([[RIGHT]], 1), ([[LEFT, RIGHT]], 0), ([[RIGHT, LEFT]], 0)],
    ids=["one", "a list", "of each image", "the largest of two", "in any order"],
)
def test_a_box_selects_the_face(newer: ComfyServer, couple: Prompt, value: Any, index: int) -> None:
    (expected,) = faces(encode(newer, couple, face_index=index))
    couple["boxes"] = boxes(value)
    (found,) = faces(encode(newer, couple, face_index=0, box=["boxes", 0]))
    np.testing.assert_array_equal(found, expected)


def test_a_photo_without_a_box_is_skipped(newer: ComfyServer, couple: Prompt) -> None:
    couple["batch"] = node("ImageBatch", image1=["couple", 0], image2=["couple", 0])
    couple["boxes"] = boxes([[], [RIGHT]])
    found = faces(encode(newer, couple, image=["batch", 0], box=["boxes", 0]))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[RIGHT], [RIGHT], [LEFT]], "'box' is of 3 image(s), but 'image' has 1"),
        ([[]], "no box for this photo"),
        ([[{"x": 1}]], "without x, y, width and height"),
        (box(900, 0, 100, 100), "No face lies in the box at (900, 0) of 100x100 px"),
    ],
)
def test_boxes_that_fit_no_face_are_refused(
    newer: ComfyServer, couple: Prompt, value: Any, message: str
) -> None:
    couple["boxes"] = boxes(value)
    result = encode(newer, couple, box=["boxes", 0])
    assert result.status == "error" and message in result.message


def test_core_landmarks_replace_the_detector(newer: ComfyServer, graph: Prompt, detector_file) -> None:
    photo = load_photo(newer.input / "example.png")
    (face,) = YuNet(detector_file).detect(photo)
    graph["encoder"]["inputs"]["detector"] = "none"
    frames = json.dumps([[face.landmarks.tolist()]])
    graph["mesh"] = node("F2DProbeMakeFaceMesh", frames=frames, image=["photo", 0])
    (found,) = faces(encode(newer, graph, face_landmarks=["mesh", 0]))
    np.testing.assert_array_equal(found, align_face(photo, face.landmarks))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([[]], "landmarks have no face"),
        ([[], [], []], "'face_landmarks' is of 3 image(s), but 'image' has 1"),
        ([[[[1, 1]] * 5]], "coincide"),
    ],
)
def test_landmarks_that_show_no_face_are_refused(
    newer: ComfyServer, graph: Prompt, frames: Any, message: str
) -> None:
    graph["mesh"] = node("F2DProbeMakeFaceMesh", frames=json.dumps(frames), image=["photo", 0])
    result = encode(newer, graph, face_landmarks=["mesh", 0])
    assert result.status == "error" and message in result.message


def test_landmarks_of_another_image_are_refused(newer: ComfyServer, couple: Prompt) -> None:
    points = [[100, 100], [150, 100], [125, 130], [105, 160], [145, 160]]
    couple["mesh"] = node("F2DProbeMakeFaceMesh", frames=json.dumps([[points]]), image=["photo", 0])
    result = encode(newer, couple, face_landmarks=["mesh", 0])
    assert result.status == "error" and "of 512x512 px, but 'image' has 1024x512" in result.message


def test_an_older_comfyui_runs_graphs_that_were_saved_with_these_inputs(
    pack: ComfyServer, graph: Prompt
) -> None:
    if core_types(pack.object_info()) & NEWER:
        pytest.skip("needs a ComfyUI without face landmarks, such as 0.3.64")
    assert not INPUTS & pack.object_info("EncodeFaceIdentity")["input"].get("optional", {}).keys()
    graph["boxes"] = boxes([[LEFT]])
    assert len(faces(encode(pack, graph, box=["boxes", 0]))) == 1
