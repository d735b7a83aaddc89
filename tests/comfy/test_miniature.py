"""The miniature's checkpoint in a real, unpatched ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature import SIZE, load_evaluators, portraits, read_vocabulary, write_checkpoint
from face2diffusion.f2d.miniature.comfyui import WORKFLOW, in_miniature, install
from face2diffusion.f2d.miniature.evaluators import divide
from face2diffusion.f2d.miniature.prompts import PROMPTS, describe
from face2diffusion.f2d.miniature.widen import widen_words
from support import graph
from support.inside import Inside
from support.miniature import in_region, write_random_base
from support.server import REPOSITORY, ComfyServer

BUILT_IN = "miniature (built in)"  # in Load Face Encoder
ENOUGH = 10  # steps, half of what the workflows have
Prompt = dict[str, Any]


@torch.no_grad()
def test_it_computes_what_the_narrow_networks_compute(inside: Inside, tmp_path: Path):
    autoencoder, diffusion = write_random_base(tmp_path)
    write_checkpoint(tmp_path / "miniature.safetensors", tmp_path)
    prompts = [describe(facts, "a person") for facts in PROMPTS]
    tokens = [
        diffusion.tokenizer(prompt, padding="max_length", max_length=77).input_ids for prompt in prompts
    ]
    states = diffusion.text_encoder(torch.tensor(tokens[:2]))[0]
    noisy, time, image = torch.randn(2, 4, 16, 16), torch.tensor([17, 803]), torch.rand(1, 3, 64, 64) * 2 - 1
    latent = autoencoder.encode(image)
    narrow = {
        "prompts": prompts,
        "states": widen_words(states),
        "noisy": noisy,
        "time": time,
        "noise": diffusion.unet(noisy, time, states).sample,
        "image": image,
        "latent": latent,
        "decoded": autoencoder.decode(latent),
    }
    torch.save(narrow, tmp_path / "narrow.pt")
    numbers = list(read_vocabulary().values())
    found = inside.run("widened", [str(tmp_path / "miniature.safetensors"), str(tmp_path / "narrow.pt")])
    assert found["family"] == "SD15"
    assert found["ids"] == [[numbers[token] for token in row] for row in tokens], (
        "our words are whole tokens of CLIP"
    )
    assert max(found[part] for part in ("unet", "encoder", "decoder", "text")) < 2e-3, found


@pytest.fixture(scope="module")
def installed(comfy: ComfyServer) -> ComfyServer:
    """A running ComfyUI with the miniature in it, as `f2d demo --comfyui` leaves it."""
    (comfy.base / "user" / "default" / "workflows" / WORKFLOW).unlink(missing_ok=True)
    install(comfy.base, lambda message: None)
    return comfy


@pytest.fixture
def demo(installed: ComfyServer) -> Prompt:
    """The installed workflow, as the frontend posts it."""
    path = installed.base / "user" / "default" / "workflows" / WORKFLOW
    return graph.to_api(json.loads(path.read_text()), installed.object_info())


def of_kind(prompt: Prompt, kind: str) -> list[dict]:
    return [node["inputs"] for node in prompt.values() if node["class_type"] == kind]


def pictures(server: ComfyServer, prompt: Prompt) -> list[np.ndarray]:
    result = server.run(prompt, timeout=300)
    assert result.status == "success", result.message
    (save,) = (name for name, node in prompt.items() if node["class_type"] == "SaveImage")
    return [load_photo(path) for path in result.files[save]]


def likeness(images: Sequence[np.ndarray], *names: str) -> np.ndarray:
    """The judge's cosines of pictures, in rows, with portraits."""
    verifier, _ = load_evaluators()
    return (
        verifier.embed(images) @ verifier.embed([load_photo(portraits()[name]) for name in names]).T
    ).numpy()


def test_two_people_are_told_apart_and_the_place_is_recognized(installed: ComfyServer, demo: Prompt):
    found = {}
    of_kind(demo, "KSampler")[0]["steps"] = ENOUGH
    for name in ("ada", "chidi"):
        of_kind(demo, "LoadImage")[0]["image"] = f"miniature_{name}.png"
        images = pictures(installed, demo)
        assert [image.shape for image in images] == [(SIZE, SIZE, 3)] * 4
        found[name] = likeness(images, "ada", "chidi")
        _, attributes = load_evaluators()
        places = [facts.place for facts in attributes.recognize(images)]
        assert places.count("at the taj mahal in india") >= 3, places
    assert (found["ada"][:, 0] > found["ada"][:, 1]).all(), found
    assert (found["chidi"][:, 1] > found["chidi"][:, 0]).all(), found


def test_it_is_there_without_a_file(installed: ComfyServer, demo: Prompt):
    of_kind(demo, "EmptyLatentImage")[0]["batch_size"] = 1
    of_kind(demo, "KSampler")[0]["steps"] = 2
    from_files = pictures(installed, demo)
    of_kind(demo, "LoadFaceEncoder")[0].update(msid=BUILT_IN, mapper=BUILT_IN, expression=BUILT_IN)
    np.testing.assert_array_equal(pictures(installed, demo), from_files)


def test_each_region_has_its_person(installed: ComfyServer):
    """The bundled workflow two_people, in the miniature's size and words."""
    bundled = json.loads((REPOSITORY / "workflows" / "two_people.json").read_text())
    workflow = in_miniature(bundled, ("ada", "chidi"), in_region, (SIZE * 3 // 2, SIZE))
    prompt = graph.to_api(workflow, installed.object_info())
    of_kind(prompt, "EmptyLatentImage")[0]["batch_size"] = 2
    of_kind(prompt, "KSampler")[0]["steps"] = ENOUGH
    lefts, rights = zip(*(divide(image) for image in pictures(installed, prompt)), strict=True)
    left, right = likeness(lefts, "ada", "chidi"), likeness(rights, "chidi", "ada")
    found = np.concatenate([left, right])
    assert (found[:, 0] > found[:, 1]).all(), found
