"""`f2d-train evaluate` on the miniature: its scorer, and the complete command with the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import load_photo, save_png
from face2diffusion.f2d.miniature import load_encoder, load_pipeline, narrow, portraits
from face2diffusion.f2d.miniature.prompts import KINDS, NEUTRAL, PROMPTS, SceneAttributes
from face2diffusion.f2d.miniature.widen import widen_words
from face2diffusion.f2d.prompt.embedding import embedding_rows, save_embedding
from face2diffusion.training.cli import main
from face2diffusion.training.evaluation.benchmarks import MINIATURE
from face2diffusion.training.evaluation.miniature_scorer import MiniatureScorer
from face2diffusion.training.evaluation.results import Results
from face2diffusion.training.evaluation.scoring import Request
from face2diffusion.training.miniature.study import measure
from face2diffusion.training.miniature.study.measure import Models

KING, STREET = 4, 13  # places in the prompts


def evaluate(folder: Path, *options: str) -> Results:
    common = ("--method=F2D", f"--images={folder / 'images'}", f"--out={folder / 'f2d.json'}", "--device=cpu")
    assert main(["evaluate", *common, *options]) == 0
    return Results.load(folder / "f2d.json")


def test_identity_is_the_cosine_with_the_portrait_and_text_what_the_image_shows() -> None:
    paths = [str(path) for path in portraits().values()][:4]
    scorer = MiniatureScorer("cpu", batch_size=4)
    prompt = MINIATURE.prompts[0].replace("S*", "a person")
    pairs = [(image, reference) for image in paths for reference in paths]
    scores = scorer.score([Request(image, reference, prompt) for image, reference in pairs], progress=False)
    identity = np.array([score.metrics["identity"] for score in scores]).reshape(len(paths), -1)
    np.testing.assert_allclose(np.diag(identity), 1, atol=1e-6)
    assert (identity - np.eye(len(paths))).max() < 0.8 and identity.min() >= 0
    (seen,) = scorer._attributes.recognize([load_photo(paths[0])])
    for place in (0, 12, 25, 38):  # one to three wishes
        text, asked = MINIATURE.prompts[place].replace("S*", "a person"), PROMPTS[place]
        (score,) = scorer.score([Request(paths[0], paths[0], text)], progress=False)
        wanted = [kind for kind in KINDS if getattr(asked, kind) not in ("", NEUTRAL)]
        shown = [getattr(asked, kind) == getattr(seen, kind) for kind in wanted]
        assert score.metrics["text"] == pytest.approx(sum(shown) / len(shown))


def test_images_of_another_method_are_scored_without_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, path in portraits().items():
        save_png(tmp_path / f"images/{name}/0/0.png", load_photo(path))
    options = ("--preset=miniature", "--prompts=0", "--images-per-prompt=1")
    found = evaluate(tmp_path, *options)
    assert found.metrics == ("identity", "text") and found.protocol.size == 128
    assert not found.gaps["missing"]  # the miniature has no base images
    np.testing.assert_allclose(found.column("identity"), 1, atol=1e-6)
    identity, text = found.column("identity"), found.column("text")
    np.testing.assert_allclose(found.column("hMean"), 2 * identity * text / (identity + text), atol=1e-6)
    save_png(tmp_path / "images/ada/0/0.png", np.zeros((64, 64, 3), np.uint8))
    common = ["evaluate", "--method=F2D", f"--images={tmp_path / 'images'}", f"--out={tmp_path / 'a.json'}"]
    assert main([*common, *options, "--size=64"]) == 2
    assert "the miniature's evaluators need 128x128 px" in capsys.readouterr().err
    assert main([*common, *options, "--adaface=weights.ckpt"]) == 2
    assert "--adaface cannot score the miniature's images" in capsys.readouterr().err


def test_the_reports_of_two_benchmarks_are_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, path in portraits().items():
        save_png(tmp_path / f"images/{name}/0/0.png", load_photo(path))
    evaluate(tmp_path, "--preset=miniature", "--prompts=0", "--images-per-prompt=1")
    out = f"--out={tmp_path / 'report'}"
    assert main(["report", f"--results={tmp_path / 'f2d.json'}", out, "--draws=100"]) == 0
    page = (tmp_path / "report/report.md").read_text()
    assert "| Method | identity | text | hMean | gMean |" in page
    assert "ublished" not in page and "AdaFace" not in page and "Table 2" not in page
    content = json.loads((tmp_path / "f2d.json").read_text())
    content["protocol"]["benchmark"], content["method"], content["pictures"] = "paper", "other", []
    (tmp_path / "paper.json").write_text(json.dumps(content))
    both = f"--results={tmp_path / 'f2d.json'},{tmp_path / 'paper.json'}"
    assert main(["report", both, out]) == 2
    assert "Report them separately" in capsys.readouterr().err


@pytest.mark.slow
def test_the_miniature_is_evaluated_without_a_download(tmp_path: Path) -> None:
    """The identity is kept and the scene is shown; the exported words give the same images as the mapper."""
    protocol = (f"--prompts={KING},{STREET}", "--images-per-prompt=1", "--identities=1", "--steps=12")
    models = ("--base=miniature", "--msid=miniature", "--mapper=miniature")
    found = evaluate(tmp_path / "mapper", *models, *protocol)
    assert found.column("identity").min() > 0.5 and found.column("text").tolist() == [1, 1]
    generation: dict[str, Any] = found.details["generation"]
    assert (generation["base"], generation["cfg"], generation["width"]) == ("the miniature", 4.0, 128)

    (name,) = found.protocol.identities
    encoder, pipeline = load_encoder(), load_pipeline()
    words = narrow(encoder.words(encoder.identify(load_photo(portraits()[name]), alignment="FFHQ")))
    (tmp_path / "words").mkdir()
    rows = embedding_rows(words, pipeline.prompts.position_embedding.detach().float())
    save_embedding(tmp_path / f"words/{name}.safetensors", widen_words(rows))  # as `f2d export` does
    exported = evaluate(tmp_path / "export", models[0], f"--words={tmp_path / 'words'}", *protocol)
    for slot, _ in found.images:
        images = [load_photo(tmp_path / run / "images" / slot.name) for run in ("mapper", "export")]
        assert np.abs(images[0].astype(int) - images[1]).max() <= 2
    assert exported.costs["parameters"] == 2 * 768


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, True), (torch.float16, False)])
def test_only_a_pipeline_in_float32_is_autocast(dtype: torch.dtype, expected: bool) -> None:
    """On a GPU the pipeline is in float16, with which autocast to bfloat16 is an error."""
    seen: list[bool] = []

    def generate_encoded(prompts: list[str], *rest: Any, **options: Any) -> list[Any]:
        seen.append(torch.is_autocast_enabled("cpu"))
        return []

    diffusion = SimpleNamespace(unet=SimpleNamespace(dtype=dtype))
    pipeline: Any = SimpleNamespace(diffusion=diffusion, generate_encoded=generate_encoded)
    models = Models(*[pipeline] * 4)
    planned = measure.PlannedImage("plain", 0, -1, 1, SceneAttributes(), "S*", torch.zeros(1, 77, 8), None)
    assert list(measure.generate_images(models, [planned], bf16=True)) == [[]]
    assert seen == [expected]
