"""The whole chain on small random models: draw, be killed, go on, score, report; one process or two; and other methods' pictures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from face2diffusion.f2d.image import load_photo, save_png
from face2diffusion.training.cli import main
from face2diffusion.training.config import EvaluateConfig
from face2diffusion.training.evaluation.evaluate import evaluate
from face2diffusion.training.evaluation.results import Results
from support import evaluation
from support.evaluation import METRICS, SIZE, write_faces, write_models
from support.processes import Processes, run
from support.recognition import write_clip

PROMPTS, COUNT = (2, 13, 33), 4  # of 2 identities: 24 pictures and 2 base pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces and models."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_models(folder / "models")
    write_faces(folder / "faces")
    return folder


def settings(place: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Options of a run that draws and scores into a folder of its own."""
    models = place / "models"
    return {
        "method": "F2D",
        "faces": str(place / "faces"),
        "aligned": True,
        "images": str(place / name / "images"),
        "out": str(place / name / "f2d.json"),
        "base": str(models / "sd"),
        "msid": str(models / "msid.pt"),
        "mapper": str(models / "mapping.pt"),
        "prompts": PROMPTS,
        "images_per_prompt": COUNT,
        "size": SIZE,
        "steps": 2,
        "draw_batch": 2,
        "clip": str(place / "models"),  # stands for the judge's weights
        "device": "cpu",
        **changes,
    }


@pytest.fixture(scope="module")
def unbroken(place: Path) -> Path:
    """The results of a run that nothing has stopped."""
    out, said = evaluation.evaluate(settings(place, "unbroken"))
    assert said[-1] == f"Scored 24 pictures of 2 identities with {', '.join(METRICS)}."
    return out


def comparable(results: Path) -> dict[str, Any]:
    """A JSON without times, and without the names of folders and the number of processes."""
    content = json.loads(results.read_text())
    for timed in (content["costs"], content["generation"]):
        assert timed.pop("encoding_seconds") > 0
    del content["config"], content["machine"]
    return content


def pictures(results: Path) -> dict[str, bytes]:
    folder = results.parent / "images"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def whole(folder: Path) -> list[Path]:
    """The pictures that are not being written just now."""
    return [path for path in folder.rglob("*.png") if not path.name.startswith(".")]


def test_results_hold_a_score_of_each_picture(unbroken: Path, place: Path) -> None:
    found = Results.load(unbroken)
    assert [slot.name for slot, _ in found.pictures[:5]] == [
        *(f"alice/2/{seed}.png" for seed in range(4)),
        "alice/13/0.png",
    ]
    assert len(found.pictures) == 24 and all(tuple(scores) == METRICS for _, scores in found.pictures)
    assert found.costs["parameters"] == 313_408
    assert found.details["generation"]["steps"] == 2
    assert not any(found.gaps.values())
    assert (unbroken.parent / found.folders["face:bob"]).resolve() == (place / "faces/bob.png").resolve()
    assert len(pictures(unbroken)) == 26


def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(place: Path, unbroken: Path) -> None:
    killed = settings(place, "killed")
    folder = Path(killed["images"])
    processes = Processes(evaluation.evaluate, killed, world=1)
    end = time.monotonic() + 60
    while len(whole(folder)) < 9 and time.monotonic() < end:  # no sleep: it draws some 50 a second
        pass
    processes.processes[0].kill()
    assert processes.wait() == [None]
    there = {path: path.stat().st_mtime_ns for path in whole(folder)}
    assert 9 <= len(there) < 26
    assert not Path(killed["out"]).exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert len(manifest["missing"]) == manifest["expected"] == 26  # as it was at the start
    out, said = evaluation.evaluate(killed)
    assert f"Drawing {26 - len(there)} pictures on cpu x 1; {len(there)} were there." in said
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert pictures(out) == pictures(unbroken)
    assert comparable(out) == comparable(unbroken)
    assert json.loads((folder / "manifest.json").read_text())["missing"] == []


def test_two_processes_give_what_one_gives(place: Path, unbroken: Path) -> None:
    (out, said), (_, silent) = run(evaluation.evaluate, settings(place, "two"))
    assert pictures(out) == pictures(unbroken)
    assert comparable(out) == comparable(unbroken)
    assert "Drawing 26 pictures on cpu x 2; 0 were there." in said and silent == []
    assert json.loads(out.read_text())["machine"]["processes"] == 2


def test_a_process_that_dies_stops_the_other(place: Path) -> None:
    doomed = settings(place, "doomed", images_per_prompt=16)
    processes = Processes(evaluation.evaluate, doomed)
    end = time.monotonic() + 60
    while not any(Path(doomed["images"]).rglob("*.png")) and time.monotonic() < end:
        pass
    processes.processes[1].kill()
    first, second = processes.wait()
    assert isinstance(first, ConnectionError) and "crashed or timed out" in str(first)
    assert second is None
    assert not Path(doomed["out"]).exists()


def test_pictures_of_another_method_are_scored_with_their_gaps(
    place: Path, unbroken: Path, tmp_path: Path
) -> None:
    images = tmp_path / "elite"
    for name in pictures(unbroken):
        save_png(images / name, load_photo(unbroken.parent / "images" / name)[:, ::-1])
    (images / "alice/2/0.png").unlink()
    save_png(images / "alice/2/1.png", load_photo(images / "alice/2/2.png")[:32, :32])
    (images / "bob/base/0.png").unlink()
    save_png(images / "carol/2/0.png", load_photo(images / "alice/2/2.png"))
    options = settings(
        place, "elite", method="ELITE", images=str(images), base="", msid="", mapper="", parameters=7
    )
    out, said = evaluation.evaluate(options)
    found = Results.load(out)
    assert found.gaps == {
        "missing": ["alice/2/0.png", "bob/base/0.png"],
        "broken": {"alice/2/1.png": "Expected 64x64 px, got 32x32 px"},
        "unexpected": ["carol/2/0.png"],
        "skipped": {},
    }
    assert len(found.pictures) == 22
    assert all(("dCLIP" in scores) == (slot.identity == "alice") for slot, scores in found.pictures)
    assert found.costs == {"parameters": 7} and found.details["generation"] is None
    assert said[-3:] == [
        "2 missing (alice/2/0.png, bob/base/0.png); all are listed in the results.",
        "1 broken (alice/2/1.png); all are listed in the results.",
        "1 unexpected (carol/2/0.png); all are listed in the results.",
    ]
    assert not (images / "manifest.json").exists()  # nothing is written into another's folder


def test_what_was_drawn_is_known_when_it_is_scored_later(place: Path, unbroken: Path) -> None:
    later = settings(place, "later", images=str(unbroken.parent / "images"), base="", msid="", mapper="")
    assert comparable(evaluation.evaluate(later)[0])["pictures"] == comparable(unbroken)["pictures"]
    assert Results.load(place / "later/f2d.json").details["generation"]["base"] == "sd"


def test_commands_from_faces_to_the_page(
    place: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a judge of random weights in CLIP's layout in place of the one above."""
    write_clip(tmp_path / "clip", seed=1)
    out = tmp_path / "f2d.json"
    options = settings(place, "unbroken", out=str(out), clip=str(tmp_path / "clip"), prompts="2,13,33")
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
    ]
    assert main(["evaluate", *flags]) == 0
    assert f"Evaluation -> {out}" in capsys.readouterr().out
    found = Results.load(out)
    assert found.metrics == ("CLIP", "dCLIP")
    assert all(0 <= score <= 1 for _, scores in found.pictures for score in scores.values())
    assert "SHA-256" in found.scorer["CLIP"] or len(found.scorer["CLIP"]) > 20
    before = out.read_bytes()
    assert main(["evaluate", *flags]) == 0  # nothing to draw, and all embeddings are in the cache
    assert json.loads(out.read_bytes())["pictures"] == json.loads(before)["pictures"]
    assert main(["report", f"--results={out}", f"--out={tmp_path / 'report'}", "--draws=100"]) == 0
    page = (tmp_path / "report/report.md").read_text()
    assert "F2D has no AdaFace, SphereFace, FaceNet, SigLIP" in page
    assert page.count("![") == 3  # trade-off is empty of F2D, and a grid for each identity
    assert main(["report", f"--results={unbroken},{out}", f"--out={tmp_path / 'report'}"]) == 2
    assert "Expected each method once, got 'F2D' twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": ""}, "Expected --method"),
        ({"out": "results"}, r"ends with \.json"),
        ({"base": "", "images": "nowhere"}, "Expected --images with a folder"),
        ({"base": "", "clip": ""}, "neither --base to draw nor one of --adaface"),
        ({"clip": "nowhere"}, "Expected weights at --clip"),
        ({"adaface": __file__}, "Expected --detector for the identity metrics"),
        ({"frame": 2.0}, r"--frame in \[0, 1\]"),
        ({"prompts": (2, 40)}, "prompts from 0 to 39"),
        ({"fid": "nowhere"}, "Expected --fid with a folder of real pictures"),
        ({"faces": "nowhere"}, "Expected --faces with a folder"),
    ],
)
def test_bad_orders_are_refused_before_any_work(
    place: Path, unbroken: Path, change: dict[str, Any], match: str
) -> None:
    options = settings(place, "bad", **change)
    if change.get("images") is None and not options["base"]:
        options["images"] = str(unbroken.parent / "images")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        evaluate(EvaluateConfig(**options), lambda message: None)
    assert not (place / "bad").exists()


def test_an_empty_folder_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected pictures named identity/prompt_index/seed\.png"):
        evaluation.evaluate(settings(place, "empty", images=str(tmp_path), base=""))


def test_without_judges_it_only_draws(place: Path, unbroken: Path) -> None:
    out, said = evaluation.evaluate(settings(place, "unbroken", clip=""))
    assert out == unbroken.parent / "images/manifest.json"
    assert said[-1] == "No judges are named, so nothing is scored."
