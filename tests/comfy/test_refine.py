"""Refine Identity in a real ComfyUI: gradients through its own networks, of which nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from face2diffusion.f2d import FaceIdentity
from support.graph import node
from support.inside import Inside
from support.server import ComfyServer

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def refined(inside: Inside, sd1_checkpoint: Path) -> dict[str, Any]:
    """What `inside/refining.py` found, once for each ComfyUI."""
    return inside.run("refining", str(sd1_checkpoint))


def test_words_move_reproducibly_and_with_the_patches_of_the_model(refined: dict[str, Any]) -> None:
    assert refined["moved"] > 0.005, "Adam's first step is 1 % of words of size 1"
    assert refined["again"] and not refined["patched"]


def test_model_and_clip_are_left_as_they_were(refined: dict[str, Any]) -> None:
    assert refined["changed"] == []


def test_the_denoiser_predicts_what_the_sampler_sees(refined: dict[str, Any]) -> None:
    assert refined["sampler"] < 1e-5


def test_half_precision_weights_give_the_same_direction(refined: dict[str, Any]) -> None:
    dtype, agreement = refined["half"]
    assert dtype == "torch.bfloat16" and agreement > 0.95


def test_a_run_shows_its_progress_and_can_be_canceled_at_any_step(refined: dict[str, Any]) -> None:
    assert refined["progress"] == [[1, 1, True]], "with a picture of the loss"
    assert refined["cancelled"] == "InterruptProcessingException" and refined["cancelled_after"] == 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("mask", "The mask is empty"),
        ("masks", "3 masks for 2 photos"),
        ("wide", "768 wide; the words are 1024 wide. Connect the MODEL of an SD 1.x"),
        ("inpainting", "9 channels"),
    ],
)
def test_a_mistake_is_named(refined: dict[str, Any], mistake: str, message: str) -> None:
    assert message in refined[mistake] and refined[mistake].startswith("ValueError")


def test_a_refined_identity_is_cached_saved_and_injected(pack: ComfyServer, graph: Prompt) -> None:
    graph["refine"] = node(
        "F2DRefineIdentity",
        model=["model", 0],
        clip=["model", 1],
        vae=["model", 2],
        identity=["identity", 0],
        image=["photo", 0],
        steps=1,
        strength=0.4,
        seed=0,
        alignment="detect",
        face_order="largest",
        face_index=0,
        min_score=0.6,
        size=64,
    )
    graph["save"] = node("F2DSaveIdentity", identity=["refine", 0], filename="refined", overwrite=True)
    result = pack.run(graph, timeout=300)
    assert result.status == "success", result.message
    saved = FaceIdentity.load(pack.base / "models" / "face2diffusion" / "identities" / "refined.safetensors")
    assert saved.refinement is not None and saved.refinement.offset.abs().max() > 0
    graph["inject"]["inputs"]["identity"] = ["refine", 0]
    graph["positive"] = node("CLIPTextEncode", clip=["inject", 0], text="A photo of S*")
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["sample"] = node(
        "KSampler",
        model=["model", 0],
        positive=["positive", 0],
        negative=["positive", 0],
        latent_image=["latent", 0],
        seed=0,
        steps=1,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=["model", 2])
    graph["image"] = node("SaveImage", images=["decode", 0], filename_prefix="refined")
    again = pack.run(graph, timeout=300)
    assert again.status == "success", again.message
    assert "refine" in again.cached and again.file("image").is_file()
