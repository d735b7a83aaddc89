"""The miniature's recipe, too small to learn: every stage runs and is kept, and the packed weights work."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d import miniature as shipped
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.diffusion.pipeline import GenerationConfig
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.miniature.evaluators import Attributes, Verifier
from face2diffusion.f2d.miniature.prompts import SceneAttributes
from face2diffusion.f2d.miniature.widen import widen_words
from face2diffusion.f2d.networks.mapping import MapperConfig, MappingNetwork, load_mapper
from face2diffusion.training.cli import main
from face2diffusion.training.config import MINIATURE_SMALL, MapperTrainingConfig, MiniatureConfig
from face2diffusion.training.engine.fit import FitConfig, fit
from face2diffusion.training.engine.run_folder import Run
from face2diffusion.training.miniature.recipe import Miniature
from face2diffusion.training.miniature.shipping import (
    PEOPLE,
    _write_wide_mapper,
    ship_weights,
    unpack_weights,
)
from face2diffusion.training.miniature.study import averages, measure, miniature_report
from face2diffusion.training.miniature.study.claims import Claim, check_claims
from face2diffusion.training.miniature.study.held_out_data import OPENING, held_out_person, write_prompt
from face2diffusion.training.miniature.study.held_out_evaluation import evaluate_held_out
from face2diffusion.training.miniature.study.miniature_report import write_miniature_report
from face2diffusion.training.miniature.study.scores import VARIANTS, Score, Variant
from face2diffusion.training.miniature.world.samples import HELD_OUT_PEOPLE
from face2diffusion.training.miniature.world.scene import OPENINGS
from face2diffusion.training.msid.verification import Similarities


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Miniature:
    """Every part, trained for a step or two in batches of 4."""
    folder = tmp_path_factory.mktemp("miniature") / "run"
    found = Miniature(MiniatureConfig(out=str(folder), **MINIATURE_SMALL), quiet)
    fit = Miniature._fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Miniature, "_fit", lambda *inputs: replace(fit(*inputs), batch_size=4))
        found.train()
    return found


@pytest.fixture(scope="module")
def weights(small, tmp_path_factory) -> Path:
    return ship_weights(small, tmp_path_factory.mktemp("miniature") / "weights")


@pytest.mark.slow
def test_shipped_weights_reach_their_targets():
    """A small part of the held-out evaluation in docs/miniature/shipped.md, with wider bounds."""
    claims = evaluate_held_out(measure.Models.from_package(), people=3, prompts=(2, 12, 25, 38))
    recognized, text, gap, reference, requested = (claim.value for claim in claims)
    assert recognized > 0.85
    assert text > 0.85
    assert gap < 0.1
    assert reference > 0.6
    assert requested > 0.6


@pytest.mark.slow
def test_finished_stages_are_kept(small):
    before = {path: path.stat().st_mtime_ns for path in small.folder.glob("*.safetensors")}
    assert {path.stem for path in before} == {"autoencoder", "msid", "expression", "verifier", "attributes"}
    small.train()
    assert before == {path: path.stat().st_mtime_ns for path in small.folder.glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "run", "total"),
    [
        (lambda one: one.mapper("cgdr", 5), "mapper-cgdr-5", 1),
        (lambda one: one.encoder("arcface"), "arcface", 1),
    ],
    ids=["mapper", "encoder"],
)
def test_a_stopped_training_is_not_finished(small, make: Callable[[Miniature], Path], run: str, total: int):
    def stop(message: str) -> None:
        if re.search(r"step 0 (to|of) ", message):  # logged once the run handles signals
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedError, match=f"{run}' stopped at step 0 of {total}"):
        make(Miniature(small.config, stop))
    assert not (small.folder / f"{run}.safetensors").exists()
    make(small)
    assert json.loads((small.folder / run / "checkpoint.json").read_text(encoding="utf-8"))["step"] == total


@pytest.mark.slow
def test_a_folder_takes_no_other_settings(small):
    before = (small.folder / "config.json").read_text(encoding="utf-8")
    for change in ({"photos": 9}, {"mapper_steps": 3}, {"bf16": True}):
        ((name, value),) = change.items()
        with pytest.raises(
            ValueError,
            match=rf"other settings: {name} .*, not {value}\. Use another --out",
        ):
            Miniature(replace(small.config, **change), quiet)
    assert (small.folder / "config.json").read_text(encoding="utf-8") == before
    Miniature(
        replace(
            small.config,
            stage="report",
            presets=("masked",),
            seeds=(3,),
            report_people=5,
            report_prompts=2,
            best_of=4,
        ),
        quiet,
    )


@pytest.mark.slow
def test_a_finished_training_does_not_ask_how_it_was_compiled(small):
    assert Miniature(replace(small.config, compile=True), quiet).mapper("cgdr") == small.mapper("cgdr")


def test_the_report_uses_the_requested_seeds(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        miniature_report, "write_miniature_report", lambda miniature, seeds: asked.append(tuple(seeds))
    )
    for options in ([], ["--seeds", "0,4"]):
        assert (
            main(["miniature", "report", "--preset", "small", "--out", str(tmp_path / "run"), *options]) == 0
        )
    assert asked == [(0, 1, 2), (0, 4)]


def test_an_unknown_preset_is_refused_before_any_training(tmp_path):
    config = MiniatureConfig(out=str(tmp_path), **{**MINIATURE_SMALL, "presets": ("cgdr", "mask")})
    with pytest.raises(ValueError, match="Unknown --presets: mask. Choose from .*cgdr"):
        Miniature(config, quiet).train()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_evaluators_accept_images_from_another_device():
    photo = np.zeros((128, 128, 3), np.uint8)
    assert Verifier().to("meta").embed([photo]).device.type == "meta"
    assert Attributes().to("meta")(torch.zeros(1, 3, 128, 128)).device.type == "meta"


@pytest.mark.slow
def test_packed_weights_replace_training(small, weights, tmp_path):
    other = Miniature(replace(small.config, out=str(tmp_path / "other")), quiet)
    unpack_weights(other, weights)
    own = read(small.encoder("msid")).tensors
    assert all(torch.equal(tensor, own[name]) for name, tensor in read(other.encoder("msid")).tensors.items())
    other.mapper("cgdr")
    assert other.verifier().embed([np.zeros((128, 128, 3), np.uint8)]).shape == (1, 128)
    trained = {path.name for path in other.folder.iterdir() if (path / "checkpoint.json").exists()}
    assert trained == {"mapper-cgdr-0"}, "everything else is unpacked"


@pytest.mark.parametrize("length", [0.0, 6.0])
def test_a_packed_mapper_gives_the_same_words_widened(tmp_path, length):
    torch.manual_seed(0)
    narrow = MappingNetwork(MapperConfig(20, 4, 16, 1, word_dim=192, word_length=length)).eval()
    save(tmp_path / "narrow.safetensors", narrow.state_dict(), "mapper", narrow.config, msid="", loss="cgdr")
    _write_wide_mapper(tmp_path / "narrow.safetensors", tmp_path / "wide.safetensors")
    wide, v_id = load_mapper(read(tmp_path / "wide.safetensors")), torch.randn(2, 20)
    torch.testing.assert_close(wide(v_id), widen_words(narrow(v_id), 768), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_packed_weights_generate_a_person(weights):
    encoder, pipeline = shipped.load_encoder(weights), shipped.load_pipeline(weights)
    photos = {name: load_photo(path) for name, path in shipped.portraits(weights).items()}
    assert len(photos) == 6
    identity = encoder.identify(photos["ada"], alignment="FFHQ")
    words = encoder.words(identity, encoder.express(photos["bela"], alignment="FFHQ"))
    assert words.shape == (2, 768)
    narrow = shipped.narrow(words)
    torch.testing.assert_close(narrow.repeat_interleave(4, 1), words, rtol=0, atol=0)
    pipeline.add_subject(narrow)
    (generated,) = pipeline.generate(
        "A photo of S* as a chef", GenerationConfig(width=128, height=128, steps=2), progress=False
    )
    assert generated.image.shape == (128, 128, 3)
    assert generated.parameters["model"] == "the miniature"
    verifier, attributes = shipped.load_evaluators(weights)
    features = verifier.embed([photos["ada"], photos["ada"], generated.image])
    assert features[0] @ features[1] == pytest.approx(1, abs=1e-5)
    assert len(attributes.recognize([generated.image])) == 1
    assert sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) < 40 * 2**20


@pytest.mark.slow
def test_the_encoder_of_another_training_is_refused(small, weights, tmp_path):
    with pytest.raises(ValueError, match="was trained with the MSID encoder"):
        FaceEncoder.load(small.encoder("arcface-msf"), weights / "mapper.safetensors")


@pytest.mark.slow
def test_arcface_at_all_depths_has_one_norm(small):
    config = read(small.encoder("arcface-msf")).config
    assert (config["depths"], config["normed"]) == ([3, 6, 9, 12], [12])
    assert read(small.encoder("arcface")).config["depths"] == [12]


def shorten(monkeypatch) -> None:
    """One step at a quarter of the pixels."""
    monkeypatch.setattr(measure, "SETTINGS", replace(measure.SETTINGS, steps=1, width=64, height=64))
    monkeypatch.setattr(measure, "_PLAIN_SEEDS", 1)


@pytest.mark.slow
def test_the_report_is_written_from_saved_scores(small, monkeypatch):
    shorten(monkeypatch)
    monkeypatch.setattr(miniature_report, "date", SimpleNamespace(today=lambda: "the day of the test"))
    page = write_miniature_report(small, seeds=(0,))
    text = page.read_text(encoding="utf-8")
    for part in (
        "Claims",
        "Evaluators",
        "Table 3",
        "Fig. 4",
        "Table 4",
        "Table 5",
        "Fig. 7",
        "ArcFace w/ MSF",
        "Reconstruction w/ DSC",
    ):
        assert part in text
    assert re.search(r"\| “a person”, without a face \| – \| \S+ .* \| – \| – \| \S+ .* \| – \|", text), (
        "Table 4's base model"
    )
    assert (
        "N = 1, 2, for two of the variants, 2 of the 2 people and every second of the 3 prompts (2)" in text
    )
    assert "64 rendered samples of 16 held-out people" in text
    assert {path.name for path in page.parent.glob("*.*g")} == {
        "people.jpg",
        "variants.jpg",
        "depths-arcface.png",
        "depths-msid.png",
        "best-of-n.svg",
    }
    before = {path: path.stat().st_mtime_ns for path in (small.folder / "scores").glob("*.json")}
    assert len(before) == len(VARIANTS)
    assert write_miniature_report(small, seeds=(0,)).read_text(encoding="utf-8") == text
    assert before == {path: path.stat().st_mtime_ns for path in (small.folder / "scores").glob("*.json")}


@pytest.mark.slow
def test_scores_match_the_settings(small, monkeypatch):
    shorten(monkeypatch)
    variant = VARIANTS["masked"]
    assert {score.who for score in measure.measure(small, variant, 0)} == {0, 1}
    more = Miniature(replace(small.config, report_people=3), quiet)
    assert {score.who for score in measure.measure(more, variant, 0)} == {0, 1, 2}
    assert {score.who for score in measure.measure(small, variant, 0)} == {0, 1}


def test_no_caption_starts_with_the_prompts_opening():
    openings = {*OPENINGS, *(MapperTrainingConfig.prompt, MapperTrainingConfig.class_prompt)}
    assert not any(text.startswith(OPENING) for text in openings)
    assert write_prompt(SceneAttributes(job="king")) == f"{OPENING} S* as a king"


def test_people_used_for_tuning_come_last():
    assert len({held_out_person(who) for who in range(100)}) == 100
    shown = {HELD_OUT_PEOPLE[number] for number, _ in PEOPLE.values()}
    assert not shown & {held_out_person(who) for who in range(60)}


def report_seeds(monkeypatch, change: Callable[[Score], Score]) -> None:
    """Make the scores of seed 1 those of seed 0, changed."""
    real = miniature_report.measure

    def measured(miniature: Miniature, variant: Variant, seed: int) -> list[Score]:
        scores = real(miniature, variant, 0)
        return scores if seed == 0 else [change(score) for score in scores if score.task != "class"]

    shorten(monkeypatch)
    monkeypatch.setattr(miniature_report, "measure", measured)


@pytest.mark.slow
def test_the_report_shows_each_seed(small, monkeypatch):
    report_seeds(monkeypatch, lambda score: replace(score, text=1.0 - score.text))
    lines = write_miniature_report(small, seeds=(0, 1)).read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if "Text accuracy at least" in line)
    measured, first, second = (
        float(number) for number in re.search(r"\| (\S+) \\\[.* \| (\S+), (\S+) \|$", row).groups()
    )
    assert measured == pytest.approx(0.5, abs=1e-3), "the mean over seeds"
    assert first + second == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
def test_a_person_is_measured_for_other_seeds_too(small, monkeypatch):
    report_seeds(monkeypatch, lambda score: score)
    text = write_miniature_report(small, seeds=(1,)).read_text(encoding="utf-8")
    assert re.search(r"within 0.05 of “a person” \| \w+ \| by -?\d", text)


MakeScores = Callable[[int], tuple[float, float]]  # identity and text of a person


def claims_of(rows: dict[str, MakeScores]) -> dict[str, Claim]:
    """Check the claims on scores of 20 people; other rows, and "a person", have 0.8 and 0.9."""

    def scores_of(row: MakeScores) -> averages.Scores:
        found = []
        for who in range(20):
            identity, text = row(who)
            cosines = tuple(identity if other == who else 0.0 for other in range(20))
            found += [
                Score(task, who, prompt, 0, cosines, text, True)
                for task in ("plain", "prompt", "class", "reference")
                for prompt in (0, 24)
            ]
        return {0: found}

    scores = {name: scores_of(rows.get(name, lambda who: (0.8, 0.9))) for name in (*VARIANTS, "a person")}
    cosines = np.linspace(0, 1, 200)
    depths = {name: {3: Similarities(cosines, cosines[::-1])} for name in ("msid", "arcface")}
    return {claim.text: claim for claim in check_claims(scores, scores["a person"], depths)}


def find(claims: dict[str, Claim], start: str) -> Claim:
    (found,) = (claim for text, claim in claims.items() if text.startswith(start))
    return found


def test_differences_hold_if_their_whole_interval_does():
    sure = claims_of(
        {
            "a person": lambda who: (0.8, 0.92 + 0.001 * who),
            "reconstruction": lambda who: (0.82 + 0.001 * who, 0.8),
        }
    )
    gap, lost = find(sure, "Text accuracy is within 0.05"), find(sure, "CGDR loses at most")
    assert gap.held and gap.value == pytest.approx(0.0295)
    assert re.match(r"by 0\.030 \[0\.02\d, 0\.03\d\]", gap.measured), gap.measured
    assert lost.held and lost.value == pytest.approx(1 - 0.8 / 0.8295)
    some = range(8)
    unsure = claims_of(
        {
            "a person": lambda who: (0.8, 0.9 + 0.1 * (who in some)),
            "reconstruction": lambda who: (0.8 + 0.1 * (who in some), 0.8),
        }
    )
    gap, lost = find(unsure, "Text accuracy is within 0.05"), find(unsure, "CGDR loses at most")
    assert gap.value <= 0.05 and not gap.held, "its interval reaches above"
    assert lost.value <= 0.05 and not lost.held


def test_the_claims_of_table_5():
    paper = {
        "cgdr": lambda who: (0.8, 0.8),
        "reconstruction": lambda who: (0.8, 0.6),
        "masked": lambda who: (0.79, 0.59),
        "reconstruction-dsc": lambda who: (0.4, 0.9),
    }
    claims = [claim for text, claim in claims_of(paper).items() if "Table 5" in text]
    assert len(claims) == 8
    assert all(claim.held for claim in claims), claims
    other = paper | {"reconstruction-dsc": lambda who: (0.82, 0.6), "masked": lambda who: (0.79, 0.85)}
    claims = [claim for text, claim in claims_of(other).items() if "Table 5" in text]
    assert [claim.text.split(" (")[0] for claim in claims if claim.held] == [
        "CGDR's text accuracy is above Reconstruction's"
    ]


def test_the_claims_of_table_3():
    paper = {
        "cgdr": lambda who: (0.79, 0.8),
        "arcface": lambda who: (0.4, 0.85),
        "arcface-msf": lambda who: (0.8, 0.6),
    }
    claims = [claim for text, claim in claims_of(paper).items() if "Table 3" in text]
    assert len(claims) == 5
    assert all(claim.held for claim in claims), claims
    other = paper | {"arcface": lambda who: (0.81, 0.9), "arcface-msf": lambda who: (0.8, 0.95)}
    assert not any(claim.held for text, claim in claims_of(other).items() if "Table 3" in text)


def test_scores():
    score = Score("prompt", 1, 0, 0, (0.9, 0.5, -0.2), 0.25, True)
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
        out=str(out),
        steps=steps,
        batch_size=64,
        lr=0.1,
        warmup=1,
        weight_decay=0.0,
        precision="no",
        device="cpu",
        save_every=10,
    )
    return fit(
        network, lambda step: (network(x) - y + 0.01 * torch.randn_like(y)).pow(2).mean(), config, quiet
    )


def test_fitting_does_not_fuse_where_torch_cannot(tmp_path, monkeypatch):
    asked, real = [], torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim,
        "AdamW",
        lambda *args, **options: asked.append(options["fused"]) or real(*args, **options),
    )
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there)
        line(tmp_path / str(there), 1)
    assert asked == [True, False]


def test_fitting_learns(tmp_path):
    np.testing.assert_allclose(line(tmp_path / "run", 300).weight.detach(), [[1, -2, 3]], atol=0.1)


def test_a_stopped_fit_resumes_to_the_same_weights(tmp_path, monkeypatch):
    complete = line(tmp_path / "complete", 40)
    monkeypatch.setattr(
        Run, "stopping", property(lambda run: run.committed is not None and run.committed.step == 20)
    )
    with pytest.raises(InterruptedError, match="step 20 of 40"):
        line(tmp_path / "parts", 40)
    monkeypatch.undo()
    torch.testing.assert_close(line(tmp_path / "parts", 40).weight, complete.weight, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path):
    network = torch.nn.Linear(1, 1)
    config = FitConfig(out=str(tmp_path / "run"), steps=3, batch_size=1, lr=0.1, precision="no", device="cpu")
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        fit(network, lambda step: network.weight.sum() * float("nan"), config, quiet)
