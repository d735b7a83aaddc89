"""What a user can wire or type wrongly ends in a clear error of the right node, and the server lives on."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.server import ComfyServer, Result

Prompt = dict[str, Any]
MODELS = ("models", "face2diffusion")


def png(array: np.ndarray) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def run(pack: ComfyServer, graph: Prompt, text: str = "A photo of S*") -> Result:
    """Encode a prompt with S*, as far as the graph allows."""
    graph["text"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["inject", 0], "text": text}}
    graph["probe"] = {
        "class_type": "F2DProbeSaveConditioning",
        "inputs": {"conditioning": ["text", 0], "name": "bad"},
    }
    return pack.run(graph)


def photo(array: np.ndarray) -> Callable[[ComfyServer, Prompt], None]:
    """Another photo."""

    def change(pack: ComfyServer, graph: Prompt) -> None:
        pack.place(png(array), "input", "bad.png")
        graph["photo"]["inputs"]["image"] = "bad.png"

    return change


def value(node: str, **inputs: Any) -> Callable[[ComfyServer, Prompt], None]:
    """Other widget values or links of a node."""
    return lambda pack, graph: graph[node]["inputs"].update(inputs)


def file(content: bytes, slot: str, name: str) -> Callable[[ComfyServer, Prompt], None]:
    """A broken weight file in one of the loader's slots."""

    def change(pack: ComfyServer, graph: Prompt) -> None:
        pack.place(content, *MODELS, name)
        graph["encoder"]["inputs"][slot] = name

    return change


def conditioning(**inputs: Any) -> Callable[[ComfyServer, Prompt], None]:
    """S* Conditioning in place of the prompt node."""

    def change(pack: ComfyServer, graph: Prompt) -> None:
        values = {
            "clip": ["inject", 0],
            "prompt": "S*",
            "negative_prompt": "",
            "class_words": "a person",
            "subject_from": 0.0,
            **inputs,
        }
        graph["f2d"] = {"class_type": "F2DConditioning", "inputs": values}
        graph["f2d probe"] = {
            "class_type": "F2DProbeSaveConditioning",
            "inputs": {"conditioning": ["f2d", 0], "name": "bad f2d"},
        }

    return change


def twice(pack: ComfyServer, graph: Prompt) -> None:
    """Two people with one placeholder."""
    graph["first"] = {"class_type": "InjectSStar", "inputs": dict(graph["inject"]["inputs"])}
    graph["inject"]["inputs"]["clip"] = ["first", 0]


def reference(pack: ComfyServer, graph: Prompt) -> None:
    """An expression reference without its network."""
    graph["look"] = {
        "class_type": "ExpressionReference",
        "inputs": {"encoder": ["encoder", 0], "image": ["photo", 0], "strength": 1.0},
    }
    graph["inject"]["inputs"]["expression"] = ["look", 0]


NOISE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 232589\n"

CASES: dict[str, tuple[Callable[[ComfyServer, Prompt], None], str, str]] = {
    # what is done: (how, which node complains, what it says)
    "no face": (photo(NOISE), "identity", "scores 0.60 or more"),
    "one pixel": (photo(NOISE[:1, :1]), "identity", "has 1x1 px; each side needs at least 16 px"),
    "index too large": (
        value("identity", face_index=3),
        "identity",
        "There is no face 3: 1 face(s)",
    ),
    "index below zero": (value("identity", face_index=-1), "identity", "-1"),
    "an unknown order": (value("identity", face_order="smallest"), "identity", "smallest"),
    "an unknown alignment": (value("identity", alignment="none"), "identity", "none"),
    "not square though aligned": (
        lambda p, g: (photo(NOISE[:128])(p, g), value("identity", alignment="112 px")(p, g)),
        "identity",
        "is square; this one has 256x128",
    ),
    "no detector": (
        value("encoder", detector="none"),
        "identity",
        "No detector is loaded",
    ),
    "FAN without its package": (value("encoder", detector="FAN"), "encoder", "pip install face-alignment"),
    "swapped files": (
        value("encoder", msid="mapping.pt", mapper="msid.pt"),
        "encoder",
        "this is a mapping network, not an MSID encoder",
    ),
    "an expression network as mapper": (
        value("encoder", mapper="epoch_20.pth"),
        "encoder",
        "this is an expression network",
    ),
    "a mapper as expression network": (
        value("encoder", expression="mapping.pt"),
        "encoder",
        "not an expression network",
    ),
    "a missing file": (value("encoder", msid="gone.pt"), "encoder", "gone.pt"),
    "a name with ..": (value("encoder", msid="../checkpoints/tiny_sd1.safetensors"), "encoder", "tiny_sd1"),
    "zero bytes": (file(b"", "msid", "empty.pt"), "encoder", "has 0 bytes and is not a weight file"),
    "a truncated file": (
        file(b"PK\x03\x04" + bytes(1000), "mapper", "cut.pt"),
        "encoder",
        "cut.pt' is damaged",
    ),
    "a web page": (file(b"<!DOCTYPE html><html>", "msid", "page.pt"), "encoder", "is a web page, not"),
    "an LFS pointer": (file(LFS, "detector", "pointer.onnx"), "encoder", "a Git-LFS pointer of"),
    "a detector that is none": (
        file(b"onnx" * 500, "detector", "other.onnx"),
        "encoder",
        "as the YuNet detector",
    ),
    "a mapper for SD 2": (
        value("encoder", mapper="wide.pt"),
        "inject",
        "This is an SD1 CLIP 768 wide; the mapper's words are 1024 wide",
    ),
    "an empty placeholder": (
        value("inject", placeholder=" "),
        "inject",
        "The placeholder is empty",
    ),
    "a placeholder with parentheses": (value("inject", placeholder="(S*)"), "inject", "cannot be used in a"),
    "one placeholder for two": (twice, "inject", "'S*' is already taken by another person"),
    "an expression without its network": (reference, "look", "No expression network is loaded"),
    "S* inside a word": (
        conditioning(prompt="A photo of classS*"),
        "f2d",
        "'classS*' in the prompt joins 'S*' to another word",
    ),
    "F2D without S*": (
        conditioning(prompt="A photo of a chef"),
        "f2d",
        "'A photo of a chef' does not contain 'S*'",
    ),
    "F2D with an empty prompt": (conditioning(prompt=""), "f2d", "The prompt '' does not contain 'S*'"),
    "F2D with a plain CLIP": (
        conditioning(clip=["model", 1]),
        "f2d",
        "This CLIP has no S*",
    ),
    "F2D without class words": (
        conditioning(class_words=" ", subject_from=0.2),
        "f2d",
        "The class words are empty",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_right_node_says_what_is_wrong(pack: ComfyServer, graph: Prompt, name: str) -> None:
    change, node, message = CASES[name]
    change(pack, graph)
    result = run(pack, graph, "A photo of S*")
    assert result.errors, f"{name} went through"
    assert result.errors[0].node == node, result.message
    assert message in result.errors[0].message, result.message
    assert pack.get("/system_stats")["system"]["comfyui_version"] == pack.version, "the server lives"


BEFORE_THE_QUEUE: dict[str, tuple[Callable[[ComfyServer, Prompt], None], str, str]] = {
    "a missing MSID file": (value("encoder", msid="gone.pt"), "encoder", "There is no file 'gone.pt' in "),
    "a missing detector": (value("encoder", detector="gone.onnx"), "encoder", "no file 'gone.onnx'"),
    "an empty placeholder": (value("inject", placeholder=""), "inject", "The placeholder is empty"),
    "a placeholder with a colon": (value("inject", placeholder="S:"), "inject", "cannot be used in a"),
    "a missing identity": (
        lambda p, g: g.update(
            identity={
                "class_type": "F2DLoadIdentity",
                "inputs": {"encoder": ["encoder", 0], "identity_file": "gone.safetensors"},
            }
        ),
        "identity",
        "no file 'gone.safetensors'",
    ),
}


@pytest.mark.parametrize("name", BEFORE_THE_QUEUE)
def test_missing_files_and_bad_names_stop_before_anything_runs(
    pack: ComfyServer, graph: Prompt, name: str
) -> None:
    change, node, message = BEFORE_THE_QUEUE[name]
    change(pack, graph)
    result = run(pack, graph, "A photo of S*")
    assert result.status == "invalid" and result.outputs == {}
    assert {(error.node, error.kind) for error in result.errors} == {(node, "custom_validation_failed")}
    assert message in result.message and all("\n" not in error.message for error in result.errors)


def test_a_missing_input_is_named(pack: ComfyServer, graph: Prompt) -> None:
    del graph["encoder"]["inputs"]["msid"]
    result = run(pack, graph, "A photo of S*")
    assert [error.kind for error in result.errors] == ["required_input_missing"], result.message


def test_a_linked_name_is_checked_when_it_is_known(pack: ComfyServer, graph: Prompt) -> None:
    graph["word"] = {"class_type": "PrimitiveString", "inputs": {"value": "S*"}}
    graph["inject"]["inputs"]["placeholder"] = ["word", 0]
    assert run(pack, graph, "A photo of S*").status == "success"


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P"])
def test_pictures_of_every_mode_give_the_same_person(pack: ComfyServer, graph: Prompt, mode: str) -> None:
    picture = Image.open(pack.input / "example.png").convert("L")
    picture = (
        Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        if mode == "I;16"
        else picture.convert(mode)
    )
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    pack.place(stream.getvalue(), "input", "mode.png")
    graph["photo"]["inputs"]["image"] = "mode.png"
    result = run(pack, graph)
    if (
        mode == "I;16" and result.errors
    ):  # some versions of LoadImage clip 16 bits to white: then there is no face to find
        assert "No face" in result.message
        return
    assert result.status == "success", result.message


@pytest.mark.parametrize("text", ["", "S*", "S* S* S*", "a photo of someone else", "S" * 500])
def test_any_other_prompt_is_encoded(pack: ComfyServer, graph: Prompt, text: str) -> None:
    assert run(pack, graph, text).status == "success"


def test_several_photos_of_one_person_are_averaged(pack: ComfyServer, graph: Prompt) -> None:
    graph["batch"] = {"class_type": "ImageBatch", "inputs": {"image1": ["photo", 0], "image2": ["photo", 0]}}
    single = run(pack, dict(graph))
    graph["identity"]["inputs"]["image"] = ["batch", 0]
    double = run(pack, graph)
    assert single.status == double.status == "success"
    assert len(double.outputs["identity"]["images"]) == 2, "one numbered preview a photo"


def test_photos_without_a_face_are_skipped_where_another_has_one(pack: ComfyServer, graph: Prompt) -> None:
    """By Encode Face Identity and Expression Reference alike."""
    graph["encoder"]["inputs"]["expression"] = "epoch_20.pth"
    photo(NOISE)(pack, graph)
    graph["face"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    graph["batch"] = {"class_type": "ImageBatch", "inputs": {"image1": ["photo", 0], "image2": ["face", 0]}}
    graph["look"] = {
        "class_type": "ExpressionReference",
        "inputs": {"encoder": ["encoder", 0], "image": ["batch", 0], "strength": 1.0},
    }
    graph["crops"] = {"class_type": "PreviewImage", "inputs": {"images": ["look", 1]}}
    graph["identity"]["inputs"]["image"] = ["batch", 0]
    graph["inject"]["inputs"]["expression"] = ["look", 0]
    result = run(pack, graph)
    assert result.status == "success", result.message
    assert len(result.outputs["identity"]["images"]) == 2 and len(result.outputs["crops"]["images"]) == 1
