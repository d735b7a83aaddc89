"""A ComfyUI with face weights and a portrait, and the graphs that the tests vary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import sd1
from support.graph import node
from support.inside import Inside
from support.server import ComfyServer
from support.shared import make_once

MSID, MAPPER, EXPRESSION, DETECTOR = (
    "msid.pt",
    "mapping.pt",
    "epoch_20.pth",
    "face_detection_yunet_2023mar.onnx",
)
CHECKPOINT, CONTROLNET = "sd-v1-4.ckpt", "control_sd15_landmarks.pth"  # the names in the bundled workflows

Prompt = dict[str, Any]


@dataclass(frozen=True)
class Files:
    """Random weights in the official layouts, and a portrait."""

    msid: Path
    mapper: Path
    expression: Path
    wide_mapper: Path  # for Stable Diffusion 2
    checkpoint: Path
    controlnet: Path
    photo: Path


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory, official: Path, sd1_checkpoint: Path, sd1_controlnet: Path
) -> Files:
    """The files under the names that users have."""

    def write_pickles(folder: Path) -> None:
        torch.save({"state_dict": load_file(sd1_checkpoint)}, folder / CHECKPOINT)
        torch.save(load_file(sd1_controlnet), folder / CONTROLNET)

    pickles = make_once(tmp_path_factory, "pickles", write_pickles)
    photo = tmp_path_factory.mktemp("faces") / "example.png"
    os.link(official / "photo.png", photo)
    return Files(
        official / MSID,
        official / MAPPER,
        official / EXPRESSION,
        official / "wide.pt",
        pickles / CHECKPOINT,
        pickles / CONTROLNET,
        photo,
    )


@pytest.fixture(scope="session")
def pack(comfy: ComfyServer, files: Files, detector_file: Path) -> ComfyServer:
    """A running ComfyUI in which everything that the workflows name is in its place."""
    for file in (files.msid, files.mapper, files.expression, files.wide_mapper):
        comfy.place(file, "models", "face2diffusion", file.name)
    comfy.place(detector_file, "models", "face2diffusion", DETECTOR)
    comfy.place(files.checkpoint, "models", "checkpoints", CHECKPOINT)
    comfy.place(files.controlnet, "models", "controlnet", CONTROLNET)
    comfy.place(
        files.photo.read_bytes(), "input", "example.png"
    )  # newer versions refuse links in the input folder
    return comfy


@pytest.fixture(scope="session")
def inside(comfy: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The Python of the running ComfyUI, for the scripts of tests/comfy/inside."""
    running = Inside(comfy.checkout, tmp_path_factory.mktemp("inside"))
    yield running
    running.stop()


@pytest.fixture
def graph() -> Prompt:
    """Photo to a CLIP that knows S*; "clip" is the plain CLIP's node."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=sd1.CHECKPOINT),
        "encoder": node("LoadFaceEncoder", msid=MSID, mapper=MAPPER, expression="none", detector=DETECTOR),
        "photo": node("LoadImage", image="example.png"),
        "identity": node(
            "EncodeFaceIdentity",
            encoder=["encoder", 0],
            image=["photo", 0],
            alignment="detect",
            face_order="largest",
            face_index=0,
            min_score=0.6,
        ),
        "inject": node(
            "InjectSStar", clip=["model", 1], identity=["identity", 0], strength=1.0, placeholder="S*"
        ),
    }
