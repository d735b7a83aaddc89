"""Pick Best Images in a real server: the order, CLIP's joint space against transformers, and bad input."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.inside import Inside
from support.recognition import write_sphereface
from support.reference_clip import ReferenceCLIP
from support.server import ComfyServer, Result
from torch import Tensor

Prompt = dict[str, Any]
RECOGNIZER, PROJECTION, VISION = "sphere20a_20171020.pth", "clip_l.safetensors", "clip_vision_l.pt"
PROMPT, TEXT = "A photo of S* as a chef", "A photo of a person as a chef"
WIDTH, SPACE = 1024, 768  # of the vision encoder and of the joint space
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NAMES = ("nobody.png", "other.png", "example.png")  # the batch


@pytest.fixture(scope="module")
def vision() -> dict[str, Tensor]:
    """CLIP ViT-L/14's vision encoder.

    Only its ends and the first attention are random, the other layers add nothing.
    """
    random = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (257, WIDTH),
        "vision_model.encoder.layers.0.self_attn.v_proj.weight": (WIDTH, WIDTH),
        "vision_model.encoder.layers.0.self_attn.out_proj.weight": (WIDTH, WIDTH),
        "visual_projection.weight": (SPACE, WIDTH),
    }
    state = {key: (0.05 * torch.randn(shape, generator=random)).half() for key, shape in shapes.items()}
    zero, one = torch.zeros((), dtype=torch.half), torch.ones((), dtype=torch.half)
    layers = [f"vision_model.encoder.layers.{number}." for number in range(24)]
    for norm in ("pre_layrnorm", "post_layernorm"):
        state |= {
            f"vision_model.{norm}.weight": one.expand(WIDTH),
            f"vision_model.{norm}.bias": zero.expand(WIDTH),
        }
    for norm in (f"{layer}layer_norm{number}" for layer in layers for number in (1, 2)):
        state |= {f"{norm}.weight": one.expand(WIDTH), f"{norm}.bias": zero.expand(WIDTH)}
    attention = [(f"self_attn.{part}_proj", WIDTH, WIDTH) for part in ("q", "k", "v", "out")]
    for name, outputs, inputs in (*attention, ("mlp.fc1", 4 * WIDTH, WIDTH), ("mlp.fc2", WIDTH, 4 * WIDTH)):
        for layer in layers:
            state = {
                f"{layer}{name}.weight": zero.expand(outputs, inputs),
                f"{layer}{name}.bias": zero.expand(outputs),
            } | state
    return state


@pytest.fixture(scope="module")
def projection() -> Tensor:
    """CLIP's text projection."""
    return (torch.randn(SPACE, SPACE, generator=torch.Generator().manual_seed(1)) / SPACE**0.5).half()


@pytest.fixture(scope="module")
def pictures(files) -> dict[str, np.ndarray]:
    """Noise without a face, another face (the portrait's mirror image, tinted), and the portrait itself."""
    portrait = np.asarray(Image.open(files.photo))
    noise = np.random.default_rng(0).integers(0, 256, portrait.shape, dtype=np.uint8)
    return dict(
        zip(NAMES, (noise, (portrait[:, ::-1] * (0.6, 0.8, 1.0)).astype(np.uint8), portrait), strict=True)
    )


@pytest.fixture
def picking(
    pack: ComfyServer,
    graph: Prompt,
    pictures: dict[str, np.ndarray],
    vision: dict,
    projection: Tensor,
    tmp_path: Path,
) -> Prompt:
    """Three pictures judged by identity alone; "vision" and "model" are there to be connected."""
    for name, picture in pictures.items():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        pack.place(stream.getvalue(), "input", name)
        graph[name] = {"class_type": "LoadImage", "inputs": {"image": name}}
    if not (pack.base / "models" / "clip_vision" / VISION).exists():
        stream = io.BytesIO()
        torch.save(vision, stream)  # a file of 24 MB: expanded numbers are kept as one
        pack.place(stream.getvalue(), "models", "clip_vision", VISION)
        save_file({"text_projection.weight": projection}, tmp_path / PROJECTION)
        pack.place((tmp_path / PROJECTION).read_bytes(), "models", "text_encoders", PROJECTION)
        pack.place(
            write_sphereface(tmp_path / RECOGNIZER).read_bytes(), "models", "face2diffusion", RECOGNIZER
        )
    graph["two"] = {"class_type": "ImageBatch", "inputs": {"image1": [NAMES[0], 0], "image2": [NAMES[1], 0]}}
    graph["batch"] = {"class_type": "ImageBatch", "inputs": {"image1": ["two", 0], "image2": [NAMES[2], 0]}}
    graph["vision"] = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": VISION}}
    graph["pick"] = {
        "class_type": "F2DPickBest",
        "inputs": {
            "images": ["batch", 0],
            "identity": ["identity", 0],
            "prompt": PROMPT,
            "keep": 2,
            "min_score": 0.6,
            "recogniser": "none",
            "text_projection": "none",
        },
    }
    graph["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["pick", 1]}}
    graph["probe"] = {"class_type": "F2DProbeSaveTensors", "inputs": {"name": "best", "image": ["pick", 0]}}
    return graph


WITH_TEXT = {"clip_vision": ["vision", 0], "clip": ["model", 1], "text_projection": PROJECTION}


def pick(pack: ComfyServer, graph: Prompt, **inputs: Any) -> Result:
    graph["pick"]["inputs"].update(inputs)
    return pack.run(graph, timeout=300)


def scores(result: Result) -> list[tuple[int, list[float]]]:
    """The picture's place in the batch and its numbers, line by line."""
    assert result.status == "success", result.message
    lines = [
        line
        for line in result.outputs["text"]["text"][0].splitlines()
        if "image" in line and line[0].isdigit()
    ]
    found = [re.fullmatch(r"\d+\. image (\d+): (.*)", line) for line in lines]
    return [
        (int(match[1]) - 1, [float(number) for number in re.findall(r"\d\.\d+", match[2])])
        for match in found
        if match
    ]


def best(result: Result) -> np.ndarray:
    from safetensors.torch import load_file

    return np.rint(load_file(result.file("probe"))["image"].numpy() * 255).astype(np.uint8)


def test_the_portrait_itself_is_first_and_a_picture_without_a_face_last(
    pack: ComfyServer, picking: Prompt, pictures: dict
) -> None:
    result = pick(pack, picking)
    found = scores(result)
    assert [index for index, _ in found] == [2, 1, 0]
    assert found[0][1] == [1.0]
    assert 0 < found[1][1][0] < 1
    assert found[2][1] == [0.0]
    assert "By identity alone" in result.outputs["text"]["text"][0]
    kept = best(result)
    np.testing.assert_array_equal(kept[0], pictures["example.png"])
    np.testing.assert_array_equal(kept[1], pictures["other.png"])
    assert len(kept) == 2
    previews = [np.asarray(Image.open(file)) for file in result.files["pick"]]
    assert len(previews) == 3, "all are shown"
    assert [tuple(preview[0, -1]) for preview in previews] == [(40, 220, 90), (40, 220, 90), (255, 150, 30)]
    np.testing.assert_array_equal(previews[0][100:], pictures["example.png"][100:])


def test_more_than_there_are_gives_all(pack: ComfyServer, picking: Prompt) -> None:
    assert len(best(pick(pack, picking, keep=50))) == 3


def test_text_is_judged_in_the_joint_space_of_clip(
    pack: ComfyServer, picking: Prompt, pictures: dict, vision: dict, projection: Tensor, sd1_checkpoint: Path
) -> None:
    found = dict(scores(pick(pack, picking, **WITH_TEXT)))
    tokenizer = pack.checkout / "comfy" / "sd1_tokenizer"
    text = projection.float() @ pooled(ReferenceCLIP(sd1_checkpoint, tokenizer), TEXT)
    for index, (name, picture) in enumerate(pictures.items()):
        image = encode_image(vision, picture)
        expected = max(float(image @ text / image.norm() / text.norm()), 0)
        score, identity, by_text = found[index]
        assert by_text == pytest.approx(expected, abs=2e-3), name
        assert score == pytest.approx(
            2 * identity * by_text / (identity + by_text) if identity and by_text else 0, abs=2e-3
        ), name
    assert any(numbers[2] > 0.01 for numbers in found.values()), "else the test compares zeros"


def pooled(clip: ReferenceCLIP, text: str) -> Tensor:
    tokens = clip.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return clip.model(tokens).pooler_output[0]


@torch.no_grad()
def encode_image(vision: dict[str, Tensor], picture: np.ndarray) -> Tensor:
    """Transformers' vision encoder without the layers that add nothing; the preprocessing is written out."""
    from torch.nn.functional import interpolate
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=SPACE,
    )
    model = CLIPVisionModelWithProjection(config).eval()
    model.load_state_dict(
        {key: vision[key].float() for key in model.state_dict() if not key.endswith("position_ids")},
        strict=False,
    )
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    pixels = (interpolate(pixels, (224, 224), mode="bicubic", antialias=True).clamp(0, 1) * 255).round() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return model(pixel_values=(pixels - mean) / std).image_embeds[0]


def test_s_star_in_the_prompt_counts_as_a_person(pack: ComfyServer, picking: Prompt) -> None:
    picking["pick"]["inputs"]["images"] = [
        NAMES[2],
        0,
    ]  # ComfyUI's full-size vision encoder takes seconds an image
    with_s_star = scores(pick(pack, picking, **WITH_TEXT))
    ((_, (_, _, by_text)),) = with_s_star
    assert by_text > 0, "else the test compares zeros"
    assert scores(pick(pack, picking, prompt=TEXT)) == with_s_star
    assert scores(pick(pack, picking, prompt=PROMPT, clip=["inject", 0])) == with_s_star
    assert scores(pick(pack, picking, prompt="A red car in the snow", clip=["model", 1])) != with_s_star


def test_a_recognizer_judges_beside_msid(pack: ComfyServer, picking: Prompt) -> None:
    alone = dict(scores(pick(pack, picking)))
    both = scores(pick(pack, picking, recogniser=RECOGNIZER, reference_photo=["photo", 0]))
    assert [index for index, _ in both] == [2, 1, 0]
    assert both[0][1] == [1.0]
    assert dict(both)[1] != alone[1]
    assert both[2][1] == [0.0]


def test_the_recognizer_that_is_kept_is_no_leak_when_the_encoder_changes(
    pack: ComfyServer, picking: Prompt
) -> None:
    judged = pick(pack, picking, recogniser=RECOGNIZER, reference_photo=["photo", 0])
    assert judged.status == "success", judged.message
    picking["encoder"]["inputs"]["expression"] = "epoch_20.pth"
    assert scores(pick(pack, picking, recogniser="none", reference_photo=None))
    assert pack.leaked_models() == set()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no clip": (
        {**WITH_TEXT, "clip": None},
        "clip_vision, clip, text_projection are needed together, but clip is missing",
    ),
    "no vision": ({**WITH_TEXT, "clip_vision": None}, "but clip_vision is missing"),
    "no projection": ({**WITH_TEXT, "text_projection": "none"}, "but text_projection is missing"),
    "a lost projection": ({**WITH_TEXT, "text_projection": "gone.safetensors"}, "gone.safetensors"),
    "a file without projection": (
        {**WITH_TEXT, "text_projection": VISION},
        f"{VISION}' has 0 tensors 'text_projection'",
    ),
    "an empty prompt": (
        {**WITH_TEXT, "prompt": "  "},
        "The prompt is empty",
    ),
    "no photo for the recogniser": (
        {"recogniser": RECOGNIZER},
        "SphereFace needs a reference photo",
    ),
    "a photo without a face": (
        {"recogniser": RECOGNIZER, "reference_photo": [NAMES[0], 0]},
        "The reference photo: No face in the",
    ),
    "a mapper as recogniser": (
        {"recogniser": "mapping.pt", "reference_photo": ["photo", 0]},
        "mapping.pt' does not hold the weights of AdaFace, SphereFace or FaceNet: this is a mapping network",
    ),
    "keep nothing": ({"keep": 0}, "0"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_node_says_what_is_wrong(pack: ComfyServer, picking: Prompt, name: str) -> None:
    inputs, message = BAD[name]
    picking["pick"]["inputs"].update({key: value for key, value in inputs.items() if value is not None})
    result = pack.run(picking)
    assert result.errors, f"{name} went through"
    assert result.errors[0].node == "pick", result.message
    assert re.search(message, result.errors[0].message), result.message


def test_an_encoder_without_detector_is_refused(pack: ComfyServer, picking: Prompt) -> None:
    picking["encoder"]["inputs"]["detector"] = "none"
    picking["identity"]["inputs"]["alignment"] = "112 px"
    result = pick(pack, picking)
    assert result.errors[0].node == "pick", result.message
    assert "No detector is loaded" in result.message


def test_clips_of_other_families_are_refused(inside: Inside) -> None:
    messages = inside.run("evaluator_families")
    for family, encoders in (("SDXL", "g, l"), ("SD3", "g, l, t5xxl"), ("Flux", "l, t5xxl")):
        assert f"This CLIP is of another family ({encoders}) than Stable Diffusion 1.x" in messages[family]
