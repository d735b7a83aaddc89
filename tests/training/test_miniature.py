"""The miniature's recipe, too small to learn anything: every stage runs, what is done stays, and what is packed works."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d import miniature as shipped
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.pipeline import GenerationConfig
from face2diffusion.training.config import MINIATURE_SMALL, MiniatureConfig
from face2diffusion.training.miniature import measure
from face2diffusion.training.miniature.fit import FitConfig, fit
from face2diffusion.training.miniature.recipe import Miniature
from face2diffusion.training.miniature.report import write_report
from face2diffusion.training.run import Run


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Miniature:
    found = Miniature(MiniatureConfig(out=str(tmp_path_factory.mktemp("miniature") / "run"), **MINIATURE_SMALL), quiet)
    found.train()
    return found


@pytest.fixture(scope="module")
def weights(small, tmp_path_factory) -> Path:
    return small.ship(tmp_path_factory.mktemp("miniature") / "weights")


def test_what_is_done_stays(small):
    before = {path: path.stat().st_mtime_ns for path in small.folder.glob("*.safetensors")}
    assert {path.stem for path in before} == {"autoencoder", "msid", "expression", "verifier", "attributes"}
    small.train()
    assert before == {path: path.stat().st_mtime_ns for path in small.folder.glob("*.safetensors")}


def test_what_is_packed_draws_a_person(weights):
    encoder, pipeline = shipped.load_encoder(weights), shipped.load_pipeline(weights)
    photos = {name: load_photo(path) for name, path in shipped.portraits(weights).items()}
    assert len(photos) == 6
    identity = encoder.identify(photos["ada"], alignment="FFHQ")
    words = encoder.words(identity, encoder.express(photos["bela"], alignment="FFHQ"))
    assert words.shape == (2, 768)
    narrow = shipped.narrow(words)
    torch.testing.assert_close(narrow.repeat_interleave(4, 1), words, rtol=0, atol=0)
    pipeline.add_subject(narrow)
    (picture,) = pipeline.generate("A photo of S* as a chef", GenerationConfig(width=128, height=128, steps=2), progress=False)
    assert picture.image.shape == (128, 128, 3)
    assert picture.parameters["model"] == "the miniature"
    verifier, attributes = shipped.load_judges(weights)
    features = verifier.embed([photos["ada"], photos["ada"], picture.image])
    assert features[0] @ features[1] == pytest.approx(1, abs=1e-5)
    assert len(attributes.recognise([picture.image])) == 1
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) < 40 * 2**20


def test_the_encoder_of_another_training_is_refused(small, weights, tmp_path):
    with pytest.raises(ValueError, match="Expected the MSID encoder that"):
        FaceEncoder.load(small.encoder("arcface-msf"), weights / "mapper.safetensors")


def test_arcface_at_all_depths_has_one_norm(small):
    config = read(small.encoder("arcface-msf")).config
    assert (config["depths"], config["normed"]) == ([3, 6, 9, 12], [12])
    assert read(small.encoder("arcface")).config["depths"] == [12]


def test_the_report_is_written_from_scores_that_stay(small, monkeypatch):
    monkeypatch.setattr(measure, "SETTINGS", replace(measure.SETTINGS, steps=2))
    page = write_report(small, seeds=(0,))
    text = page.read_text(encoding="utf-8")
    for part in ("What held", "Table 3", "Fig. 4", "Table 4", "Table 5", "Fig. 7", "ArcFace w/ MSF", "Reconstruction w/ DSC"):
        assert part in text
    assert {path.name for path in page.parent.glob("*.*g")} == {
        "people.jpg",
        "variants.jpg",
        "depths-arcface.png",
        "depths-msid.png",
        "best-of-n.svg",
    }
    before = {path: path.stat().st_mtime_ns for path in (small.folder / "scores").glob("*.json")}
    assert len(before) == len(measure.VARIANTS)
    assert write_report(small, seeds=(0,)).read_text(encoding="utf-8") == text
    assert before == {path: path.stat().st_mtime_ns for path in (small.folder / "scores").glob("*.json")}


def test_the_report_shows_each_seed(small, monkeypatch):
    monkeypatch.setattr(measure, "SETTINGS", replace(measure.SETTINGS, steps=2))
    write_report(small, seeds=(0,))
    for path in (small.folder / "scores").glob("*-0.json"):
        scores = [score for score in json.loads(path.read_text(encoding="utf-8")) if score["task"] != "class"]
        for score in scores:
            score["text"] = 1.0 - score["text"]
        path.with_name(path.name.replace("-0.", "-1.")).write_text(json.dumps(scores), encoding="utf-8")
    row = next(
        line for line in write_report(small, seeds=(0, 1)).read_text(encoding="utf-8").splitlines() if "Text accuracy at least" in line
    )
    measured, first, second = (float(number) for number in re.search(r"\| (\S+) \\\[.* \| (\S+), (\S+) \|$", row).groups())
    assert measured == pytest.approx(0.5, abs=1e-3), "the mean over seeds"
    assert first + second == pytest.approx(1.0, abs=2e-3)


def test_scores():
    score = measure.Score("prompt", 1, 0, 0, (0.9, 0.5, -0.2), 0.25, True)
    assert score.identity == 0.5
    assert score.hmean == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert replace(score, who=2).identity == 0
    assert replace(score, who=2).hmean == 0


def line(out: Path, steps: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [3.0]])
    config = FitConfig(
        out=str(out), steps=steps, batch_size=64, lr=0.1, warmup=1, weight_decay=0.0, bf16=False, device="cpu", save_every=10
    )
    return fit(network, lambda step: (network(x) - y + 0.01 * torch.randn_like(y)).pow(2).mean(), config, quiet)


def test_fitting_learns(tmp_path):
    np.testing.assert_allclose(line(tmp_path / "run", 300).weight.detach(), [[1, -2, 3]], atol=0.1)


def test_a_stopped_fit_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = line(tmp_path / "whole", 40)
    real_save = Run.save_state

    def kill(run, step, state):
        real_save(run, step, state)
        if step == 20:
            run.stopping = True

    monkeypatch.setattr(Run, "save_state", kill)
    with pytest.raises(InterruptedError, match="at step 20 of 40; the same command goes on"):
        line(tmp_path / "parts", 40)
    monkeypatch.undo()
    torch.testing.assert_close(line(tmp_path / "parts", 40).weight, whole.weight, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path):
    network = torch.nn.Linear(1, 1)
    config = FitConfig(out=str(tmp_path / "run"), steps=3, batch_size=1, lr=0.1, bf16=False, device="cpu")
    with pytest.raises(FloatingPointError, match="Expected a finite loss, got nan at step 0"):
        fit(network, lambda step: network.weight.sum() * float("nan"), config, quiet)
