"""The test setup itself, with core nodes only: server, checkpoint, probes, workflows, frontend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support import graph, sd1
from support.browser import Frontend
from support.core_workflow import core_workflow
from support.server import ComfyServer

TEXT = "A photo of a person as a (chef:1.0), in the street"


def prompt(text: str = TEXT, seed: int = 0, decoder_input: str = "sampler") -> dict[str, Any]:
    """Text to image with core nodes; "save" writes a PNG."""
    sampling = {
        "seed": seed,
        "steps": 2,
        "cfg": 7.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    links = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
    }
    nodes = {
        "model": ("CheckpointLoaderSimple", {"ckpt_name": sd1.CHECKPOINT}),
        "positive": ("CLIPTextEncode", {"clip": ["model", 1], "text": text}),
        "negative": ("CLIPTextEncode", {"clip": ["model", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "sampler": ("KSampler", {**links, **sampling}),
        "decoder": ("VAEDecode", {"samples": [decoder_input, 0], "vae": ["model", 2]}),
        "save": ("SaveImage", {"images": ["decoder", 0], "filename_prefix": "smoke"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def pixels(comfy: ComfyServer, request: dict[str, Any]) -> np.ndarray:
    """Runs a prompt and returns the picture of node "save" as (H, W, 3) int16."""
    result = comfy.run(request)
    assert result.status == "success", result.message
    return np.asarray(Image.open(result.file("save")), dtype=np.int16)


def test_server_runs_this_checkout_with_the_probes(comfy: ComfyServer) -> None:
    assert comfy.get("/system_stats")["system"]["comfyui_version"] == comfy.version
    assert "f2d_probe_nodes" not in comfy.failed_packs()
    assert comfy.object_info("F2DProbeSaveConditioning")["output_node"]
    assert comfy.object_info("NoSuchNode") == {}


def test_checkpoint_draws_a_picture_that_depends_on_prompt_and_seed(comfy: ComfyServer) -> None:
    picture = pixels(comfy, prompt())
    assert picture.shape == (64, 64, 3)
    assert 80 < picture.mean() < 180
    assert 5 < picture.std() < 80
    assert np.abs(picture - pixels(comfy, prompt("A red car"))).mean() > 1
    assert np.abs(picture - pixels(comfy, prompt(seed=1))).mean() > 1


def test_an_identical_prompt_is_cached(comfy: ComfyServer) -> None:
    first = comfy.run(prompt(seed=7))
    second = comfy.run(prompt(seed=7))
    assert "sampler" not in first.cached
    assert second.cached == set(prompt())
    assert second.files == first.files


def test_conditioning_equals_transformers(comfy: ComfyServer, sd1_checkpoint: Path) -> None:
    from transformers import CLIPTokenizer

    request = prompt()
    request["probe"] = {
        "class_type": "F2DProbeSaveConditioning",
        "inputs": {"conditioning": ["range", 0], "name": "smoke"},
    }
    request["range"] = {
        "class_type": "ConditioningSetTimestepRange",
        "inputs": {"conditioning": ["positive", 0], "start": 0.25, "end": 1.0},
    }
    file = comfy.run(request).file("probe")
    found = load_file(file)
    with safe_open(file, "pt") as opened:
        (options,) = json.loads(opened.metadata()["options"])
    assert (options["start_percent"], options["end_percent"]) == (0.25, 1.0)

    tokenizer = CLIPTokenizer.from_pretrained(comfy.checkout / "comfy" / "sd1_tokenizer")
    tokens = tokenizer(
        TEXT.replace("(chef:1.0)", "chef"), padding="max_length", max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        expected = sd1.load_text_encoder(sd1_checkpoint)(tokens.input_ids)
    assert relative_error(found["0.cond"], expected.last_hidden_state) < 1e-5
    assert relative_error(found["0.pooled_output"], expected.pooler_output) < 1e-5


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_token_probe_counts_tokens_and_hashes_weights(comfy: ComfyServer) -> None:
    request = {
        "model": prompt()["model"],
        "probe": {
            "class_type": "F2DProbeSaveTokens",
            "inputs": {"clip": ["model", 1], "text": "(S*:1.5)", "name": "smoke"},
        },
    }
    file = comfy.run(request).file("probe")
    found = load_file(file)
    assert found["ids"][:4].tolist() == [49406, 338, 265, 49407]
    assert found["weights"][:4].tolist() == [1.0, 1.5, 1.5, 1.0]
    with safe_open(file, "pt") as opened:
        assert len(opened.metadata()["weights_sha256"]) == 64


def test_controlnet_changes_the_picture(comfy: ComfyServer) -> None:
    request = prompt()
    request["net"] = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": sd1.CONTROLNET}}
    request["hint"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0xFF8000},
    }
    links = {
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "control_net": ["net", 0],
        "image": ["hint", 0],
    }
    request["apply"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {**links, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
    }
    request["sampler"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
    assert np.abs(pixels(comfy, request) - pixels(comfy, prompt())).mean() > 1


def test_refused_and_failing_prompts_say_why(comfy: ComfyServer) -> None:
    refused = comfy.run(prompt(seed=-1))
    assert refused.status == "invalid"
    assert [(error.node, error.kind) for error in refused.errors] == [("sampler", "value_smaller_than_min")]

    wrong_latent = prompt(decoder_input="latent")
    wrong_latent["latent"]["class_type"] = "EmptySD3LatentImage"
    failed = comfy.run(wrong_latent)
    assert failed.status == "error"
    assert [(error.node, error.kind) for error in failed.errors] == [("decoder", "RuntimeError")]
    assert "channels" in failed.message


@pytest.fixture
def picture_name(comfy: ComfyServer, tmp_path: Path) -> str:
    """The name of an uploaded picture."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "orange").save(path)
    return comfy.upload_image(path)


def test_converted_workflow_runs(comfy: ComfyServer, picture_name: str) -> None:
    request = graph.to_api(core_workflow(picture_name), comfy.object_info())
    del request["15"]  # its input is muted
    result = comfy.run(request)
    assert result.status == "success", result.message
    assert Image.open(result.file("10")).size == (64, 64)


def test_frontend_opens_converts_and_runs_the_workflow(
    frontend: Frontend, picture_name: str, tmp_path: Path
) -> None:
    workflow = core_workflow(picture_name)
    opened = frontend.load(workflow)
    assert opened.missing_nodes == []
    assert [value["widget"] for value in opened.unknown_values] == ["lora_name"]
    assert opened.errors == []
    assert opened.prompt == graph.to_api(workflow, frontend.server.object_info())

    workflow["nodes"] = [node for node in workflow["nodes"] if node["id"] < 13]
    workflow["links"] = [link for link in workflow["links"] if link[3] < 13]
    frontend.load(workflow)
    assert frontend.run().files.keys() == {"10"}
    assert Image.open(frontend.screenshot(tmp_path / "graph.png", 960, 540)).size == (960, 540)


def test_frontend_names_missing_nodes(frontend: Frontend) -> None:
    workflow = core_workflow("picture.png")
    workflow["nodes"][10]["type"] = "NoSuchNode"
    assert frontend.load(workflow).missing_nodes == ["NoSuchNode"]
