"""S* in a real ComfyUI's conditioning equals the authors' overwriting of embeddings, computed with
transformers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.cli import main
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline
from face2diffusion.f2d.prompt.injection import delayed_ranges
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.inside import Inside
from support.reference_clip import S_STAR, ReferenceCLIP, relative_error
from support.server import ComfyServer
from torch import Tensor

Prompt = dict[str, Any]
EXACT = 1e-5  # relative


@pytest.fixture(scope="session")
def clip(comfy: ComfyServer, sd1_checkpoint: Path) -> ReferenceCLIP:
    """The checkpoint's text encoder in transformers."""
    return ReferenceCLIP(sd1_checkpoint, comfy.checkout / "comfy" / "sd1_tokenizer")


@pytest.fixture(scope="session")
def words(files, detector_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """S* of the portrait from the command line, shape (2, 768)."""
    out = tmp_path_factory.mktemp("words") / "s.safetensors"
    weights = [
        "--msid",
        str(files.msid),
        "--mapper",
        str(files.mapper),
        "--detector",
        str(detector_file),
        "--device",
        "cpu",
    ]
    assert main(["encode", str(files.photo), *weights, "--out", str(out)]) == 0
    return load_file(out)["words"]


@pytest.fixture(scope="session")
def mirrored_words(files, detector_file: Path) -> Tensor:
    """S* of the mirrored portrait: a second person."""
    from face2diffusion.f2d.image import load_photo

    encoder = FaceEncoder.load(files.msid, files.mapper, detector=detector_file)
    return encoder.words(encoder.identify(load_photo(files.photo)[:, ::-1].copy()))


def conditioning(
    pack: ComfyServer, graph: Prompt, text: str, clip: tuple[str, int] = ("inject", 0)
) -> dict[str, Tensor]:
    """Encode a prompt with core CLIPTextEncode and read the conditioning."""
    graph |= {
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": list(clip), "text": text}},
        "probe": {
            "class_type": "F2DProbeSaveConditioning",
            "inputs": {"conditioning": ["text", 0], "name": "conditioning"},
        },
    }
    result = pack.run(graph)
    assert result.status == "success", result.message
    return load_file(result.file("probe"))


def test_the_node_gives_the_words_of_the_command_line(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor
) -> None:
    graph["probe"] = {
        "class_type": "F2DProbeSaveTokens",
        "inputs": {"clip": ["inject", 0], "text": "A photo of S*", "name": "tokens"},
    }
    found = load_file(pack.run(graph).file("probe"))
    assert found["ids"][:7].tolist() == [49406, 320, 1125, 539, -1, -1, 49407]
    positions = clip.text.embeddings.position_embedding.weight[4:6].detach()
    assert torch.allclose(found["vectors"] + positions, words, atol=1e-6)


def test_s_star_overwrites_token_and_position_embedding(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor
) -> None:
    found = conditioning(pack, graph, "A photo of S* as a chef")
    expected = clip.encode([*clip.ids("A photo of"), *words, *clip.ids("as a chef")])
    assert relative_error(found["0.cond"], expected) < EXACT
    uncompensated = clip.encode(
        [
            *clip.ids("A photo of"),
            *(words + clip.text.embeddings.position_embedding.weight[4:6].detach()),
            *clip.ids("as a chef"),
        ]
    )
    assert relative_error(uncompensated, expected) > 100 * EXACT, (
        "this test could not see a wrong position embedding"
    )


@pytest.mark.parametrize("text", ["A photo of S*, smiling", "S*'s face", "s* (in paris)", "\\(S*\\)"])
def test_punctuation_may_touch_s_star(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor, text: str
) -> None:
    found = conditioning(pack, graph, text)
    plain = (
        text.replace("\\", "").lower().replace("s*", " s* ")
    )  # as if someone had set the spaces; a bare parenthesis is emphasis
    ids = clip.ids(plain.replace("(in paris)", "in paris"))
    start = next(place for place in range(len(ids)) if tuple(ids[place : place + 2]) == S_STAR)
    content: list[Any] = [*ids]
    content[start : start + 2] = list(words)
    expected = (
        clip.weighted(content, range(start + 3, start + 5), 1.1)
        if "in paris" in plain
        else clip.encode(content)
    )
    assert relative_error(found["0.cond"], expected) < EXACT


def test_emphasis(pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor) -> None:
    found = conditioning(pack, graph, "A photo of (S*:1.2) as a chef")
    expected = clip.weighted([*clip.ids("A photo of"), *words, *clip.ids("as a chef")], (4, 5), 1.2)
    assert relative_error(found["0.cond"], expected) < EXACT


def test_a_long_prompt_with_s_star_in_the_second_chunk(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor
) -> None:
    found = conditioning(pack, graph, "a " * 80 + "S* in paris")
    (a,) = clip.ids("a")
    second = [a] * 5 + [*words, *clip.ids("in paris")]
    expected = torch.cat([clip.encode([a] * 75), clip.encode(second)], dim=1)
    assert found["0.cond"].shape == (1, 154, 768)
    assert relative_error(found["0.cond"], expected) < EXACT


def test_s_star_is_not_torn_by_the_end_of_a_chunk(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor
) -> None:
    found = conditioning(pack, graph, "a " * 74 + "S* in paris")
    (a,) = clip.ids("a")
    expected = torch.cat([clip.encode([a] * 74), clip.encode([*words, *clip.ids("in paris")])], dim=1)
    assert relative_error(found["0.cond"], expected) < EXACT


def test_two_people(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor, mirrored_words: Tensor
) -> None:
    graph["inject"]["inputs"]["placeholder"] = "S1*"
    pack.place(_mirrored(pack.input / "example.png"), "input", "mirrored.png")
    graph["photo 2"] = {"class_type": "LoadImage", "inputs": {"image": "mirrored.png"}}
    graph["identity 2"] = {
        **graph["identity"],
        "inputs": {**graph["identity"]["inputs"], "image": ["photo 2", 0]},
    }
    graph["inject 2"] = {
        "class_type": "InjectSStar",
        "inputs": {
            "clip": ["inject", 0],
            "identity": ["identity 2", 0],
            "strength": 1.0,
            "placeholder": "S2*",
        },
    }
    found = conditioning(pack, graph, "S2* and S1*, S2*", ("inject 2", 0))
    expected = clip.encode([*mirrored_words, *clip.ids("and"), *words, *clip.ids(","), *mirrored_words])
    assert relative_error(found["0.cond"], expected) < EXACT


def _mirrored(photo: Path) -> bytes:
    import io

    from PIL import Image, ImageOps

    stream = io.BytesIO()
    ImageOps.mirror(Image.open(photo)).save(stream, "PNG")
    return stream.getvalue()


def test_clip_skip(pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor) -> None:
    graph["skip"] = {
        "class_type": "CLIPSetLastLayer",
        "inputs": {"clip": ["inject", 0], "stop_at_clip_layer": -2},
    }
    found = conditioning(pack, graph, "A photo of S*", ("skip", 0))
    assert relative_error(found["0.cond"], clip.encode([*clip.ids("A photo of"), *words], skip=2)) < EXACT


def test_a_lora_before_or_after_gives_the_same(pack: ComfyServer, graph: Prompt, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.randn(4, 768, generator=generator), torch.randn(3072, 4, generator=generator)
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(4.0)},
        tmp_path / "lora.safetensors",
    )
    pack.place(tmp_path / "lora.safetensors", "models", "loras", "test.safetensors")
    text = "A photo of S*"
    plain = conditioning(pack, dict(graph), text)
    lora = {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "test.safetensors",
            "strength_model": 0.0,
            "strength_clip": 0.01,
            "model": ["model", 0],
        },
    }
    after = conditioning(pack, {**graph, "lora": _with(lora, clip=["inject", 0])}, text, ("lora", 1))
    before_graph = {
        **graph,
        "lora": _with(lora, clip=["model", 1]),
        "inject": _with(graph["inject"], clip=["lora", 1]),
    }
    before = conditioning(pack, before_graph, text)
    assert torch.equal(after["0.cond"], before["0.cond"])
    assert not torch.allclose(after["0.cond"], plain["0.cond"], atol=1e-3)


def _with(node: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return {**node, "inputs": {**node["inputs"], **inputs}}


def test_an_embedding_in_the_same_prompt(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor, tmp_path: Path
) -> None:
    rows = torch.randn(3, 768, generator=torch.Generator().manual_seed(1)) * 0.02
    save_file({"emb": rows}, tmp_path / "emb.safetensors")
    pack.place(tmp_path / "emb.safetensors", "models", "embeddings", "style.safetensors")
    found = conditioning(pack, graph, "S* embedding:style")
    positions = clip.text.embeddings.position_embedding.weight[3:6].detach()
    assert relative_error(found["0.cond"], clip.encode([*words, *(rows + positions)])) < EXACT


def test_own_embeddings_change_nothing(
    pack: ComfyServer, graph: Prompt, files, clip: ReferenceCLIP, tmp_path: Path
) -> None:
    """A mapper that always answers with the tokens' own embeddings, and stands before the position embedding.

    Difference 0.0.
    """
    from face2diffusion.f2d.checkpoint import read, save
    from face2diffusion.f2d.networks.mapping import MapperConfig

    tensors = {name: torch.zeros_like(tensor) for name, tensor in read(files.mapper).tensors.items()}
    tensors["i2t_first.fc_out.bias"], tensors["i2t_last.fc_out.bias"] = clip.token_rows[list(S_STAR)]
    save(tmp_path / "own.safetensors", tensors, "mapper", MapperConfig(positional="before"))
    pack.place(tmp_path / "own.safetensors", "models", "face2diffusion", "own.safetensors")
    graph["encoder"]["inputs"]["mapper"] = "own.safetensors"
    for text in ("A photo of S* as a chef", "(S*:1.3) in paris", "a " * 80 + "S* b", "S*"):
        found = conditioning(pack, dict(graph), text)
        plain = conditioning(pack, dict(graph), text, ("model", 1))
        assert torch.equal(found["0.cond"], plain["0.cond"]), text
        assert torch.equal(found["0.pooled_output"], plain["0.pooled_output"]), text


def test_strength_zero_is_a_person(pack: ComfyServer, graph: Prompt) -> None:
    graph["inject"]["inputs"]["strength"] = 0.0
    found = conditioning(pack, dict(graph), "A photo of S* as a chef")
    plain = conditioning(pack, dict(graph), "A photo of a person as a chef", ("model", 1))
    assert torch.equal(found["0.cond"], plain["0.cond"])


def test_the_original_clip_is_untouched(pack: ComfyServer, graph: Prompt) -> None:
    probe = {
        "class_type": "F2DProbeSaveTokens",
        "inputs": {"clip": ["model", 1], "text": "A photo of S*", "name": "original"},
    }
    before = pack.run({"model": graph["model"], "probe": probe}).file("probe")
    first, first_hash = load_file(before), _hash(before)
    conditioning(pack, graph, "A photo of S*")
    after = pack.run({**graph, "probe": _with(probe, name="original 2")}).file("probe")
    assert first["ids"].tolist() == load_file(after)["ids"].tolist()
    assert -1 not in first["ids"]
    assert first_hash == _hash(after)


def _hash(file: Path) -> str:
    with safe_open(file, "pt") as opened:
        return opened.metadata()["weights_sha256"]


# --- F2DConditioning ---


def f2d_conditioning(
    pack: ComfyServer, graph: Prompt, output: int = 0, **inputs: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Run S* Conditioning; returns the tensors and the options of each entry."""
    values = {
        "clip": ["inject", 0],
        "prompt": "A photo of S*",
        "negative_prompt": "",
        "class_words": "a person",
        "subject_from": 0.0,
        **inputs,
    }
    graph["f2d"] = {"class_type": "F2DConditioning", "inputs": values}
    graph["probe"] = {
        "class_type": "F2DProbeSaveConditioning",
        "inputs": {"conditioning": ["f2d", output], "name": "f2d"},
    }
    result = pack.run(graph)
    assert result.status == "success", result.message
    file = result.file("probe")
    with safe_open(file, "pt") as opened:
        return load_file(file), json.loads(opened.metadata()["options"])


def test_f2d_conditioning_equals_clip_text_encode(pack: ComfyServer, graph: Prompt) -> None:
    found, options = f2d_conditioning(pack, dict(graph))
    assert torch.equal(found["0.cond"], conditioning(pack, dict(graph), "A photo of S*")["0.cond"])
    assert len(options) == 1
    assert "start_percent" not in options[0]
    negative, _ = f2d_conditioning(pack, dict(graph), 1, negative_prompt="blurry")
    assert torch.equal(negative["0.cond"], conditioning(pack, dict(graph), "blurry", ("model", 1))["0.cond"])


def test_delayed_subject_conditioning_has_the_class_prompt_first(pack: ComfyServer, graph: Prompt) -> None:
    found, options = f2d_conditioning(pack, dict(graph), subject_from=0.2, class_words="a man")
    assert [(entry["start_percent"], entry["end_percent"]) for entry in options] == [
        tuple(times) for times in delayed_ranges(0.2)
    ]
    assert torch.equal(
        found["0.cond"], conditioning(pack, dict(graph), "A photo of a man", ("model", 1))["0.cond"]
    )
    assert torch.equal(found["1.cond"], conditioning(pack, dict(graph), "A photo of S*")["0.cond"])


def test_every_step_of_every_scheduler_sees_exactly_one_prompt(inside: Inside) -> None:
    shares = [0.01, 0.2, 0.3, 0.5, 0.99]
    counted = inside.run("steps", [(share, delayed_ranges(share)) for share in shares])
    assert counted["wrong"] == []
    assert counted["schedules"] > 400
    assert counted["class_steps"]["0.2"] == 6, "alpha = 0.8 is 6 of 30 steps (Sec. E.2)"


def test_clips_of_other_families_are_named(inside: Inside) -> None:
    messages = inside.run("families")
    for family in ("SDXL", "SD2", "SD3", "Flux"):
        assert re.match(rf"ValueError: This is an? {family} CLIP", messages[family]), messages[family]
        assert "Connect the CLIP of an SD 1.x checkpoint" in messages[family] or "SD 1.x" in messages[family]


# --- The tokenizer of Inject S*, as other packs see it ---


@pytest.fixture(scope="module")
def tokenizer_facts(inside: Inside, sd1_checkpoint: Path) -> dict[str, bool | float]:
    """What tests/comfy/inside/subject_tokenizer.py found."""
    return inside.run("subject_tokenizer", str(sd1_checkpoint))


def test_the_tokenizer_is_like_a_plain_one_wherever_other_packs_look(tokenizer_facts: dict) -> None:
    flags = {name: value for name, value in tokenizer_facts.items() if isinstance(value, bool)}
    assert len(flags) > 10 and [name for name, value in flags.items() if not value] == []


def test_s_star_stays_exact_whatever_other_packs_do_with_tokens_and_weights(tokenizer_facts: dict) -> None:
    errors = {name: value for name, value in tokenizer_facts.items() if not isinstance(value, bool)}
    assert len(errors) > 10 and {name: value for name, value in errors.items() if not value < EXACT} == {}


@pytest.mark.parametrize(
    "prompt",
    [
        "A photo of (S*:1.2) as a chef",
        "A (photo) of ((S*)) in a (red:1.4) hat, (smiling:0.6)",
        "(A photo of (S*:1.3) in (paris) at night:0.8)",
        "S* \\(portrait\\), (dark:-0.3), (12:30 on the clock:1.1)",
        "an (open parenthesis near S*",
        "a) closed (one:1.2) near S*",
        "(S*)",
    ],
)
def test_command_line_understands_weights_as_comfyui_does(
    pack: ComfyServer, graph: Prompt, clip: ReferenceCLIP, words: Tensor, prompt: str
) -> None:
    from diffusers import EulerAncestralDiscreteScheduler

    pipeline = F2DPipeline(
        SimpleNamespace(
            scheduler=EulerAncestralDiscreteScheduler(), tokenizer=clip.tokenizer, text_encoder=clip.model
        )
    )
    pipeline.add_subject(words)
    assert relative_error(pipeline.encode(prompt), conditioning(pack, graph, prompt)["0.cond"]) < EXACT
