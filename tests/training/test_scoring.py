"""Scoring with all six metrics against the computations written out; resuming; and what cannot be scored."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d.face.alignment import ARCFACE_TEMPLATE
from face2diffusion.f2d.face.detection import Face, NoFaceError, YuNet
from face2diffusion.f2d.image import save_png
from face2diffusion.f2d.networks.recognition import SphereFace, load_recognizer
from face2diffusion.training.evaluation.load_scorer import load_scorer
from face2diffusion.training.evaluation.scoring import METRICS, Evaluator, Request, Scorer
from face2diffusion.training.evaluation.text import load_text_evaluator
from PIL import Image
from support import recognition as published

LANDMARKS = np.array(
    [(200.12, 101.82), (247.13, 102.62), (220.37, 124.54), (198.61, 142.77), (239.67, 143.64)]
)
FACE = Face(np.array([170.0, 60, 90, 110]), LANDMARKS, 0.9)


class Astronaut:
    """A detector that finds the portrait's face in every picture of its size."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        self.calls += 1
        if photo.shape != (512, 512, 3):
            raise NoFaceError("Expected a face, got none.")
        return [FACE]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of all judges."""
    folder = tmp_path_factory.mktemp("judges")
    published.write_adaface(folder / "adaface_ir50.ckpt", seed=1)
    published.write_sphereface(folder / "sphere20a.pth", seed=2)
    published.write_facenet(folder / "vggface2.pt", seed=3)
    published.write_clip(folder / "clip", seed=4)
    published.write_siglip(folder / "siglip", seed=5)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portrait as photo.png, brighter and tinted as 0.png to 5.png, a base picture, and nobody.png."""
    portrait = pytest.importorskip(
        "skimage.data", reason="needs scikit-image for a portrait: pip install scikit-image"
    ).astronaut()
    folder = tmp_path_factory.mktemp("pictures")
    save_png(folder / "photo.png", portrait)
    for index in range(6):
        tint = np.roll([1.0, 0.9, 0.75], index) * (0.6 + 0.08 * index)
        save_png(folder / f"{index}.png", (portrait * tint).astype(np.uint8))
    save_png(folder / "base.png", portrait[:, ::-1].copy())
    save_png(folder / "nobody.png", np.random.default_rng(0).integers(0, 255, (256, 320, 3), dtype=np.uint8))
    return folder


def judges(weights: Path, *names: str) -> list[Evaluator]:
    """Load the named judges."""
    load: dict[str, Callable] = {
        "AdaFace": lambda: load_recognizer(weights / "adaface_ir50.ckpt"),
        "SphereFace": lambda: load_recognizer(weights / "sphere20a.pth"),
        "FaceNet": lambda: load_recognizer(weights / "vggface2.pt"),
        "CLIP": lambda: load_text_evaluator(weights / "clip", "CLIP"),
        "SigLIP": lambda: load_text_evaluator(weights / "siglip", "SigLIP"),
    }
    return [Evaluator(load[name](), key=name) for name in names]


def requests(pictures: Path, *names: str) -> list[Request]:
    photo, base = str(pictures / "photo.png"), str(pictures / "base.png")
    prompts = ("A photo of a person as a chef", "A photo of a person in a city")
    return [
        Request(str(pictures / f"{name}.png"), photo, prompts[number % 2], base)
        for number, name in enumerate(names)
    ]


# --- Values -------------------------------------------------------------------------------------------------


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return max(float(a.double() @ b.double() / a.double().norm() / b.double().norm()), 0)


def by_hand(weights: Path, request: Request) -> dict[str, float]:
    """One image's scores without the package's networks, crops and batches (alignment has its own tests)."""
    from transformers import CLIPModel, CLIPProcessor, SiglipModel, SiglipProcessor

    def rgb(path: str) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"))

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).permute(2, 0, 1)[None]

    def state(name: str) -> dict:
        content = torch.load(weights / name, weights_only=True)
        return {
            key.removeprefix("model."): value for key, value in content.get("state_dict", content).items()
        }

    def aligned(photo: np.ndarray) -> np.ndarray:
        matrix = np.vstack([published.cp2tform(LANDMARKS, ARCFACE_TEMPLATE), (0, 0, 1)])
        return cv2.warpPerspective(photo, matrix, (112, 112), flags=cv2.INTER_LINEAR)

    def box(photo: np.ndarray) -> np.ndarray:
        return np.asarray(
            Image.fromarray(photo).crop((170, 60, 260, 170)).resize((160, 160), Image.Resampling.BILINEAR)
        )

    features = {
        "AdaFace": lambda photo: published.adaface(
            state("adaface_ir50.ckpt"), tensor(aligned(photo)[..., ::-1] / 127.5 - 1), "IR-50"
        ),
        "SphereFace": lambda photo: published.sphereface(
            state("sphere20a.pth"), tensor((aligned(photo)[:, 8:104, ::-1] - 127.5) / 128)
        ),
        "FaceNet": lambda photo: published.facenet(state("vggface2.pt"), tensor((box(photo) - 127.5) / 128)),
    }
    scores = {
        name: cosine(compute(rgb(request.reference))[0], compute(rgb(request.image))[0])
        for name, compute in features.items()
    }
    clip, clip_inputs = (
        CLIPModel.from_pretrained(weights / "clip").eval(),
        CLIPProcessor.from_pretrained(weights / "clip"),
    )
    both = clip_inputs(
        text=[request.prompt, request.base_prompt],
        images=[Image.open(request.image), Image.open(request.base)],
        return_tensors="pt",
        padding=True,
    )
    output = clip(**both)
    scores["CLIP"] = max(float(output.logits_per_image[0, 0] / clip.logit_scale.exp()), 0)
    scores["dCLIP"] = cosine(
        output.image_embeds[0] - output.image_embeds[1], output.text_embeds[0] - output.text_embeds[1]
    )
    siglip, siglip_inputs = (
        SiglipModel.from_pretrained(weights / "siglip").eval(),
        SiglipProcessor.from_pretrained(weights / "siglip"),
    )
    inputs = siglip_inputs(
        text=[request.prompt],
        images=[Image.open(request.image)],
        return_tensors="pt",
        padding="max_length",
        truncation=True,
    )
    logits = siglip(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits_per_image
    scores["SigLIP"] = float(torch.sigmoid(logits)[0, 0])
    return scores


@torch.no_grad()
def test_all_six_metrics_equal_the_computation_by_hand(weights: Path, pictures: Path) -> None:
    asked = requests(pictures, "0", "1", "nobody", "2")
    scorer = Scorer(
        judges(weights, "AdaFace", "SphereFace", "FaceNet", "CLIP", "SigLIP"), Astronaut(), batch_size=3
    )
    assert scorer.metrics == METRICS
    found = scorer.score(asked, progress=False)
    scores = [score.metrics for score in found]
    assert [score.face for score in found] == [True, True, False, True]
    assert [list(row) for row in scores] == [list(METRICS)] * 4
    for index in (0, 3):
        assert scores[index] == pytest.approx(by_hand(weights, asked[index]), rel=1e-4, abs=1e-5)
    assert [scores[2][name] for name in ("AdaFace", "SphereFace", "FaceNet")] == [0.0, 0.0, 0.0], "no face"
    assert scores[2]["SigLIP"] > 0, "the text is judged all the same"
    assert scores[0] != scores[1]


def test_a_picture_is_most_like_itself(weights: Path, pictures: Path) -> None:
    (score,) = Scorer(judges(weights, "SphereFace"), Astronaut()).score(
        requests(pictures, "photo"), progress=False
    )
    assert score.metrics == {"SphereFace": pytest.approx(1)}


def test_identity_needs_neither_base_nor_prompt_and_text_no_reference(weights: Path, pictures: Path) -> None:
    image = str(pictures / "0.png")
    assert Scorer(judges(weights, "SphereFace"), Astronaut()).score(
        [Request(image, image, "")], progress=False
    )
    scorer = Scorer(judges(weights, "SigLIP"))
    assert scorer.metrics == ("SigLIP",)
    assert scorer.score([Request(image, "gone.png", "a chef")], progress=False)
    assert scorer.score([], progress=False) == []


# --- Batches and the cache ----------------------------------------------------------------------------------


def count(judge: Evaluator, stop_at: int = 10**9) -> list[int]:
    """Record the sizes of a judge's batches; raise KeyboardInterrupt at one of them."""
    sizes: list[int] = []
    embed = judge.network.embed

    def counted(inputs: list) -> torch.Tensor:
        if len(sizes) == stop_at:
            raise KeyboardInterrupt
        sizes.append(len(inputs))
        return embed(inputs)

    judge.network.embed = counted
    return sizes


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    asked = requests(pictures, "0", "1", "2", "nobody", "3", "4", "5")
    names = ("SphereFace", "SigLIP")
    unbroken = Scorer(judges(weights, *names), Astronaut(), batch_size=2).score(asked, progress=False)
    first = judges(weights, *names)
    count(first[1], stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        Scorer(first, Astronaut(), batch_size=2, cache=tmp_path / "scores.sqlite").score(
            asked, progress=False
        )
    second = judges(weights, *names)
    sizes = [count(judge) for judge in second]
    scorer = Scorer(second, Astronaut(), batch_size=2, cache=tmp_path / "scores.sqlite")
    assert scorer.score(asked, progress=False) == unbroken
    assert sizes == [[2, 1], [2, 1]], "what was committed is not computed again: 4 of 7 pictures"
    assert scorer.score(asked, progress=False) == unbroken
    assert sizes == [[2, 1], [2, 1]]


def test_one_content_is_embedded_once(weights: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copy(pictures / "0.png", tmp_path / "copy.png")
    (judge,) = judges(weights, "SphereFace")
    sizes, detector = count(judge), Astronaut()
    asked = [*requests(pictures, "0", "photo"), *requests(tmp_path.parent, f"{tmp_path.name}/copy")]
    asked[2] = Request(asked[2].image, asked[0].reference, "")
    scores = Scorer([judge], detector).score(asked, progress=False)
    assert scores[0] == scores[2]
    assert (sizes, detector.calls) == ([1, 1], 2)


def test_another_judge_or_detector_does_not_believe_the_cache(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    asked, cache = requests(pictures, "0"), tmp_path / "scores.sqlite"
    for key, detector, computed in (
        ("a", "yunet", 2),
        ("a", "yunet", 0),
        ("b", "yunet", 2),
        ("a", "fan", 2),
        ("", "fan", 2),
    ):
        judge = Evaluator(judges(weights, "SphereFace")[0].network, key=key)
        sizes = count(judge)
        Scorer([judge], Astronaut(), detector, cache=cache).score(asked, progress=False)
        assert sum(sizes) == computed, (key, detector)


# --- What cannot be scored ----------------------------------------------------------------------------------


def bad(pictures: Path, tmp_path: Path, what: str) -> Request:
    good = requests(pictures, "0")[0]
    (tmp_path / "half.png").write_bytes((pictures / "0.png").read_bytes()[:5000])
    (tmp_path / "empty.png").touch()
    paths = {"missing": "gone.png", "half": "half.png", "empty": "empty.png", "folder": "."}
    if what == "faceless":
        return Request(good.image, str(pictures / "nobody.png"), good.prompt, good.base)
    if what == "no base":
        return Request(good.image, good.reference, good.prompt)
    return Request(str(tmp_path / paths[what]), good.reference, good.prompt, good.base)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "There is no image at '.*gone.png'"),
        ("half", "half.png' is damaged"),
        ("empty", "empty.png' has 0 bytes"),
        ("folder", "cannot be read"),
        ("faceless", "No face found in 1 of .*nobody.png'"),
        ("no base", "There is no image at ''"),
    ],
)
def test_a_bad_picture_is_an_error_that_names_it(
    weights: Path, pictures: Path, tmp_path: Path, what: str, message: str
) -> None:
    scorer = Scorer(judges(weights, "SphereFace", "CLIP"), Astronaut())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        scorer.score([*requests(pictures, "1"), bad(pictures, tmp_path, what)], progress=False)


def test_damaged_weights_are_not_zeros(pictures: Path) -> None:
    network = SphereFace().eval()
    network.fc5.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="SphereFace returned NaN or infinity for '.*photo.png'"):
        Scorer([Evaluator(network)], Astronaut()).score(requests(pictures, "0"), progress=False)


def test_a_cache_that_is_none_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.sqlite").write_text('{"scores": [' * 200)
    with pytest.raises(ValueError, match="scores.sqlite' is damaged or not a score cache"):
        Scorer(judges(weights, "SigLIP"), cache=tmp_path / "scores.sqlite")
    with pytest.raises(OSError, match="cannot be written .*--cache"):
        Scorer(judges(weights, "SigLIP"), cache=tmp_path)


def test_judges_that_do_not_fit_together_are_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match="No evaluator is given"):
        load_scorer()
    with pytest.raises(ValueError, match="SigLIP, SigLIP are not unique"):
        Scorer(judges(weights, "SigLIP", "SigLIP"))
    with pytest.raises(ValueError, match="Set --detector to a YuNet"):
        load_scorer(sphereface=weights / "sphere20a.pth")
    with pytest.raises(ValueError, match="batch size 0 .*at least 1"):
        load_scorer(siglip=weights / "siglip", batch_size=0)


# --- Files --------------------------------------------------------------------------------------------------


def test_the_scorer_says_what_made_its_scores(weights: Path, pictures: Path, detector_file: Path) -> None:
    scorer = load_scorer(
        adaface=weights / "adaface_ir50.ckpt",
        clip=weights / "clip",
        siglip=weights / "siglip",
        detector=detector_file,
        batch_size=4,
    )
    assert scorer.metrics == ("AdaFace", "CLIP", "dCLIP", "SigLIP")
    digest = hashlib.sha256((weights / "adaface_ir50.ckpt").read_bytes()).hexdigest()
    assert scorer.description["AdaFace"] == (
        f"adaface_ir50.ckpt, IR-50, aligned from template to photo, SHA-256 {digest}"
    )
    assert scorer.description["SigLIP"].endswith("temperature 9.974, bias -4")
    assert scorer.description["detector"].startswith(f"{detector_file.name}, SHA-256 ")
    scores = [score.metrics for score in scorer.score(requests(pictures, "3", "nobody"), progress=True)]
    face = YuNet(detector_file).detect(np.asarray(Image.open(pictures / "photo.png")))[0]
    assert np.abs(face.landmarks - LANDMARKS).max() < 5  # a tenth of the distance of the eyes
    assert scores[0]["AdaFace"] > 0
    assert scores[1]["AdaFace"] == 0


def test_the_minimum_score_reaches_the_evaluators(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """A face of score 0.4 counts at 0.3, does not at 0.6, and no embedding of one is used for the other."""
    asked: list[float] = []

    class Doubtful(Astronaut):
        def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
            asked.append(min_score)
            if min_score > 0.4:
                raise NoFaceError("none")
            return super().detect(photo, min_score)

    cache = tmp_path / "scores.sqlite"
    request = Request(str(pictures / "0.png"), str(pictures / "photo.png"), "", face=FACE)
    faces = []
    for min_score in (0.3, 0.6):
        scorer = Scorer(judges(weights, "SphereFace"), Doubtful(), "d", cache=cache, min_score=min_score)
        faces += [score.face for score in scorer.score([request], progress=False)]
        assert ("minimum score 0.3" in scorer.description["detector"]) == (min_score == 0.3)
    assert faces == [True, False] and asked == [0.3, 0.6]


def test_faces_are_checked_without_images(weights: Path, pictures: Path) -> None:
    scorer = Scorer(judges(weights, "SphereFace"), Astronaut())
    photo, nobody = str(pictures / "photo.png"), str(pictures / "nobody.png")
    scorer.check_references([photo], {}, progress=False)
    with pytest.raises(ValueError, match=r"No face found in 1 of 2 input photos \('.*nobody\.png'"):
        scorer.check_references([photo, nobody], {}, progress=False)
    with pytest.raises(ValueError, match="outside the 320x256 px photo"):  # a given place is used
        scorer.check_references([nobody], {nobody: Face(FACE.box + 900, LANDMARKS + 900, 1.0)}, False)


def test_facenet_is_refused_with_fan(weights: Path) -> None:
    with pytest.raises(ValueError, match="FAN.*--detector to a YuNet"):
        load_scorer(facenet=weights / "vggface2.pt", detector="FAN")


def test_weights_in_the_wrong_slot_are_named(weights: Path, detector_file: Path) -> None:
    with pytest.raises(ValueError, match="the weights of FaceNet: this is SphereFace's network"):
        load_scorer(facenet=weights / "sphere20a.pth", detector=detector_file)
    with pytest.raises(ValueError, match="siglip' has the type 'siglip', not CLIP"):
        load_scorer(clip=weights / "siglip")
    with pytest.raises(FileNotFoundError, match="no config.json. Choose a folder of SigLIP"):
        load_scorer(siglip=weights)


def test_half_a_folder_is_refused(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        return Path(shutil.copytree(weights / "clip", tmp_path / name))

    tensors = load_file(weights / "clip" / "model.safetensors")
    save_file(
        {key: value for key, value in tensors.items() if "vision" not in key},
        copy("text") / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match="CLIP in '.*text' lacks .* tensors"):
        load_text_evaluator(tmp_path / "text", "CLIP")
    (copy("plain") / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="CLIP in '.*plain' cannot be read"):
        load_text_evaluator(tmp_path / "plain", "CLIP")
    (copy("cut") / "model.safetensors").write_bytes(b"\x08" * 64)
    with pytest.raises(ValueError, match="CLIP in '.*cut' cannot be read"):
        load_text_evaluator(tmp_path / "cut", "CLIP")
    (copy("config") / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="config.json' is not a model's config"):
        load_text_evaluator(tmp_path / "config", "CLIP")
