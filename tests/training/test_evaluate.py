"""The complete chain on small random models: generate, resume after a kill, score, report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from face2diffusion.f2d.image import load_photo, save_png
from face2diffusion.training.cli import main
from face2diffusion.training.config import EvaluateConfig
from face2diffusion.training.evaluation import evaluate as module
from face2diffusion.training.evaluation.evaluate import evaluate
from face2diffusion.training.evaluation.results import Results
from support import evaluation
from support.evaluation import METRICS, SIZE, write_faces, write_models
from support.processes import Processes, run
from support.recognition import write_clip

PROMPTS, COUNT = (2, 13, 33), 4  # of 2 identities: 24 images and 2 base images


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces and models."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_models(folder / "models")
    write_faces(folder / "faces")
    return folder


def settings(workspace: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Options of a run that generates and scores in its own folder."""
    models = workspace / "models"
    return {
        "method": "F2D",
        "faces": str(workspace / "faces"),
        "aligned": True,
        "images": str(workspace / name / "images"),
        "out": str(workspace / name / "f2d.json"),
        "base": str(models / "sd"),
        "msid": str(models / "msid.pt"),
        "mapper": str(models / "mapping.pt"),
        "prompts": PROMPTS,
        "images_per_prompt": COUNT,
        "size": SIZE,
        "steps": 2,
        "draw_batch": 2,
        "clip": str(workspace / "models"),  # in workspace of an evaluator's weights
        "device": "cpu",
        **changes,
    }


@pytest.fixture(scope="module")
def uninterrupted(workspace: Path) -> Path:
    """The results of an uninterrupted run."""
    out, logged = evaluation.evaluate(settings(workspace, "uninterrupted"))
    assert logged[-1] == f"Scored 24 images of 2 identities with {', '.join(METRICS)}."
    return out


def comparable(results: Path) -> dict[str, Any]:
    """A JSON without times, folder names and the number of processes."""
    content = json.loads(results.read_text())
    for timed in (content["costs"], content["generation"]):
        assert timed.pop("encoding_seconds") > 0
    del content["config"], content["machine"]
    return content


def image_files(results: Path) -> dict[str, bytes]:
    folder = results.parent / "images"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def complete(folder: Path) -> list[Path]:
    """The images that are written completely."""
    return [path for path in folder.rglob("*.png") if not path.name.startswith(".")]


def test_results_hold_a_score_per_image(uninterrupted: Path, workspace: Path) -> None:
    found = Results.load(uninterrupted)
    assert [slot.name for slot, _ in found.images[:5]] == [
        *(f"alice/2/{seed}.png" for seed in range(4)),
        "alice/13/0.png",
    ]
    assert len(found.images) == 24 and all(tuple(scores) == METRICS for _, scores in found.images)
    assert found.costs["parameters"] == 313_408
    assert found.details["generation"]["steps"] == 2
    assert found.details["machine"]["device"].rstrip("s").endswith(" CPU thread")  # as in all reports
    assert not any(found.gaps.values())
    assert (uninterrupted.parent / found.folders["face:bob"]).resolve() == (
        workspace / "faces/bob.png"
    ).resolve()
    assert len(image_files(uninterrupted)) == 26


@pytest.mark.slow
def test_resumed_and_uninterrupted_runs_are_identical(workspace: Path, uninterrupted: Path) -> None:
    killed = settings(workspace, "killed")
    folder = Path(killed["images"])
    processes = Processes(evaluation.evaluate, killed, world=1)
    end = time.monotonic() + 60
    while len(complete(folder)) < 9 and time.monotonic() < end:  # no sleep: it generates some 50 per second
        pass
    processes.processes[0].kill()
    assert processes.wait() == [None]
    existing = {path: path.stat().st_mtime_ns for path in complete(folder)}
    assert 9 <= len(existing) < 26
    assert not Path(killed["out"]).exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["missing"]) == manifest["expected"] == 26  # as at the start
    out, logged = evaluation.evaluate(killed)
    assert f"Generating {26 - len(existing)} images on cpu x 1; {len(existing)} exist." in logged
    assert {path: path.stat().st_mtime_ns for path in existing} == existing
    assert image_files(out) == image_files(uninterrupted)
    assert comparable(out) == comparable(uninterrupted)
    assert json.loads((folder / "manifest.json").read_text())["missing"] == []


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(workspace: Path, uninterrupted: Path) -> None:
    (out, logged), (_, silent) = run(evaluation.evaluate, settings(workspace, "two"))
    assert image_files(out) == image_files(uninterrupted)
    assert comparable(out) == comparable(uninterrupted)
    assert "Generating 26 images on cpu x 2; 0 exist." in logged and silent == []
    assert json.loads(out.read_text())["machine"]["processes"] == 2


@pytest.mark.slow
def test_a_crashed_process_stops_the_other(workspace: Path) -> None:
    doomed = settings(workspace, "doomed", images_per_prompt=16)
    processes = Processes(evaluation.evaluate, doomed)
    end = time.monotonic() + 60
    while not any(Path(doomed["images"]).rglob("*.png")) and time.monotonic() < end:
        pass
    processes.processes[1].kill()
    first, second = processes.wait()
    assert isinstance(first, ConnectionError) and "crashed or timed out" in str(first)
    assert second is None
    assert not Path(doomed["out"]).exists()


def test_images_of_another_method_are_scored_with_their_gaps(
    workspace: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    images = tmp_path / "elite"
    for name in image_files(uninterrupted):
        save_png(images / name, load_photo(uninterrupted.parent / "images" / name)[:, ::-1])
    (images / "alice/2/0.png").unlink()
    save_png(images / "alice/2/1.png", load_photo(images / "alice/2/2.png")[:32, :32])
    (images / "bob/base/0.png").unlink()
    save_png(images / "carol/2/0.png", load_photo(images / "alice/2/2.png"))
    options = settings(
        workspace, "elite", method="ELITE", images=str(images), base="", msid="", mapper="", parameters=7
    )
    out, logged = evaluation.evaluate(options)
    found = Results.load(out)
    assert found.gaps == {
        "missing": ["alice/2/0.png", "bob/base/0.png"],
        "broken": {"alice/2/1.png": "32x32 px, not 64x64 px"},
        "unexpected": ["carol/2/0.png"],
        "skipped": {},
    }
    assert len(found.images) == 22
    assert all(("dCLIP" in scores) == (slot.identity == "alice") for slot, scores in found.images)
    assert found.costs == {"parameters": 7} and found.details["generation"] is None
    assert logged[-3:] == [
        "2 missing (alice/2/0.png, bob/base/0.png); the results list all.",
        "1 broken (alice/2/1.png); the results list all.",
        "1 unexpected (carol/2/0.png); the results list all.",
    ]
    assert not (images / "manifest.json").exists()  # the folders of other methods are read only


def test_later_scoring_reads_how_images_were_generated(workspace: Path, uninterrupted: Path) -> None:
    later = settings(
        workspace, "later", images=str(uninterrupted.parent / "images"), base="", msid="", mapper=""
    )
    assert comparable(evaluation.evaluate(later)[0])["pictures"] == comparable(uninterrupted)["pictures"]
    assert Results.load(workspace / "later/f2d.json").details["generation"]["base"] == "sd"


def test_commands_from_faces_to_the_page(
    workspace: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an evaluator of random weights in CLIP's layout in workspace of the hash scorer."""
    write_clip(tmp_path / "clip", seed=1)
    out = tmp_path / "f2d.json"
    options = settings(
        workspace, "uninterrupted", out=str(out), clip=str(tmp_path / "clip"), prompts="2,13,33"
    )
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
    ]
    assert main(["evaluate", *flags]) == 0
    assert f"Evaluation -> {out}" in capsys.readouterr().out
    found = Results.load(out)
    assert found.metrics == ("CLIP", "dCLIP")
    assert all(0 <= score <= 1 for _, scores in found.images for score in scores.values())
    assert "SHA-256" in found.scorer["CLIP"] or len(found.scorer["CLIP"]) > 20
    before = out.read_bytes()
    assert main(["evaluate", *flags]) == 0  # nothing to generate, and all embeddings are cached
    assert json.loads(out.read_bytes())["pictures"] == json.loads(before)["pictures"]
    assert main(["report", f"--results={out}", f"--out={tmp_path / 'report'}", "--draws=100"]) == 0
    page = (tmp_path / "report/report.md").read_text()
    assert "F2D has no AdaFace, SphereFace, FaceNet, SigLIP" in page
    assert page.count("![") == 3  # trade-off is empty of F2D, and a grid for each identity
    assert main(["report", f"--results={uninterrupted},{out}", f"--out={tmp_path / 'report'}"]) == 2
    assert "method 'F2D'" in capsys.readouterr().err


def test_bad_weights_and_faces_are_found_before_the_first_image(workspace: Path, tmp_path: Path) -> None:
    """A real scorer: its weights are loaded and the faces embedded before the base model is."""
    (tmp_path / "clip.txt").write_text("no weights")
    options = settings(workspace, "bad", images=str(tmp_path / "images"), clip=str(tmp_path / "clip.txt"))
    with pytest.raises((ValueError, OSError)):
        evaluate(EvaluateConfig(**options), lambda message: None)
    assert not list(tmp_path.rglob("*.png"))

    class Faceless(evaluation.HashScorer):
        def check_references(self, references: Sequence[str], faces: Any, progress: bool = True) -> None:
            assert [Path(path).name for path in references] == ["alice.png", "bob.png"]
            raise ValueError("No face found in 2 of 2 input photos")

    options = settings(workspace, "bad", images=str(tmp_path / "images"))
    with (
        mock.patch.object(module, "load_scorer", lambda **weights: Faceless()),
        pytest.raises(ValueError, match="No face found in 2"),
    ):
        evaluate(EvaluateConfig(**options), lambda message: None)
    assert not list(tmp_path.rglob("*.png"))


def test_the_minimum_score_reaches_the_scorer(workspace: Path, uninterrupted: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {}

    def load(**weights: Any) -> evaluation.HashScorer:
        given.update(weights)
        return evaluation.HashScorer()

    options = settings(workspace, "uninterrupted", out=str(tmp_path / "f2d.json"), min_score=0.25, base="")
    with mock.patch.object(module, "load_scorer", load):
        evaluate(EvaluateConfig(**options), lambda message: None)
    assert given["min_score"] == 0.25


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": ""}, "--method is missing"),
        ({"out": "results"}, "does not end with .json"),
        ({"base": "", "images": "nowhere"}, "--images 'nowhere' is not a folder"),
        ({"base": "", "clip": ""}, "Set --base to generate, or one of --adaface"),
        ({"clip": "nowhere"}, "--clip 'nowhere' does not exist"),
        ({"adaface": __file__}, "Set --detector to a YuNet"),
        ({"frame": 2.0}, r"--frame in \[0, 1\]"),
        ({"prompts": (2, 40)}, "Table 7 from 0 to 39"),
        ({"fid": "nowhere"}, "--fid 'nowhere' is not a folder"),
        ({"faces": "nowhere"}, "--faces 'nowhere' is not a folder"),
    ],
)
def test_invalid_settings_are_refused_before_any_work(
    workspace: Path, uninterrupted: Path, change: dict[str, Any], match: str
) -> None:
    options = settings(workspace, "bad", **change)
    if change.get("images") is None and not options["base"]:
        options["images"] = str(uninterrupted.parent / "images")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        evaluate(EvaluateConfig(**options), lambda message: None)
    assert not (workspace / "bad").exists()


def test_an_empty_folder_is_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image to score\. Name images identity/prompt_index/seed\.png"):
        evaluation.evaluate(settings(workspace, "empty", images=str(tmp_path), base=""))


def test_without_evaluators_images_are_only_generated(workspace: Path, uninterrupted: Path) -> None:
    out, logged = evaluation.evaluate(settings(workspace, "uninterrupted", clip=""))
    assert out == uninterrupted.parent / "images/manifest.json"
    assert logged[-1] == "No evaluator is given, so nothing is scored."
