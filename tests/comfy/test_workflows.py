"""Every bundled workflow opens in the real frontend and runs to a picture, as a user finds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import graph
from support.browser import Frontend
from support.comfy_stub import read_schemas
from support.schema import NEWER, core_types
from support.server import REPOSITORY, ComfyServer

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
NODES = (
    "LoadFaceEncoder",
    "EncodeFaceIdentity",
    "ExpressionReference",
    "InjectSStar",
    "F2DConditioning",
    "F2DPickBest",
    "F2DSaveIdentity",
    "F2DLoadIdentity",
    "F2DMixIdentities",
    "F2DListIdentities",
    "F2DBatchConditioning",
    "F2DExportEmbedding",
    "F2DFaceLandmarks",
    "F2DCropFaces",
    "F2DPasteFaces",
    "F2DRefineIdentity",
)
# Random weights generate no face, so that the second pass of face_detail is skipped.
SKIPPED = {"face_detail": {"CLIPTextEncode", "VAEEncode", "SetLatentNoiseMask", "KSampler", "VAEDecode"}}


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Path:
    """A bundled workflow."""
    return request.param


def small(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with 2 steps at 128 px: at 512 px a step on a CPU takes seconds."""
    for node in workflow["nodes"]:
        if node["type"] == "EmptyLatentImage":
            node["widgets_values"][:2] = [128, 128]
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 2
    return workflow


def test_it_runs_to_a_picture_and_the_second_time_from_the_cache(pack: ComfyServer, workflow: Path) -> None:
    prompt = graph.to_api(small(json.loads(workflow.read_text())), pack.object_info())
    first = pack.run(prompt)
    assert first.status == "success", first.message
    saves = [name for name, node in prompt.items() if node["class_type"] == "SaveImage"]
    with Image.open(first.files[saves[0]][0]) as image:
        assert image.size == (128, 128)
        assert np.asarray(image).std() > 1
        stored = json.loads(image.text["prompt"])
    assert {name: node["inputs"] for name, node in stored.items()} == {
        name: node["inputs"] for name, node in prompt.items()
    }
    assert str(pack.base) not in json.dumps(stored), "a shared picture must not tell the paths of its machine"
    second = pack.run(prompt)
    left = [prompt[name]["class_type"] for name in set(prompt) - second.cached]
    assert len(left) == len(set(left)) and set(left) == SKIPPED.get(workflow.stem, set())


def test_its_settings_are_the_authors(pack: ComfyServer, workflow: Path) -> None:
    """Sec. 4.1: SD 1.4, Euler ancestral, 30 steps, CFG 7.0, 512 px."""
    prompt = graph.to_api(json.loads(workflow.read_text()), pack.object_info())
    latents = {name: node for name, node in prompt.items() if node["class_type"] == "EmptyLatentImage"}
    samplers = [node["inputs"] for node in prompt.values() if node["class_type"] == "KSampler"]
    for sampler in samplers:
        assert (sampler["sampler_name"], sampler["scheduler"]) == ("euler_ancestral", "normal")
        assert (sampler["steps"], sampler["cfg"]) == (30, 7.0)
        from_noise = sampler["latent_image"][0] in latents
        assert sampler["denoise"] == (1.0 if from_noise else 0.45)
    assert [(node["inputs"]["width"], node["inputs"]["height"]) for node in latents.values()] == [(512, 512)]
    assert len(samplers) == (2 if workflow.stem == "face_detail" else 1)


def test_it_names_every_file_that_a_user_must_download(workflow: Path) -> None:
    nodes = json.loads(workflow.read_text())["nodes"]
    named = {model["name"] for node in nodes for model in node["properties"].get("models", [])}
    chosen = {
        str(value)
        for node in nodes
        if node["type"] != "LoadImage"
        for value in node.get("widgets_values", [])
        if str(value).endswith((".pt", ".pth", ".onnx", ".ckpt", ".safetensors"))
    }
    assert named == chosen
    for node in nodes:
        for model in node["properties"].get("models", []):
            assert model["url"].startswith("https://")
            assert model["directory"] in ("checkpoints", "controlnet", "face2diffusion")
            assert len(model.get("hash", "0" * 64)) == 64


def test_it_has_a_thumbnail(pack: ComfyServer, workflow: Path) -> None:
    assert workflow.stem in pack.get("/workflow_templates")["face2diffusion"]
    image = pack.get_bytes(f"/api/workflow_templates/face2diffusion/{workflow.stem}.jpg")
    assert image[:3] == b"\xff\xd8\xff"


def test_it_opens_without_missing_nodes_and_red_widgets(
    pack: ComfyServer, frontend: Frontend, workflow: Path
) -> None:
    opened = frontend.load_template(workflow.stem)
    assert opened.missing_nodes == []
    assert opened.unknown_values == []
    assert opened.errors == []
    apps = {"one_face", "expression_reference"} if core_types(pack.object_info()) >= NEWER else set()
    assert opened.is_app == (workflow.stem in apps)
    assert opened.prompt == graph.to_api(json.loads(workflow.read_text()), pack.object_info())


def test_it_runs_from_the_frontend(pack: ComfyServer, frontend: Frontend, tmp_path: Path) -> None:
    workflow = small(json.loads((REPOSITORY / "workflows" / "one_face.json").read_text()))
    (encode,) = (node for node in workflow["nodes"] if node["type"] == "EncodeFaceIdentity")
    encode["widgets_values"][-1] = 0.55  # so that it is not served from the cache
    frontend.load(workflow)
    result = frontend.run()
    assert result.status == "success", result.message
    assert len(result.files) == 3, "the saved picture, the face and the numbered boxes"
    assert frontend.screenshot(tmp_path / "one_face.png").stat().st_size > 10_000


def test_every_input_and_output_has_a_tooltip_and_every_node_a_help_page(pack: ComfyServer) -> None:
    for name in NODES:
        info = pack.object_info(name)
        inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
        assert all(options[1]["tooltip"] for options in inputs.values()), name
        assert all(info["output_tooltips"]), name
        assert info["description"], name
        assert info["category"].startswith("face2diffusion/")
        for page in (f"{name}.md", f"{name}/ja.md", f"{name}/zh.md"):
            text = pack.get_bytes(f"/extensions/face2diffusion/docs/{page}").decode()
            assert all(f"`{widget}`" in text for widget in inputs), page


def test_comfyui_has_the_texts_that_the_help_pages_and_translations_follow(pack: ComfyServer) -> None:
    """The fast tests check pages and translations against schemas read without ComfyUI."""
    schemas, missing = read_schemas(), NEWER - core_types(pack.object_info())
    assert set(schemas) == set(NODES)
    for name, schema in schemas.items():
        info = pack.object_info(name)
        shown = {**info["input"]["required"], **info["input"].get("optional", {})}
        assert (info["display_name"], info["description"], info["category"]) == (
            schema.display_name,
            schema.description,
            schema.category,
        )
        assert {key: options[1]["tooltip"] for key, options in shown.items()} == {
            socket.id: socket.options["tooltip"] for socket in schema.inputs if socket.type not in missing
        }
        assert info["output_tooltips"] == [socket.options["tooltip"] for socket in schema.outputs]
        assert info["output_name"] == [socket.options["display_name"] for socket in schema.outputs]


def test_only_the_translations_are_served(pack: ComfyServer) -> None:
    """English comes from the nodes."""
    served = pack.get("/i18n")
    assert {language for language, texts in served.items() if "InjectSStar" in texts.get("nodeDefs", {})} == {
        "ja",
        "zh",
    }


def test_the_log_is_clean(pack: ComfyServer) -> None:
    assert pack.failed_packs() == []
    assert "face2diffusion" in pack.log_text()
