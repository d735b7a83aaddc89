"""Words and models of other methods, as their tools write them, against diffusers and peft."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face2diffusion.f2d.diffusion.pipeline import F2DPipeline, GenerationConfig
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.prompt.embedding import save_embedding
from face2diffusion.training.config import EvaluateConfig
from face2diffusion.training.evaluation.protocol import RECORD, Slot
from face2diffusion.training.evaluation.references import References
from face2diffusion.training.evaluation.results import Results
from face2diffusion.training.evaluation.subjects import LearnedWords, MissingSubjectError, TunedModels
from face2diffusion.training.evaluation.tuned_models import find_model, load_model
from face2diffusion.training.evaluation.word_files import find_words, read_words
from PIL import Image
from safetensors.torch import save_file
from support import evaluation
from support.evaluation import SIZE, write_faces
from support.random_pipeline import random_pipeline

PROMPT = "A photo of S* as a chef"
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="needs peft: pip install peft")
FACES = References({"alice": "", "bob": ""}, {"alice": "1", "bob": "2"})


def words(count: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(count, 768, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and faces."""
    folder = tmp_path_factory.mktemp("subjects")
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    write_faces(folder / "faces")
    return folder


@pytest.fixture
def base(workspace: Path) -> Iterator[F2DPipeline]:
    yield F2DPipeline.load(workspace / "sd", "cpu")


# --- Words ---


def write_words(path: Path, rows: torch.Tensor, layout: str) -> Path:
    """Write words as one of the tools does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "diffusers":
        save_file({"<alice>": rows}, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    if layout == "f2d export":
        save_embedding(path.with_suffix(".safetensors"), rows)
        return path.with_suffix(".safetensors")
    content: Any = {
        "DVAR": {"<alice>": rows[0] if len(rows) == 1 else rows},
        "AUTOMATIC1111": {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.nn.Parameter(rows)},
            "name": "alice",
            "step": 500,
        },
        "CelebBasis": rows,
    }[layout]
    target = path.with_suffix(".bin" if layout == "DVAR" else ".pt")
    torch.save(content, target)
    return target


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("layout", ["diffusers", "f2d export", "DVAR", "AUTOMATIC1111", "CelebBasis"])
def test_words_of_every_tool_are_read(tmp_path: Path, layout: str, count: int) -> None:
    path = write_words(tmp_path / "alice", words(count), layout)
    assert find_words(tmp_path, "alice") == path
    torch.testing.assert_close(read_words(path), words(count))
    assert find_words(tmp_path, "bob") is None


def test_the_last_step_of_a_training_is_chosen(tmp_path: Path) -> None:
    for step in ("learned_embeds-steps-500", "learned_embeds", "learned_embeds-steps-1000"):
        write_words(tmp_path / "alice" / step, words(1), "diffusers")
    assert find_words(tmp_path, "alice") == tmp_path / "alice/learned_embeds.safetensors"
    for name in ("one", "two"):
        write_words(tmp_path / "bob" / name, words(1), "CelebBasis")
    with pytest.raises(ValueError, match=r"2 files of words for 'bob' \(one.pt, two.pt\)\. Leave one"):
        find_words(tmp_path, "bob")


class Code:
    def __reduce__(self) -> tuple:
        return print, ("run",)


def test_other_files_of_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"clip_l": words(1), "clip_g": torch.zeros(1, 1280)}, tmp_path / "sdxl.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 embeddings.* Choose the file of one person"):
        read_words(tmp_path / "sdxl.safetensors")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"<alice>": Code()}))
    with pytest.raises(ValueError, match=r"were not run.*Convert it to \.safetensors"):
        read_words(tmp_path / "code.pt")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(ValueError, match="is damaged"):
        read_words(tmp_path / "half.pt")
    torch.save({"<alice>": words(1) * float("nan")}, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"NaN or infinity\. Train them again"):
        read_words(tmp_path / "nan.pt")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2, 3])
def test_prompts_with_words_are_encoded_as_diffusers_does(
    workspace: Path, base: F2DPipeline, tmp_path: Path, count: int
) -> None:
    path = write_words(tmp_path / "alice", words(count), "diffusers")
    config = EvaluateConfig(base=str(workspace / "sd"), words=str(tmp_path))
    found = LearnedWords(config, "cpu").select("alice", FACES).encode(PROMPT)
    diffusion = base.diffusion
    diffusion.load_textual_inversion(path, token="<alice>")
    expected, _ = diffusion.encode_prompt(PROMPT.replace("S*", "<alice>"), "cpu", 1, False)
    torch.testing.assert_close(found, expected)
    other = LearnedWords(EvaluateConfig(base=str(workspace / "sd"), words=str(tmp_path)), "cpu")
    plain = other.select("alice", FACES).encode("A photo of a person as a chef")
    assert (found - plain).abs().max() > 0.1


# --- Models ---


def write_lora(folder: Path, base: F2DPipeline) -> dict[str, torch.Tensor]:
    """Write a LoRA of rank 2 for all keys of the cross-attention; returns what it adds to each weight."""
    from diffusers import StableDiffusionPipeline

    chance, tensors, added = torch.Generator().manual_seed(1), {}, {}
    for name, layer in base.diffusion.unet.named_modules():
        if name.endswith("attn2.to_k"):
            down = torch.randn(2, layer.in_features, generator=chance)
            up = torch.randn(layer.out_features, 2, generator=chance)
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            added[name] = up @ down
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=tensors)
    return added


def write_custom_diffusion(folder: Path, base: F2DPipeline, suffix: str) -> None:
    """Write the cross-attention and the word of CustomDiffusion."""
    chance, tensors = torch.Generator().manual_seed(2), {}
    for name in base.diffusion.unet.attn_processors:
        if "attn2" in name:
            layer = base.diffusion.unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_q", "to_k", "to_v", "to_out.0"):  # as with --freeze_model crossattn
                stored = re.sub(r"^(to_\w+)", r"\1_custom_diffusion", part)
                for kind, value in layer.get_submodule(part).named_parameters():
                    tensors[f"{name}.{stored}.{kind}"] = torch.randn(value.shape, generator=chance) / 20
        else:
            tensors[name] = {} if suffix == ".bin" else torch.empty(0)
    folder.mkdir(parents=True)
    weights, word = folder / f"pytorch_custom_diffusion_weights{suffix}", folder / f"<new1>{suffix}"
    for path, content in ((weights, tensors), (word, {"<new1>": words(1, 3)[0]})):
        (save_file if suffix == ".safetensors" else torch.save)(content, path)


def predict_noise(pipeline: F2DPipeline, states: torch.Tensor) -> torch.Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return pipeline.diffusion.unet(latents, 500, states).sample


def load(workspace: Path, folder: Path, name: str = "alice") -> F2DPipeline:
    model = find_model(folder, name)
    assert model is not None
    return load_model(model, workspace / "sd", "cpu", None)


@pytest.mark.parametrize("place", ["folder", "file"])
@needs_peft
def test_a_lora_is_added_to_the_base(workspace: Path, base: F2DPipeline, tmp_path: Path, place: str) -> None:
    added = write_lora(tmp_path / "alice", base)
    if place == "file":
        (tmp_path / "alice/pytorch_lora_weights.safetensors").rename(tmp_path / "bob.safetensors")
    name = "alice" if place == "folder" else "bob"
    assert find_model(tmp_path, name).kind == "LoRA"
    assert find_model(tmp_path, name).count_parameters() == 2 * (768 + 32) * len(added)
    found = load(workspace, tmp_path, name).diffusion.unet.state_dict()
    for key, weight in base.diffusion.unet.state_dict().items():
        expected = weight + added.get(key.removesuffix(".weight"), 0)
        torch.testing.assert_close(found[key], expected, msg=key)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_custom_diffusion_replaces_the_cross_attention_and_adds_a_word(
    workspace: Path, base: F2DPipeline, tmp_path: Path, suffix: str
) -> None:
    write_custom_diffusion(tmp_path / "alice", base, suffix)
    plain, found = predict_noise(base, base.encode("A photo")), load(workspace, tmp_path)
    assert (predict_noise(found, base.encode("A photo")) - plain).abs().max() > 1e-2
    weights = f"pytorch_custom_diffusion_weights{suffix}"
    # Without the private argument, diffusers 0.42 loads nothing, silently.
    base.diffusion.unet.load_attn_procs(
        str(tmp_path / "alice"), weight_name=weights, _pipeline=base.diffusion
    )
    base.diffusion.load_textual_inversion(str(tmp_path / "alice"), weight_name=f"<new1>{suffix}")
    prompt = "A photo of <new1> person as a chef"
    expected, _ = base.diffusion.encode_prompt(prompt, "cpu", 1, False)
    torch.testing.assert_close(found.encode(prompt), expected)
    torch.testing.assert_close(predict_noise(found, expected), predict_noise(base, expected))


@needs_peft
def test_an_oft_adapter_is_merged_into_the_base(workspace: Path, base: F2DPipeline, tmp_path: Path) -> None:
    import peft

    states = base.encode("A photo of sks person")
    plain = predict_noise(base, states)
    for part, modules in (("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj"])):
        config = peft.OFTConfig(oft_block_size=8, target_modules=modules)
        adapted = peft.get_peft_model(getattr(base.diffusion, part), config)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "oft_" in name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
        adapted.save_pretrained(tmp_path / "alice" / part)
        setattr(base.diffusion, part, adapted)
    assert find_model(tmp_path, "alice").kind == "adapter"
    found = load(workspace, tmp_path)
    torch.testing.assert_close(
        predict_noise(found, states), predict_noise(base, states), atol=1e-4, rtol=1e-3
    )
    assert (predict_noise(found, states) - plain).abs().max() > 1e-2
    expected = base.diffusion.encode_prompt("A photo of sks person", "cpu", 1, False)[0]
    torch.testing.assert_close(found.encode("A photo of sks person"), expected, atol=1e-4, rtol=1e-3)


def test_adapters_of_another_base_are_refused(workspace: Path, base: F2DPipeline, tmp_path: Path) -> None:
    write_custom_diffusion(tmp_path / "alice", base, ".bin")
    weights = tmp_path / "alice/pytorch_custom_diffusion_weights.bin"
    trained = {name: value for name, value in torch.load(weights).items() if len(value)}
    wrong = {name: value[..., :5].clone() for name, value in trained.items()}
    torch.save(wrong, weights)
    with pytest.raises(ValueError, match=r"does not fit .*/sd' \(.*Set --base to the model"):
        load(workspace, tmp_path)
    torch.save({f"other.{name}": value for name, value in trained.items()}, weights)
    with pytest.raises(ValueError, match=r"20 of 20 matrices are unknown"):
        load(workspace, tmp_path)
    (tmp_path / "bob").mkdir()
    with pytest.raises(ValueError, match=r"bob' holds no model of a known kind.*model_index\.json"):
        find_model(tmp_path, "bob")
    assert find_model(tmp_path, "carol") is None


# --- The evaluation ---


def run(workspace: Path, folder: Path, **changes: Any) -> tuple[Path, list[str]]:
    settings = {
        "method": "rival", "faces": str(workspace / "faces"), "aligned": True,
        "images": str(folder / "images"), "out": str(folder / "rival.json"), "prompts": (2,),
        "images_per_prompt": 2, "size": SIZE, "steps": 1,
        "draw_batch": 2, "clip": str(workspace), "device": "cpu",
    }  # fmt: skip
    return evaluation.evaluate({**settings, **changes})


def read_record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.text[RECORD])


def test_words_are_evaluated_by_the_protocol(workspace: Path, tmp_path: Path) -> None:
    for name, count in (("alice", 2), ("bob", 1)):
        write_words(tmp_path / "words" / name, words(count), "CelebBasis")
    options = {"base": str(workspace / "sd"), "words": str(tmp_path / "words")}
    out, logged = run(workspace, tmp_path, **options)
    found = Results.load(out)
    assert len(found.images) == 4 and not found.gaps["missing"]
    assert found.costs == {"parameters": 2 * 768}
    records = {name: read_record(tmp_path / f"images/{name}/2/1.png") for name in ("alice", "bob")}
    assert records["alice"]["words_sha256"] != records["bob"]["words_sha256"]
    assert records["alice"]["prompt"] == PROMPT and "face_sha256" not in records["alice"]
    assert records["alice"]["seed"] == Slot("alice", 2, 1).noise_seed
    assert "Generating 0 images" in run(workspace, tmp_path, **options)[1][1]
    write_words(tmp_path / "words/bob", words(1, seed=9), "CelebBasis")
    with pytest.raises(ValueError, match=r"another run \(first: bob/base/0.png: words_sha256"):
        run(workspace, tmp_path, **options)


def test_models_are_evaluated_by_the_protocol(workspace: Path, tmp_path: Path) -> None:
    tuned = random_pipeline(seed=7)
    tuned.diffusion.save_pretrained(tmp_path / "models/alice")
    (tmp_path / "models/alice/checkpoint-500").mkdir()
    (tmp_path / "models/alice/checkpoint-500/optimizer.bin").write_bytes(b"not loaded")
    options = {"models": str(tmp_path / "models"), "subject": "sks person"}
    out, logged = run(workspace, tmp_path, **options)
    assert any("No images of bob" in line and "no model of 'bob'" in line for line in logged)
    found = Results.load(out)
    assert [slot.identity for slot, _ in found.images] == ["alice"] * 2
    record = read_record(tmp_path / "images/alice/2/0.png")
    assert (record["prompt"], record["model"]) == ("A photo of sks person as a chef", "pipeline")
    pipeline = F2DPipeline.load(tmp_path / "models/alice", "cpu")
    seeds = [Slot("alice", 2, place).noise_seed for place in range(2)]
    images = pipeline.generate_encoded(
        [""] * 2,
        pipeline.encode("A photo of sks person as a chef"),
        seeds,
        GenerationConfig(steps=1, width=SIZE, height=SIZE),
        progress=False,
    )
    for place, expected in enumerate(images):
        assert np.array_equal(load_photo(tmp_path / f"images/alice/2/{place}.png"), expected.image)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"words": "nowhere", "base": "sd"}, "--words 'nowhere' is not a folder"),
        ({"words": "faces"}, "--words needs --base"),
        ({"words": "faces", "models": "faces", "base": "sd"}, "--words and --models exclude each other"),
        ({"models": "faces"}, "--models needs --subject.*'sks person'"),
        ({"words": "faces", "base": "sd", "subject": "sks person"}, r"does not contain S\*"),
        ({"words": "sd", "base": "sd"}, "has no words of 'bob'"),
        ({"models": "sd", "subject": "sks person"}, "has no model of 'bob'"),
    ],
)
def test_invalid_settings_are_refused_before_the_first_image(
    workspace: Path, tmp_path: Path, change: dict[str, str], match: str
) -> None:
    paths = {name: str(workspace / value) for name, value in change.items() if name != "subject"}
    with pytest.raises((ValueError, FileNotFoundError), match=match.replace("nowhere", ".*nowhere")):
        run(workspace, tmp_path, **{**change, **paths})
    assert not list(tmp_path.rglob("*.png"))


def test_loras_and_adapters_without_peft_name_the_package(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alice").mkdir()
    save_file({"unet.lora_A.weight": torch.zeros(1)}, tmp_path / "alice/pytorch_lora_weights.safetensors")
    config = EvaluateConfig(base=str(workspace / "sd"), models=str(tmp_path), subject="sks person")
    subjects = TunedModels(config, "cpu")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA of 'alice' needs peft\. Run `pip install"):
        subjects.check(FACES)


def test_an_adapter_needs_its_base(base: F2DPipeline, tmp_path: Path) -> None:
    write_custom_diffusion(tmp_path / "alice", base, ".bin")
    subjects = TunedModels(EvaluateConfig(models=str(tmp_path), subject="sks person"), "cpu")
    with pytest.raises(
        ValueError, match=r"model of 'alice' is a CustomDiffusion, which needs its base\. Set --base"
    ):
        subjects.check(FACES)
    with pytest.raises(MissingSubjectError, match="no model of 'bob'"):
        subjects.select("bob", FACES)
