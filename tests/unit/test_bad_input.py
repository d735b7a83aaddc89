"""What people really do wrong, as a table: every error says what was expected, what came, and what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceExpression, FaceIdentity
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.face.alignment import ARCFACE_TEMPLATE, align_expression
from face2diffusion.f2d.face.detection import Face, NoFaceError, YuNet, load_detector
from face2diffusion.f2d.image import from_comfy, load_photo, save_png
from face2diffusion.f2d.networks.mapping import MapperConfig, MappingNetwork, load_mapper
from face2diffusion.f2d.networks.msid import MSIDConfig, load_msid
from face2diffusion.f2d.options import FaceChoice
from face2diffusion.f2d.prompt.injection import Subject, check_placeholder, isolate, replace_placeholders
from PIL import Image
from safetensors.torch import save_file
from support.official import write_mapper, write_msid

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:8f2383e4\nsize 232589\n"
WEB_PAGE = b"\n<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>"
OUTSIDE = ARCFACE_TEMPLATE + 5000


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return open, (self.marker, "w")


class Everyone:
    """A detector that finds two faces in every photo."""

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        return [Face(np.array([x, 0.0, 100, 100]), ARCFACE_TEMPLATE + (x, 0), 0.9) for x in (0, 200)]


@dataclass
class Bench:
    """What a case needs."""

    folder: Path  # empty
    files: Path  # msid.pt and mapping.pt, small
    encoder: FaceEncoder
    portrait: np.ndarray

    def write(self, name: str, content: Any) -> Path:
        """Write bytes, text, a picture, or anything else as torch does."""
        path = self.folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            torch.save(content, path)
        return path

    def cut(self, source: Path, name: str, share: float = 0.6) -> Path:
        """Write the beginning of a file."""
        content = source.read_bytes()
        return self.write(name, content[: int(len(content) * share)])

    def msid(self, **changes: Any) -> dict[str, torch.Tensor]:
        """The small encoder's tensors."""
        return {**torch.load(self.files / "msid.pt", weights_only=True), **changes}

    def ours(self, kind: str, config: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
        """Write a file of ours with any text as its config."""
        text = config if isinstance(config, str) else json.dumps(config)
        tensors = tensors or (
            self.msid() if kind == "msid" else torch.load(self.files / "mapping.pt", weights_only=True)
        )
        save_file(tensors, self.folder / "ours.safetensors", {"f2d.kind": kind, "f2d.config": text})
        return self.folder / "ours.safetensors"

    def identity(self, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
        """Write an identity file with any metadata."""
        entries = {"f2d.kind": "identity", "version": "1", "msid": "abc", "photos": "1", **metadata}
        save_file(
            {"v_id": torch.zeros(256)} if tensors is None else tensors,
            self.folder / "identity.safetensors",
            entries,
        )
        return self.folder / "identity.safetensors"

    def crop_face(self, alignment: str = "detect", **choice: Any) -> Any:
        """Look for a face in the portrait with a detector that finds two."""
        return FaceEncoder(self.encoder.msid, self.encoder.mapper, detector=Everyone()).crop_face(
            self.portrait, alignment, FaceChoice(**choice)
        )

    def encode(self, **weights: float) -> torch.Tensor:
        """Compute S* with one weight of MSID or mapper spoilt."""
        msid, mapper = load_msid(read(self.files / "msid.pt")), load_mapper(read(self.files / "mapping.pt"))
        for name, value in weights.items():
            {"msid": msid.norms["layer_3"][1].bias, "mapper": mapper.i2t_last.fc_out.bias}[name].data[0] = (
                value
            )
        encoder = FaceEncoder(msid, mapper)
        return encoder.words(encoder.identify_crops([self.portrait[:112, :112]]))


@pytest.fixture
def bench(tmp_path: Path, small_files: Path, small: FaceEncoder, portrait: np.ndarray) -> Bench:
    return Bench(tmp_path, small_files, small, portrait)


class Case(NamedTuple):
    name: str
    do: Callable[[Bench], Any]
    expected: str  # what the message must say, each a regular expression
    got: str
    advice: str
    error: type[Exception] = ValueError


def check(case: Case, bench: Bench) -> None:
    with pytest.raises(case.error) as caught:
        case.do(bench)
    message = str(caught.value)
    for part in (case.expected, case.got, rf"[.!?] .*{case.advice}"):
        assert re.search(part, message, re.DOTALL), f"Expected '{part}' in the message, got: {message}"
    assert len(message) < 1200, f"Expected a message that can be read, got {len(message)} characters"


PICTURES = [
    Case(
        "missing photo",
        lambda b: load_photo(b.folder / "no.png"),
        "The photo",
        "does not exist",
        "Check the path",
        FileNotFoundError,
    ),
    Case(
        "photo above the folder",
        lambda b: load_photo("../../../no.png"),
        "The photo",
        "does not exist",
        "Check",
        FileNotFoundError,
    ),
    Case(
        "no path at all",
        lambda b: load_photo(""),
        "The photo ''",
        "does not exist",
        "Check the path",
        FileNotFoundError,
    ),
    Case("folder as photo", lambda b: load_photo(b.folder), "not a photo", "is a folder", "Name one file"),
    Case(
        "photo of 0 bytes",
        lambda b: load_photo(b.write("a.png", b"")),
        "The photo",
        "0 bytes",
        "Copy or download it again",
    ),
    Case(
        "photo of 1 pixel",
        lambda b: load_photo(b.write("a.png", b.portrait[:1, :1])),
        "at least 16 px",
        "1x1 px",
        "larger photo",
    ),
    Case(
        "array of 1 pixel",
        lambda b: load_photo(b.portrait[:1, :1]),
        "at least 16 px",
        "1x1 px",
        "Use a larger photo",
    ),
    Case(
        "photo of 1 row",
        lambda b: load_photo(b.write("a.png", b.portrait[:1])),
        "at least 16 px",
        "512x1 px",
        "larger photo",
    ),
    Case(
        "text as photo",
        lambda b: load_photo(b.write("a.jpg", b"hello" * 99)),
        "PNG, JPEG",
        "not an image",
        "Save it as",
    ),
    Case(
        "web page as photo",
        lambda b: load_photo(b.write("a.jpg", WEB_PAGE)),
        "PNG, JPEG",
        "not an image",
        "Save it as",
    ),
    Case(
        "weight file as photo",
        lambda b: load_photo(b.files / "msid.pt"),
        "PNG, JPEG",
        "not an image",
        "Save it as PNG or JPEG",
    ),
    Case(
        "JPEG that breaks off",
        lambda b: load_photo(b.cut(b.write("b.jpg", b.portrait), "a.jpg")),
        "damaged",
        "is damaged or truncated",
        "download it",
    ),
    Case(
        "PNG that breaks off",
        lambda b: load_photo(b.cut(b.write("b.png", b.portrait), "a.png")),
        "damaged",
        "is damaged or truncated",
        "download it",
    ),
    Case(
        "WebP that breaks off",
        lambda b: load_photo(b.cut(b.write("b.webp", b.portrait), "a.webp")),
        "damaged",
        "is damaged or truncated",
        "download it",
    ),
    Case(
        "PNG with a damaged middle",
        lambda b: load_photo(b.write("a.png", spoil(b.write("b.png", b.portrait)))),
        "damaged",
        "is damaged or truncated",
        "download it",
    ),
    Case(
        "photo of 200 megapixels",
        lambda b: load_photo(large(b, 20000, 10000)),
        "more than 178 megapixels",
        r"large\.png",
        "Scale",
    ),
    Case(
        "photo of 40,000 px width",
        lambda b: load_photo(large(b, 40000, 20)),
        "at most 32766 px",
        "40000x20 px",
        "Scale it down or crop",
    ),
    Case(
        "floats up to 255",
        lambda b: load_photo(b.portrait.astype(float)),
        r"must be in \[0, 1\]",
        r"\[0, 255\]",
        "by 255",
    ),
    Case(
        "floats down to -1",
        lambda b: load_photo(b.portrait / 127.5 - 1),
        r"must be in \[0, 1\]",
        r"\[-1, 1\]",
        "by 255",
    ),
    Case(
        "NaN in a photo",
        lambda b: load_photo(np.full((20, 20, 3), np.nan)),
        "values that are",
        "NaN or infinity",
        "Check the step",
    ),
    Case(
        "infinity in a photo",
        lambda b: load_photo(np.full((20, 20), np.inf)),
        "values that are",
        "NaN or infinity",
        "Check the step",
    ),
    Case(
        "array of whole numbers",
        lambda b: load_photo(b.portrait.astype(int)),
        "uint8, uint16 or float",
        "int64",
        "Convert",
    ),
    Case(
        "array of booleans",
        lambda b: load_photo(b.portrait > 9),
        "uint8, uint16 or float",
        "bool",
        "Convert it first",
    ),
    Case(
        "two channels",
        lambda b: load_photo(b.portrait[:, :, :2]),
        r"must be \(H, W\)",
        r"\(512, 512, 2\)",
        "channels last",
    ),
    Case(
        "channels first",
        lambda b: load_photo(b.portrait.transpose(2, 0, 1)),
        r"\(H, W, 3\)",
        r"\(3, 512, 512\)",
        "channels last",
    ),
    Case(
        "batch as a photo",
        lambda b: load_photo(b.portrait[None]),
        r"must be \(H, W\)",
        r"\(1, 512, 512, 3\)",
        "channels last",
    ),
    Case(
        "None as photo",
        lambda b: load_photo(None),
        "a path, an array or a PIL image",
        "NoneType",
        "Convert it first",
    ),
    Case(
        "tensor as photo",
        lambda b: load_photo(torch.zeros(3, 20, 20)),
        "a path, an array or a PIL image",
        "Tensor",
        "Convert it first",
    ),
    Case(
        "list of photos",
        lambda b: load_photo(["a.png"]),
        "a path, an array or a PIL image",
        "list",
        "Convert it first",
    ),
    Case(
        "IMAGE that is none",
        lambda b: from_comfy(b.portrait),
        "An IMAGE has the shape",
        "ndarray",
        "Connect an IMAGE",
    ),
    Case(
        "IMAGE without batch",
        lambda b: from_comfy(torch.zeros(20, 20, 3)),
        "An IMAGE has the shape",
        r"\(20, 20, 3\)",
        "Connect an IMAGE",
    ),
    Case(
        "IMAGE with an empty batch",
        lambda b: from_comfy(torch.zeros(0, 20, 20, 3)),
        "empty batch",
        "empty batch",
        "Check the node",
    ),
    Case(
        "IMAGE with NaN",
        lambda b: from_comfy(torch.full((1, 20, 20, 3), torch.nan)),
        "NaN or infinity",
        "NaN",
        "Check the node",
    ),
    Case(
        "IMAGE of 1 pixel",
        lambda b: from_comfy(torch.zeros(1, 1, 1, 3)),
        "at least 16 px",
        "1x1 px",
        "larger photo",
    ),
    Case(
        "latent as IMAGE",
        lambda b: from_comfy(torch.zeros(1, 4, 64, 64)),
        r"\(B, H, W, 3\)",
        r"64, 64",
        ".",
    ),
]

FACES = [
    Case(
        "no detector",
        lambda b: b.encoder.identify(b.portrait),
        "No detector",
        "find faces",
        "Load the encoder with one",
    ),
    Case("no photo", lambda b: b.encoder.identify(), "no photo", "identify", "Give at least one"),
    Case(
        "face index too large",
        lambda b: b.crop_face(index=2),
        "no face 2",
        ": 2 face",
        "index from 0 to 1",
    ),
    Case(
        "face index below 0",
        lambda b: b.crop_face(index=-1),
        "no face -1",
        ": 2 face",
        "index from 0 to 1",
    ),
    Case(
        "unknown order",
        lambda b: b.crop_face(order="biggest"),
        "one of largest, left to right",
        "'biggest'",
        "Choose one",
    ),
    Case(
        "unknown alignment",
        lambda b: b.crop_face(alignment="ffhq"),
        "one of detect, FFHQ, 112 px",
        "'ffhq'",
        "Choose one",
    ),
    Case(
        "wide photo as FFHQ",
        lambda b: b.encoder.crop_face(b.portrait[:200], "FFHQ"),
        "square",
        "512x200 px",
        "Set the alignment to 'detect'",
    ),
    Case(
        "wide photo as crop",
        lambda b: b.encoder.crop_face(b.portrait[:200], "112 px"),
        "square",
        "512x200 px",
        "Set the alignment to 'detect'",
    ),
    Case(
        "four landmarks",
        lambda b: b.crop_face(landmarks=ARCFACE_TEMPLATE[:4]),
        r"shape \(5, 2\) or \(68, 2\)",
        "38.29",
        "Give eyes, nose tip",
    ),
    Case(
        "landmarks in space",
        lambda b: b.crop_face(landmarks=np.ones((5, 3))),
        r"shape \(5, 2\)",
        r"1\., 1\.",
        "Give eyes, nose tip and mouth",
    ),
    Case(
        "ragged landmarks",
        lambda b: b.crop_face(landmarks=[(1, 2), (3,)]),
        r"shape \(5, 2\)",
        r"\[\(1, 2\), \(3,\)\]",
        "Give eyes, nose tip",
    ),
    Case(
        "text as landmarks",
        lambda b: b.crop_face(landmarks="1,2 3,4"),
        r"shape \(5, 2\)",
        "'1,2 3,4'",
        "Give eyes, nose tip and mouth corners",
    ),
    Case(
        "NaN in landmarks",
        lambda b: b.crop_face(landmarks=ARCFACE_TEMPLATE * np.nan),
        "finite values",
        "nan",
        "Give eyes, nose tip and mouth",
    ),
    Case(
        "landmarks all at one place",
        lambda b: b.crop_face(landmarks=np.full((5, 2), 99)),
        "coincide",
        "99",
        "order and units",
    ),
    Case(
        "landmarks from 0 to 1",
        lambda b: b.crop_face(landmarks=ARCFACE_TEMPLATE / 512),
        "coincide",
        r"\[\[0\.07",
        "units .px.",
    ),
    Case(
        "landmarks outside",
        lambda b: b.crop_face(landmarks=OUTSIDE),
        "outside the 512x512 px photo",
        r"\[\[5038",
        "Use another photo",
    ),
    Case(
        "expression outside",
        lambda b: align_expression(b.portrait, OUTSIDE),
        "outside the 512x512 px",
        r"\[\[5038",
        "Use another photo",
    ),
    Case(
        "expression at one place",
        lambda b: align_expression(b.portrait, np.ones((5, 2))),
        "coincide",
        r"\[\[1\.0",
        "another photo",
    ),
    Case(
        "NaN in expression",
        lambda b: align_expression(b.portrait, OUTSIDE * np.nan),
        "not finite",
        "nan",
        "Use another photo",
    ),
    Case(
        "expression without a network",
        lambda b: express(b),
        "No expression network",
        "is loaded",
        r"Load Deep3DFaceRecon's epoch_20\.pth",
    ),
    Case(
        "expression of another width",
        lambda b: b.encoder.words(known(b), FaceExpression(torch.zeros(9))),
        r"\(64,\)",
        r"\(9,\)",
        "this encoder",
    ),
    Case(
        "identity of another encoder",
        lambda b: b.encoder.words(FaceIdentity(torch.zeros(256), "f00")),
        "did not make this identity",
        "f00",
        "Encode the",
    ),
    Case(
        "identity without provenance",
        lambda b: b.encoder.words(FaceIdentity(torch.zeros(256), "")),
        "did not make this identity",
        "unknown",
        "Encode",
    ),
    Case(
        "damaged MSID weights",
        lambda b: b.encode(msid=np.nan),
        "identity features",
        "NaN",
        "Download it again",
    ),
    Case(
        "damaged mapper weights",
        lambda b: b.encode(mapper=np.inf),
        "The words",
        "NaN or infinity",
        "Get the files again",
    ),
    Case(
        "features of another width",
        lambda b: b.encoder.mapper(torch.zeros(1, 9)),
        r"\(B, 256\)",
        r"\(1, 9\)",
        "Use the mapper",
    ),
    Case(
        "expression into the mapper",
        lambda b: small_mapper(64)(torch.zeros(1, 9), torch.zeros(1, 3)),
        r"\(1, 64\)",
        r"\(1, 3\)",
        "Use its own",
    ),
    Case(
        "expression into no input",
        lambda b: small_mapper(0)(torch.zeros(1, 9), torch.zeros(1, 3)),
        "without expression guidance",
        "trained",
        "Disconnect the expression",
    ),
]

FILES = [
    Case(
        "missing MSID",
        lambda b: read(b.folder / "msid.pt"),
        "a weight file",
        "does not exist",
        "f2d download",
        FileNotFoundError,
    ),
    Case("folder as a file", lambda b: read(b.folder), "a weight file", "is a folder", "Name one file in it"),
    Case(
        "file of 0 bytes",
        lambda b: read(b.write("a.pt", b"")),
        "a weight file",
        "0 bytes",
        "Download it again",
    ),
    Case(
        "Git-LFS pointer",
        lambda b: read(b.write("a.pt", LFS_POINTER)),
        "a weight file",
        "Git-LFS pointer of 75 bytes",
        "git lfs pull",
    ),
    Case(
        "web page",
        lambda b: read(b.write("msid.pt", WEB_PAGE)),
        "a weight file",
        "a web page",
        "through a browser",
    ),
    Case(
        "web page as safetensors",
        lambda b: read(b.write("a.safetensors", WEB_PAGE)),
        "a weight file",
        "a web page",
        "through a browser",
    ),
    Case(
        "text",
        lambda b: read(b.write("a.pt", b"hello" * 99)),
        r"tensors|weight file",
        r"a\.pt' is damaged",
        "Get|Download",
    ),
    Case(
        ".pt that breaks off",
        lambda b: read(b.cut(b.files / "msid.pt", "a.pt")),
        "weight file",
        "damaged",
        "(Get|Download) it again",
    ),
    Case(
        ".pt of 10 bytes",
        lambda b: read(b.cut(b.files / "msid.pt", "a.pt", 1e-5)),
        "weight file|tensors",
        "damaged",
        "Get|Download",
    ),
    Case(
        "old .pt that breaks off",
        lambda b: read(b.cut(old_format(b), "a.pt", 0.999)),
        "weight file|tensors",
        "damaged",
        "Get|Download",
    ),
    Case(
        "old .pt cut in its head",
        lambda b: read(b.cut(old_format(b), "a.pt", 0.01)),
        "weight file|tensors",
        "damaged",
        "Get|Download",
    ),
    Case(
        ".safetensors that breaks off",
        lambda b: read(b.cut(b.ours("msid", {}), "a.safetensors")),
        r"\.safetensors file",
        "damaged",
        "(Get|Download) it again",
    ),
    Case(
        "pickle named .safetensors",
        lambda b: read(rename(b, "a.safetensors")),
        r"\.safetensors file",
        "damaged",
        "(Get|Download) it again",
    ),
    Case(
        "pickle of a list",
        lambda b: read(b.write("a.pt", [1, 2])),
        "named tensors",
        "list",
        "Choose a state dict",
    ),
    Case(
        "pickle of one tensor",
        lambda b: read(b.write("a.pt", torch.zeros(9))),
        "named tensors",
        "Tensor",
        "Choose a state dict",
    ),
    Case(
        "pickle of nothing",
        lambda b: read(b.write("a.pt", {})),
        "named tensors",
        "dict",
        "Choose a state dict",
    ),
    Case(
        "pickle with numbers",
        lambda b: read(b.write("a.pt", {"a": torch.zeros(1), "b": 3})),
        "more than tensors",
        "'b' has the type int",
        "Choose",
    ),
    Case(
        "pickle of another class",
        lambda b: read(b.write("a.pt", {"a": Path("x")})),
        "than tensors",
        "holds other objects",
        "Get the file",
    ),
    Case(
        "metadata that is no JSON",
        lambda b: read(b.ours("msid", "{broken")),
        "'f2d.config' is not JSON",
        "line 1",
        "Get the file again",
    ),
    Case(
        "config that is a list",
        lambda b: load_msid(read(b.ours("msid", [1]))),
        "not a MSIDConfig",
        "damaged",
        "Update the pack",
    ),
    Case(
        "config from the future",
        lambda b: load_msid(read(b.ours("msid", {"glow": 1}))),
        "not a MSIDConfig",
        "glow",
        "Update",
    ),
    Case(
        "mapper from the future",
        lambda b: load_mapper(read(b.ours("mapper", {"glow": 1}))),
        "MapperConfig",
        "glow",
        "Update the pack",
    ),
    Case(
        "config with text",
        lambda b: load_msid(read(b.ours("msid", {"embed_dim": "64"}))),
        "not a MSIDConfig",
        "damaged",
        "Update the pack",
    ),
    Case(
        "config with half a depth",
        lambda b: load_msid(read(b.ours("msid", {"depth": 4.5}))),
        "not a MSIDConfig",
        "depth is 4.5|4.5",
        "Up",
    ),
    Case(
        "config with no heads",
        lambda b: load_msid(read(b.ours("msid", {"heads": 0}))),
        "not a MSIDConfig",
        "heads=0",
        "Update the pack",
    ),
    Case(
        "config of another network",
        lambda b: load_msid(read(b.ours("msid", {"depth": 13}))),
        "MSIDEncoder, which has",
        "missing",
        "Choose",
    ),
    Case(
        "unknown positional",
        lambda b: load_mapper(read(b.ours("mapper", {"positional": "after"}))),
        "MapperConfig",
        "'after'",
        "Update",
    ),
    Case(
        "mapper of size 0",
        lambda b: load_mapper(read(b.ours("mapper", {"word_dim": 0}))),
        "MapperConfig",
        "word_dim=0",
        "Update the pack",
    ),
    Case(
        "file that lies",
        lambda b: load_mapper(read(b.ours("mapper", "null", b.msid()))),
        "a mapping network",
        "too few",
        "Choose another",
    ),
    Case(
        "MSID file that lies",
        lambda b: load_msid(read(b.ours("msid", "null", {"a": torch.zeros(1)}))),
        "MSID encoder",
        "too few",
        "Choose",
    ),
    Case(
        "MSID with a tensor too many",
        lambda b: msid(b, extra=torch.zeros(1)),
        "MSIDEncoder, which has",
        r"unknown \(extra\)",
        "Choose",
    ),
    Case(
        "MSID with a flat tensor",
        lambda b: msid(b, cls_token=torch.zeros(9)),
        "MSIDEncoder, which has",
        r"cls_token \(9,\)",
        "Choose another",
    ),
    Case(
        "MSID with too deep a norm",
        lambda b: msid(b, **{"norms.layer_9.1.bias": torch.zeros(64)}),
        "from 1 to 4",
        "10",
        "Choose",
    ),
    Case(
        "depths it does not have",
        lambda b: load_msid(read(b.files / "msid.pt"), (4, 5)),
        "from 1 to 4",
        r"\(4, 5\)",
        "Choose depths",
    ),
    Case(
        "depths in disorder",
        lambda b: MSIDConfig(depths=(6, 3)),
        "must increase",
        r"\(6, 3\)",
        "Choose depths",
    ),
    Case("no depths", lambda b: MSIDConfig(depths=()), "must increase", r"\(\)", "Choose depths"),
    Case(
        "sizes that do not divide",
        lambda b: MSIDConfig(image_size=100),
        "divisible by the patch size",
        "100 / 8",
        "Choose another",
    ),
    Case(
        "positional that is none",
        lambda b: MapperConfig(positional="x"),
        "'replace' or 'before'",
        "'x'",
        "Choose",
    ),
    Case(
        "mapper of another width",
        lambda b: load(b, write_mapper(b.folder / "a.pt", id_dim=9, hidden_dim=8)),
        "gives 256",
        "takes 9",
        "Use the",
    ),
    Case(
        "MSID of another width",
        lambda b: load(b, msid=write_msid(b.folder / "a.pt", width=32, depth=2, layers=(1,))),
        "32",
        "256",
        "Use",
    ),
    Case(
        "missing detector",
        lambda b: YuNet(b.folder / "a.onnx"),
        "the YuNet detector",
        "does not exist",
        "f2d download",
        FileNotFoundError,
    ),
    Case(
        "folder as detector", lambda b: YuNet(b.folder), "the YuNet detector", "is a folder", "Name one file"
    ),
    Case(
        "detector of 0 bytes",
        lambda b: YuNet(b.write("a.onnx", b"")),
        "the YuNet detector",
        "0 bytes",
        "Download it again",
    ),
    Case(
        "Git-LFS pointer as detector",
        lambda b: YuNet(b.write("a.onnx", LFS_POINTER)),
        "the YuNet",
        "Git-LFS pointer of 75 bytes",
        "Download",
    ),
    Case(
        "web page as detector",
        lambda b: YuNet(b.write("a.onnx", WEB_PAGE)),
        "the YuNet detector",
        "a web page",
        "through a browser",
    ),
    Case(
        "noise as detector",
        lambda b: YuNet(b.write("a.onnx", bytes(range(256)) * 9)),
        "YuNet",
        "OpenCV .* cannot run",
        "Download",
    ),
]

IDENTITIES = [
    Case(
        "missing identity",
        lambda b: FaceIdentity.load(b.folder / "a.safetensors"),
        "a weight file",
        "does not exist",
        "Check",
        FileNotFoundError,
    ),
    Case(
        "identity of a newer format",
        lambda b: FaceIdentity.load(b.identity(version="3")),
        "newer than this pack's 2",
        "format 3",
        "Update the pack",
    ),
    Case(
        "identity with a broken version",
        lambda b: FaceIdentity.load(b.identity(version="x")),
        "metadata of the identity",
        "'x'",
        "Save it again",
    ),
    Case(
        "identity with a broken count",
        lambda b: FaceIdentity.load(b.identity(photos="")),
        "metadata of the identity",
        "is damaged",
        "Save it",
    ),
    Case(
        "identity without features",
        lambda b: FaceIdentity.load(b.identity({"x": torch.zeros(1)})),
        "saved identity",
        "this is",
        "Choose",
    ),
    Case(
        "identity of two vectors",
        lambda b: FaceIdentity.load(b.identity({"v_id": torch.zeros(2, 9)})),
        "no vector of finite features",
        r"\(2, 9\)",
        "Save it",
    ),
    Case(
        "identity of NaN",
        lambda b: FaceIdentity.load(b.identity({"v_id": torch.full((9,), torch.nan)})),
        "finite features",
        "NaN",
        "Save it",
    ),
    Case(
        "identity that breaks off",
        lambda b: FaceIdentity.load(b.cut(b.identity(), "a.safetensors")),
        r"\.safetensors file",
        "damaged",
        "(Get|Download) it again",
    ),
    Case(
        "photo as identity",
        lambda b: FaceIdentity.load(b.write("a.png", b.portrait)),
        "weight file|tensors",
        "damaged",
        "Get|Download",
    ),
    Case(
        "foreign identity for an encoder",
        lambda b: b.encoder.load_identity(b.identity()),
        "did not make",
        "another one did .abc.",
        "Encode the",
    ),
    Case(
        "folder to save into",
        lambda b: FaceIdentity(torch.zeros(2), "").save(b.folder),
        "cannot be written as a file",
        "is a folder",
        "Add a file",
        OSError,
    ),
    Case(
        "file as a folder",
        lambda b: FaceIdentity(torch.zeros(2), "").save(b.identity() / "a"),
        "cannot be written to",
        "identity",
        "Choose",
        OSError,
    ),
    Case(
        "picture into a file",
        lambda b: save_png(b.identity() / "a.png", b.portrait),
        "cannot be written to",
        "iden",
        "Choose",
        OSError,
    ),
]

PROMPTS = [
    Case(
        "empty placeholder",
        lambda b: check_placeholder(""),
        "placeholder is empty",
        "empty",
        r"such as 'S\*'",
    ),
    Case(
        "placeholder of spaces",
        lambda b: check_placeholder("   "),
        "placeholder is",
        "empty",
        "Type one",
    ),
    Case(
        "placeholder with a weight",
        lambda b: check_placeholder("S*:1.2"),
        "parentheses",
        r"'S\*:1\.2'",
        r"Use 'S\*'",
    ),
    Case(
        "placeholder in parentheses",
        lambda b: check_placeholder("(S*)"),
        "parentheses",
        r"'\(S\*\)'",
        r"Use 'S\*'",
    ),
    Case(
        "placeholder with a backslash",
        lambda b: check_placeholder("S\\*"),
        "backslashes",
        r"S\\",
        r"Use 'S\*'",
    ),
    Case(
        "placeholder of two lines", lambda b: check_placeholder("S\n*"), "line breaks", r"'S\\n", r"Use 'S\*'"
    ),
    Case(
        "placeholder as an embedding",
        lambda b: check_placeholder("embedding:alice"),
        "colons",
        "'embedding:alice'",
        r"Use 'S\*'",
    ),
    Case(
        "placeholder without tokens",
        lambda b: Subject("\u200b", (), torch.zeros(2, 4), torch.zeros(2, 4)),
        "letters",
        "no token",
        "Use",
    ),
    Case(
        "letter before S*",
        lambda b: isolate("a photo of xS*", ["S*"]),
        r"joins 'S\*' to another word",
        r"'xS\*'",
        "Put spaces",
    ),
    Case(
        "digit after S*",
        lambda b: isolate("a photo of S*2", ["S*"]),
        r"joins 'S\*' to another word",
        r"'S\*2'",
        "Put spaces",
    ),
    Case(
        "prompt without S*",
        lambda b: replace_placeholders("a chef", ["S*"]),
        r"does not contain 'S\*'",
        "'a chef'",
        "Write, for instance",
    ),
    Case(
        "empty prompt",
        lambda b: replace_placeholders("", ["S*"]),
        r"does not contain 'S\*'",
        "''",
        "Write, for instance",
    ),
    Case(
        "prompt without anybody",
        lambda b: replace_placeholders("x", ["S1*", "S2*"]),
        r"'S1\*' or 'S2\*'",
        "'x'",
        "Write, for instance",
    ),
]


def spoil(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    return bytes(content)


def large(bench: Bench, width: int, height: int) -> Path:
    Image.new("1", (width, height)).save(bench.folder / "large.png")
    return bench.folder / "large.png"


def known(bench: Bench) -> FaceIdentity:
    return FaceIdentity(torch.zeros(256), bench.encoder.msid_fingerprint)


def express(bench: Bench) -> FaceExpression:
    return bench.encoder.express(bench.portrait, landmarks=ARCFACE_TEMPLATE)


def small_mapper(exp_dim: int) -> MappingNetwork:
    return MappingNetwork(MapperConfig(id_dim=9, exp_dim=exp_dim, hidden_dim=8, word_dim=4))


def msid(bench: Bench, **changes: torch.Tensor) -> Any:
    return load_msid(read(bench.write("msid.pt", bench.msid(**changes))))


def load(bench: Bench, mapper: Path | None = None, msid: Path | None = None) -> FaceEncoder:
    return FaceEncoder.load(msid or bench.files / "msid.pt", mapper or bench.files / "mapping.pt")


def old_format(bench: Bench) -> Path:
    torch.save(
        {"a": torch.randn(3, 3), "b": torch.zeros(2)},
        bench.folder / "old.pt",
        _use_new_zipfile_serialization=False,
    )
    return bench.folder / "old.pt"


def rename(bench: Bench, name: str) -> Path:
    return bench.write(name, (bench.files / "mapping.pt").read_bytes())


@pytest.mark.parametrize("case", PICTURES + FACES + FILES + IDENTITIES + PROMPTS, ids=lambda case: case.name)
def test_message_says_what_was_expected_what_came_and_what_to_do(case: Case, bench: Bench) -> None:
    check(case, bench)


def test_table_has_no_case_twice() -> None:
    names = [case.name for case in PICTURES + FACES + FILES + IDENTITIES + PROMPTS]
    assert len(names) == len(set(names)) >= 60


# --- Faces that YuNet looks for ---


@pytest.mark.parametrize(
    ("photo", "choice", "expected", "got", "advice"),
    [
        (
            lambda p: np.full_like(p, 127),
            {},
            "No face in the 512x512 px photo scores 0.60 or more",
            "photo",
            "larger, frontal face",
        ),
        (
            lambda p: p[300:],
            {},
            "scores 0.60 or more",
            "photo",
            r"best candidate has 0\.\d\d.*Lower the minimum score",
        ),
        (
            lambda p: p,
            {"min_score": 0.99},
            "px photo scores 0.99 or more",
            "photo",
            r"best candidate has 0\.9..*Lower the minimum score",
        ),
        (
            lambda p: p[:16, :16],
            {},
            "No face in the 16x16 px photo scores 0.60 or more",
            "photo",
            "use a photo",
        ),
        (
            lambda p: p,
            {"index": 1},
            "no face 1",
            r"1 face\(s\)",
            "from 0 to 0, or lower the minimum",
        ),
        (
            lambda p: np.hstack([p, p]),
            {"index": 2},
            "no face 2",
            r"2 face\(s\)",
            "from 0 to 1",
        ),
    ],
    ids=["blank", "no face", "high score", "tiny", "one face", "two faces"],
)
def test_faces_that_are_not_there(
    bench: Bench, detector_file: Path, photo: Callable, choice: dict, expected: str, got: str, advice: str
) -> None:
    encoder = FaceEncoder(bench.encoder.msid, bench.encoder.mapper, detector=YuNet(detector_file))
    with pytest.raises(ValueError, match=f"{expected}.*{got}") as caught:
        encoder.identify(photo(bench.portrait), **choice)
    assert re.search(advice, str(caught.value))
    assert isinstance(caught.value, NoFaceError) == ("index" not in choice)


@pytest.mark.skipif(
    importlib.util.find_spec("face_alignment") is not None,
    reason="needs an environment without face_alignment",
)
def test_missing_package_of_the_other_detector_is_named() -> None:
    with pytest.raises(
        ImportError,
        match=r"needs the package face_alignment\. Run `pip install face-alignment`, or use YuNet",
    ):
        load_detector("FAN")


# --- Files in the wrong slot ---

SLOTS: dict[str, tuple[str, Callable[[Path, Bench], Any]]] = {
    "msid": ("an MSID encoder", lambda path, b: load(b, msid=path)),
    "mapper": ("a mapping network", lambda path, b: load(b, mapper=path)),
    "expression": (
        "an expression network",
        lambda path, b: FaceEncoder.load(b.files / "msid.pt", b.files / "mapping.pt", path),
    ),
    "identity": ("a saved identity", lambda path, b: FaceIdentity.load(path)),
    "detector": ("the YuNet detector", lambda path, b: YuNet(path)),
}
CALLED = {
    "msid": "an MSID encoder",
    "mapper": "a mapping network",
    "expression": "an expression network",
    "identity": "a saved identity",
    "words": "the words S*",
    "checkpoint": "a Stable Diffusion checkpoint",
    "controlnet": "a ControlNet",
    "lora": "a LoRA",
    "embedding": "a textual-inversion embedding",
    "clip": "a CLIP text encoder",
    "detector": "",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, small_files: Path) -> dict[str, Path]:
    """A small file of every kind that lies in people's model folders."""
    folder = tmp_path_factory.mktemp("zoo")
    one = torch.zeros(1)
    save(
        folder / "identity.safetensors",
        {"v_id": torch.zeros(256)},
        "identity",
        version="1",
        msid="abc",
        photos="1",
    )
    save(folder / "words.safetensors", {"words": torch.zeros(2, 768)}, "words")
    torch.save(
        {"net_recon": {"backbone.conv1.weight": one, "final_layers.1.weight": one}}, folder / "epoch_20.pth"
    )
    torch.save(
        {"state_dict": {"model.diffusion_model.out.2.bias": one}, "global_step": 9}, folder / "model.ckpt"
    )
    torch.save({"control_model.zero_convs.0.0.bias": one}, folder / "control.pth")
    save_file({"lora_te_text_model_encoder_layers_0.alpha": one}, folder / "lora.safetensors")
    save_file({"emb_params": torch.zeros(2, 768)}, folder / "embedding.safetensors")
    save_file({"text_model.final_layer_norm.bias": one}, folder / "clip.safetensors")
    (folder / "face.onnx").write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:" + bytes(range(256)))
    names = {
        "identity": "identity.safetensors",
        "words": "words.safetensors",
        "expression": "epoch_20.pth",
        "checkpoint": "model.ckpt",
    }
    names |= {
        "controlnet": "control.pth",
        "lora": "lora.safetensors",
        "embedding": "embedding.safetensors",
        "clip": "clip.safetensors",
    }
    files = {name: folder / file for name, file in names.items()} | {"detector": folder / "face.onnx"}
    return files | {"msid": small_files / "msid.pt", "mapper": small_files / "mapping.pt"}


@pytest.mark.parametrize(
    ("slot", "content"), [(slot, content) for slot in SLOTS for content in CALLED if slot != content]
)
def test_file_in_the_wrong_slot_is_called_by_its_name(
    slot: str, content: str, zoo: dict[str, Path], bench: Bench
) -> None:
    expected, use = SLOTS[slot]
    with pytest.raises(ValueError, match=re.escape(f"'{zoo[content]}'")) as caught:
        use(zoo[content], bench)
    message = str(caught.value)
    assert re.search(r"\. (Choose another file|Download|Get it again|Get the file)", message), (
        f"Expected advice, got: {message}"
    )
    if slot != "detector" and content != "detector":
        assert expected in message and f": this is {CALLED[content]}" in message
    if slot == "detector":
        assert message.endswith("from OpenCV Zoo again.")


def test_textual_inversion_pickle_is_refused(bench: Bench) -> None:
    path = bench.write(
        "alice.pt",
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "alice"},
    )
    with pytest.raises(
        ValueError, match="holds more than tensors: 'string_to_token' has the type dict. Choose"
    ):
        load(bench, msid=path)


# --- Code in pickles ---


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("slot", ["msid", "mapper", "expression", "identity"])
def test_code_in_a_pickle_never_runs(bench: Bench, how: str, slot: str) -> None:
    marker, path = bench.folder / "ran", bench.folder / "model.pt"
    content = {**bench.msid(), "code": Code(marker)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match=r"'.*model\.pt' is damaged, or .*\. Get "):
        SLOTS[slot][1](path, bench)
    assert not marker.exists()


def test_the_trap_itself_works(tmp_path: Path) -> None:
    with contextlib.closing(pickle.loads(pickle.dumps(Code(tmp_path / "ran")))):
        assert (tmp_path / "ran").exists()


# --- Writing ---


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 2000 bytes."""
    resource = pytest.importorskip(
        "resource", reason="needs a system with limits on file sizes (not Windows)"
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, b: FaceIdentity(torch.zeros(4096), "abc").save(path),
        lambda path, b: save(path, {"a": torch.randn(4096)}, "mapper"),
        lambda path, b: save_png(path, b.portrait),
    ],
    ids=["identity", "weights", "picture"],
)
def test_old_file_survives_a_full_disk(bench: Bench, write: Callable[[Path, Bench], None]) -> None:
    target = bench.folder / "old.safetensors"
    target.write_text("old")
    with (
        full_disk(),
        pytest.raises(OSError, match=r"'.*old\.safetensors' cannot be written .*\. Free some space"),
    ):
        write(target, bench)
    assert target.read_text() == "old"
    assert os.listdir(bench.folder) == ["old.safetensors"]


def test_interrupted_writing_leaves_no_temporary_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("face2diffusion.f2d.checkpoint.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        FaceIdentity(torch.zeros(2), "abc").save(bench.folder / "a.safetensors")
    assert os.listdir(bench.folder) == []


needs_permissions = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="needs a user whom permissions bind: not root, not Windows",
)


@needs_permissions
def test_read_only_folder_is_named(bench: Bench) -> None:
    bench.folder.chmod(0o500)
    with pytest.raises(
        PermissionError,
        match="The folder .* cannot be written to .*Permission denied.*Choose another",
    ):
        FaceIdentity(torch.zeros(2), "abc").save(bench.folder / "a.safetensors")
    bench.folder.chmod(0o700)
    assert os.listdir(bench.folder) == []


@needs_permissions
@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            load_photo,
            "cannot be read for lack of permission. Change its permissions",
        ),
        (read, "a weight file, cannot be read .Permission denied.. Check its permissions"),
        (
            YuNet,
            "the YuNet detector .* cannot be read .Permission denied.. Check its permissions",
        ),
    ],
)
def test_file_without_permission_is_named(bench: Bench, use: Callable[[Path], Any], message: str) -> None:
    path = bench.write("a.png", bench.portrait)
    path.chmod(0)
    with pytest.raises(ValueError, match=message):
        use(path)


# --- Odd but right ---


def turned(bench: Bench) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.rot90(bench.portrait, -1).copy()).save(
        bench.folder / "turned.jpg", exif=exif, quality=95
    )
    return bench.folder / "turned.jpg"


WORKS: dict[str, Callable[[Bench], Any]] = {
    "gray": lambda b: np.dot(b.portrait / 255, (0.299, 0.587, 0.114)),
    "RGBA": lambda b: np.dstack([b.portrait, b.portrait[:, :, 0]]),
    "floats": lambda b: b.portrait / 255,
    "16 bits": lambda b: b.portrait.astype(np.uint16) * 257,
    "gray JPEG": lambda b: b.write("a.jpg", np.asarray(Image.fromarray(b.portrait).convert("L"))),
    "JPEG turned by its EXIF entry": turned,
    "PNG of 16 bits": lambda b: write_deep(b),
    "palette GIF": lambda b: b.write("a.gif", b.portrait),
    "picture of another name": lambda b: b.write("a.png", b.portrait).rename(b.folder / "a.dat"),
    "path with ..": lambda b: b.write("a.png", b.portrait).parent / ".." / b.folder.name / "a.png",
    "PIL image": lambda b: Image.fromarray(b.portrait),
}


def write_deep(bench: Bench) -> Path:
    cv2.imwrite(str(bench.folder / "deep.png"), bench.portrait[:, :, ::-1].astype(np.uint16) * 257)
    return bench.folder / "deep.png"


@pytest.mark.parametrize("kind", WORKS)
def test_unusual_photos_have_nearly_the_usual_identity(
    bench: Bench, landmarks: np.ndarray, kind: str
) -> None:
    photo = (
        np.asarray(Image.fromarray(bench.portrait).convert("L").convert("RGB"))
        if "gray" in kind
        else bench.portrait
    )
    usual = bench.encoder.identify(photo, landmarks=landmarks).v_id
    unusual = bench.encoder.identify(WORKS[kind](bench), landmarks=landmarks).v_id
    assert torch.cosine_similarity(usual, unusual, dim=0) > (
        0.9 if "GIF" in kind or "JPEG" in kind else 0.999
    )


def test_smallest_picture_gives_an_identity(bench: Bench) -> None:
    assert bench.encoder.identify(bench.portrait[:16, :16], alignment="112 px").v_id.isfinite().all()


def test_prompt_of_nothing_but_the_placeholder_is_fine() -> None:
    assert isolate("S*", ["S*"]).strip() == "S*"
    assert replace_placeholders("S*", ["S*"]) == "a person"


def test_face_partly_outside_is_fine(bench: Bench, landmarks: np.ndarray) -> None:
    found = bench.encoder.crop_face(
        bench.portrait[:, 220:], choice=FaceChoice(landmarks=landmarks - (220, 0))
    )
    assert found.crop.any() and not found.crop[:, :20].any()


def test_detector_in_a_folder_with_any_letters_is_read(
    tmp_path: Path, detector_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read in Python: OpenCV cannot open such a path on Windows, so it must get none here."""
    path = tmp_path / "Müller 日本" / "yunet.onnx"
    path.parent.mkdir()
    path.write_bytes(detector_file.read_bytes())
    given = []
    create = cv2.FaceDetectorYN.create

    def record(*arguments: Any) -> Any:
        given.extend(arguments)
        return create(*arguments)

    record.__doc__ = create.__doc__
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", record)
    YuNet(path)
    if "bufferModel" in create.__doc__:
        assert str(path) not in [argument for argument in given if isinstance(argument, str)]


def test_missing_opencv_is_named_with_the_command() -> None:
    code = "import sys; sys.modules['cv2'] = None; import face2diffusion.f2d.encoder"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "ImportError: OpenCV is missing" in done.stderr
    assert "pip install opencv-python" in done.stderr
