"""Generation into the layout: what is kept, generated again and refused; faces from photos and videos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from face2diffusion.f2d.face.alignment import align_face
from face2diffusion.f2d.face.detection import Face, NoFaceError
from face2diffusion.f2d.face.ffhq import align_ffhq
from face2diffusion.f2d.image import load_photo, save_png
from face2diffusion.f2d.networks.recognition import SphereFace
from face2diffusion.training.config import EvaluateConfig
from face2diffusion.training.evaluation import generate as module
from face2diffusion.training.evaluation import references
from face2diffusion.training.evaluation.generate import (
    ImageGenerator,
    generate_images,
    group_batches,
    list_missing,
)
from face2diffusion.training.evaluation.protocol import BASE, RECORD, Inventory, Protocol, Slot, scan
from face2diffusion.training.evaluation.references import (
    References,
    list_faces,
    prepare_references,
    read_face,
)
from face2diffusion.training.evaluation.scoring import Evaluator, Request, Score, Scorer
from PIL import Image
from support.evaluation import SIZE, write_faces, write_models

LANDMARKS = np.array([(60.0, 60), (100, 60), (80, 85), (65, 105), (95, 105)])
PROTOCOL = Protocol(("alice",), (13,), 3, SIZE)


class Detector:
    """Finds a face in all but dark images, and counts its calls."""

    calls = 0

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        self.calls += 1
        if photo.mean() < 20:
            raise NoFaceError("Expected a face, got none.")
        return [Face(np.array([50.0, 40, 60, 80]), LANDMARKS, 0.9)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Options that name faces and small models."""
    folder = tmp_path_factory.mktemp("generate")
    return {
        **write_models(folder / "models"),
        "faces": str(write_faces(folder / "faces")),
        "aligned": True,
        "size": SIZE,
        "steps": 2,
        "draw_batch": 2,
        "images_per_prompt": 3,
    }


@pytest.fixture(scope="module")
def generator(settings: dict) -> ImageGenerator:
    return ImageGenerator(EvaluateConfig(**settings), "cpu")


def generate(generator: ImageGenerator, settings: dict, folder: Path) -> int:
    """Generate what is missing of PROTOCOL; returns the number of images."""
    found = prepare_references(EvaluateConfig(**settings), "", lambda message: None)
    inventory = scan(folder, PROTOCOL)
    todo = list_missing(
        inventory,
        {slot: generator.record(slot, found) for slot in inventory.present},
        folder,
    )
    assert generate_images(generator, group_batches(todo, generator.batch_size), found, folder) == {}
    return len(todo)


def test_images_equal_the_pipelines_and_hold_a_record(
    generator: ImageGenerator, settings: dict, tmp_path: Path
) -> None:
    assert generate(generator, settings, tmp_path) == 4
    assert scan(tmp_path, PROTOCOL).missing == ()
    prompt = "A photo of S* sipping coffee at a café terrace"
    seeds = [Slot("alice", 13, number).noise_seed for number in range(2)]
    generated = generator.subjects.pipeline.generate(prompt, generator.settings, seeds, 2, 2, progress=False)
    for number in range(2):
        assert np.array_equal(load_photo(tmp_path / f"alice/13/{number}.png"), generated[number].image)
    base_seed = Slot("alice", BASE, 0).noise_seed
    (base,) = generator.subjects.pipeline.generate(
        "A photo of S*", generator.settings, base_seed, progress=False
    )
    assert np.array_equal(load_photo(tmp_path / "alice/base/0.png"), base.image)
    text = Image.open(tmp_path / "alice/13/2.png").text
    record = json.loads(text[RECORD])
    assert (record["seed"], record["prompt"], record["steps"], record["cfg"]) == (
        Slot("alice", 13, 2).noise_seed,
        prompt,
        2,
        7.0,
    )
    assert "café terrace" in text["parameters"]


def test_intact_images_are_kept_and_others_generated_with_the_same_bytes(
    generator: ImageGenerator, settings: dict, tmp_path: Path
) -> None:
    generate(generator, settings, tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.png")}
    (tmp_path / "alice/13/1.png").write_bytes(before[tmp_path / "alice/13/1.png"][0][:100])
    (tmp_path / "alice/13/2.png").unlink()
    assert generate(generator, settings, tmp_path) == 2
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) == (path.name == "0.png")
    assert generate(generator, settings, tmp_path) == 0


def test_images_of_another_run_stop_this_one(
    generator: ImageGenerator, settings: dict, tmp_path: Path
) -> None:
    generate(generator, settings, tmp_path)
    other = ImageGenerator(EvaluateConfig(**{**settings, "steps": 3}), "cpu")
    with pytest.raises(
        ValueError, match=r"4 image\(s\) of another run \(first: alice/base/0.png: steps 2, not 3\)"
    ):
        generate(other, settings, tmp_path)
    foreign = Slot("alice", 13, 0)
    record = generator.record(foreign, prepare_references(EvaluateConfig(**settings), "", print))
    old = json.dumps({"seed": 0, **{key: value for key, value in generator.source.items() if key != "seeds"}})
    with pytest.raises(ValueError, match=rf"seed 0, not {foreign.noise_seed}.*omit --base to score"):
        list_missing(Inventory({foreign: old}, {}, (), ()), {foreign: record}, tmp_path)
    with pytest.raises(ValueError, match="without a record"):
        list_missing(Inventory({foreign: ""}, {}, (), ()), {foreign: record}, tmp_path)


def test_the_face_is_encoded_once_for_all_its_prompts(
    generator: ImageGenerator, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects: list[dict] = []
    monkeypatch.setattr(generator.subjects, "_subject", "")
    monkeypatch.setattr(
        generator.subjects.pipeline, "add_subject", lambda *arguments, **options: subjects.append(options)
    )
    found = prepare_references(EvaluateConfig(**settings), "", lambda message: None)
    for slot in sorted(Protocol(("alice", "bob"), (0, 1, 2), 2).slots()):
        generator.subjects.select(slot.identity, found)
    assert subjects == [{"positional": "replace"}] * 2


def test_a_missed_face_is_reported_and_the_others_are_generated(
    generator: ImageGenerator, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(slots: list[Slot], references: References, folder: Path) -> None:
        if slots[0].identity == "alice":
            raise NoFaceError("Expected a face, got none.")
        generated.extend(slots)

    generated: list[Slot] = []
    monkeypatch.setattr(generator, "generate", generate)
    found = prepare_references(EvaluateConfig(**settings), "", lambda message: None)
    failed = generate_images(
        generator, group_batches(sorted(Protocol(("alice", "bob"), (0,), 2).slots()), 2), found, tmp_path
    )
    assert failed == {"alice": "Expected a face, got none."}
    assert [slot.name for slot in generated] == ["bob/0/0.png", "bob/0/1.png"]


def test_batches_do_not_depend_on_what_is_missing() -> None:
    slots = [
        Slot("a", BASE, 0),
        Slot("a", 0, 1),
        Slot("a", 0, 2),
        Slot("a", 0, 3),
        Slot("a", 1, 0),
        Slot("b", 1, 0),
    ]
    assert [[slot.seed for slot in batch] for batch in group_batches(slots, 2)] == [
        [0],
        [1],
        [2, 3],
        [0],
        [0],
    ]


@pytest.mark.parametrize(
    ("change", "match"),
    [({"msid": ""}, "--base needs --msid"), ({"draw_batch": 0}, "--draw-batch 0 .* at least 1")],
)
def test_invalid_settings_are_refused(settings: dict, change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ImageGenerator(EvaluateConfig(**{**settings, **change}), "cpu")


def test_encoding_time_and_parameters_for_table_2(generator: ImageGenerator, settings: dict) -> None:
    found = module.describe_generator(generator, prepare_references(EvaluateConfig(**settings), "", print))
    assert found["parameters"] == 313_408  # 2 x (320*128 + 128*128 + 128*768 + biases) + 64
    assert 0 < found["encoding_seconds"] < 1


# --- Faces ---


def write_video(path: Path, frames: int = 9) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 160))
    for number in range(frames):
        writer.write(np.full((160, 160, 3), 20 * number + 20, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("frame", "level"), [(0.0, 20), (0.5, 100), (1.0, 180)])
def test_the_middle_frame_of_a_video_is_read(tmp_path: Path, frame: float, level: int) -> None:
    video = write_video(tmp_path / "clip.avi")
    assert abs(float(read_face(video, frame).mean()) - level) < 3


def test_a_damaged_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ValueError, match=r"clip\.mp4' cannot be read"):
        read_face(tmp_path / "clip.mp4")


def test_faces_of_photos_and_videos_are_cropped_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_load_detector", lambda config: Detector())
    photo = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    save_png(tmp_path / "faces/alice.png", photo)
    save_png(tmp_path / "faces/deep/dark.png", np.zeros((160, 160, 3), np.uint8))
    write_video(tmp_path / "faces/bob.avi")
    config = EvaluateConfig(faces=str(tmp_path / "faces"), face_size=64, detector="yunet.onnx")
    logged: list[str] = []
    found = prepare_references(config, tmp_path / "crops", logged.append)
    assert list(found.crops) == ["alice", "bob"]
    assert found.skipped == {"dark": "Expected a face, got none."}
    assert np.array_equal(load_photo(found.crops["alice"]), align_ffhq(photo, LANDMARKS, 64))
    assert any("dark" in message for message in logged)
    times = {path: Path(path).stat().st_mtime_ns for path in found.crops.values()}
    assert prepare_references(config, tmp_path / "crops", logged.append).hashes == found.hashes
    assert {path: Path(path).stat().st_mtime_ns for path in times} == times
    Path(found.crops["bob"]).write_bytes(b"half")
    save_png(tmp_path / "faces/alice.png", photo[::-1])
    again = prepare_references(config, tmp_path / "crops", logged.append)
    assert again.hashes["bob"] == found.hashes["bob"]
    assert again.hashes["alice"] != found.hashes["alice"]


def test_a_face_is_detected_once_for_its_crop_its_words_and_its_scores(
    generator: ImageGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector()
    monkeypatch.setattr(references, "_load_detector", lambda config: detector)
    photo = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    save_png(tmp_path / "faces/alice.png", photo)
    config = EvaluateConfig(faces=str(tmp_path / "faces"), face_size=64, detector="yunet.onnx")
    found = prepare_references(config, tmp_path / "crops", lambda message: None)
    again = prepare_references(config, tmp_path / "crops", lambda message: None)
    face, crop = found.faces["alice"], found.crops["alice"]
    assert again.faces["alice"].to_json() == face.to_json()

    monkeypatch.setattr(generator.subjects.encoder, "detector", detector)
    monkeypatch.setattr(generator.subjects, "_subject", "")
    encoded: list[np.ndarray] = []
    identify = generator.subjects.encoder.identify_crops
    monkeypatch.setattr(
        generator.subjects.encoder, "identify_crops", lambda crops: encoded.extend(crops) or identify(crops)
    )
    generator.subjects.select("alice", found)
    generator.subjects.measure_costs(found)
    np.testing.assert_array_equal(encoded[0], align_face(load_photo(crop), face.landmarks))

    network = SphereFace().eval()
    cropped: list[np.ndarray] = []
    monkeypatch.setattr(network, "crop", lambda photo, face: cropped.append(face.box) or photo[:112, :96])
    monkeypatch.setattr(SphereFace, "forward", lambda self, x: x.flatten(1)[:, :512])
    save_png(tmp_path / "image.png", np.zeros((160, 160, 3), np.uint8))  # without a face
    save_png(tmp_path / "large.png", photo)
    scorer = Scorer([Evaluator(network)], detector)
    request = Request(str(tmp_path / "image.png"), str(tmp_path / "large.png"), "", face=face)
    assert scorer.score([request], progress=False) == [Score({"SphereFace": 0.0}, face=False)]
    np.testing.assert_array_equal(cropped, [face.box])
    assert detector.calls == 2, "once in alice's photo, once in the image"
    cropped.clear()
    Scorer([Evaluator(network)], detector).score([replace(request, face=None)], progress=False)
    assert detector.calls == 4, "without a given face the reference is detected too"


def test_identities_are_sampled_by_seed(tmp_path: Path) -> None:
    for number in range(20):
        save_png(tmp_path / f"{number:02d}.png", np.zeros((16, 16, 3), np.uint8))
    first = list(list_faces(tmp_path, 5))
    assert first == list(list_faces(tmp_path, 5)) == sorted(first)
    assert first != list(list_faces(tmp_path, 5, seed=1))
    assert len(list_faces(tmp_path, 0)) == len(list_faces(tmp_path, 100)) == 20


def test_invalid_faces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        list_faces(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="no photos or videos"):
        list_faces(tmp_path)
    save_png(tmp_path / "wide.png", np.zeros((16, 32, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"None of the 1 files .*first: wide: .* 32x16 px, but FFHQ crops are square"
    ):
        prepare_references(EvaluateConfig(faces=str(tmp_path), aligned=True), "", print)
    with pytest.raises(ValueError, match="needs --detector"):
        prepare_references(EvaluateConfig(faces=str(tmp_path)), tmp_path / "crops", print)
    save_png(tmp_path / "more/wide.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="would be one identity"):
        list_faces(tmp_path)


def test_a_portrait_with_a_real_detector(settings: dict, detector_file: Path, tmp_path: Path) -> None:
    data = pytest.importorskip(
        "skimage.data", reason="needs scikit-image for a portrait: pip install scikit-image"
    )
    save_png(tmp_path / "faces/eileen.png", data.astronaut())
    config = EvaluateConfig(
        **{
            **settings,
            "faces": str(tmp_path / "faces"),
            "aligned": False,
            "detector": str(detector_file),
            "steps": 1,
        }
    )
    found = prepare_references(config, tmp_path / "crops", lambda message: None)
    crop = load_photo(found.crops["eileen"])
    assert crop.shape == (512, 512, 3)
    generator = ImageGenerator(config, "cpu")
    aligned = generator.subjects._crop(crop).astype(
        float
    )  # the same face, detected in the FFHQ crop or in the photo
    direct = generator.subjects.encoder.crop_face(data.astronaut()).crop.astype(float)
    assert np.corrcoef(aligned.ravel(), direct.ravel())[0, 1] > 0.85  # mirrored it is 0.4
    assert generate_images(generator, [[Slot("eileen", 2, 0)]], found, tmp_path / "images") == {}
    assert load_photo(tmp_path / "images/eileen/2/0.png").shape == (SIZE, SIZE, 3)
