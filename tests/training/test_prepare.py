"""From photos to a cache with small random networks: values, mirror images, skips, kills, bad input."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import types
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.face.alignment import (
    align_expression,
    align_face,
    mirror_landmarks,
    similarity_transform,
)
from face2diffusion.f2d.face.ffhq import (
    align_ffhq,
    align_ffhq_mask,
    crop_ffhq,
    ffhq_landmarks,
    ffhq_quad,
    resize_ffhq,
    resize_ffhq_mask,
)
from face2diffusion.f2d.files import fingerprint
from face2diffusion.f2d.image import load_photo, mirror, to_signed
from face2diffusion.training.cli import main
from face2diffusion.training.config import MapperTrainingConfig, PrepareConfig
from face2diffusion.training.data import cache as cache_module
from face2diffusion.training.data import prepare as module
from face2diffusion.training.data.altered import Alteration
from face2diffusion.training.data.cache import LatentCache, read_index
from face2diffusion.training.data.parsing import CELEBAMASK_LABELS, load_parser
from face2diffusion.training.data.photo_crops import Cutter, Source
from face2diffusion.training.data.prepare import list_photos, prepare
from face2diffusion.training.mapper.dataset import split_cache
from PIL import Image
from support import processes
from support.official import write_expression, write_mapper, write_msid
from support.parsers import write_bisenet, write_segformer
from support.random_pipeline import random_pipeline
from support.small_disk import run_on_small_disk

LANDMARKS = np.array(
    [(200.12, 101.82), (247.13, 102.62), (220.37, 124.54), (198.61, 142.77), (239.67, 143.64)]
)
MOST = tuple(name for name in CELEBAMASK_LABELS if name != "background")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return pytest.importorskip(
        "skimage.data", reason="needs scikit-image for a portrait: pip install scikit-image"
    ).astronaut()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Small random weights of everything."""
    folder = tmp_path_factory.mktemp("weights")
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    write_msid(folder / "msid.pt", seed=1, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    write_mapper(folder / "mapping.pt", id_dim=256, hidden_dim=32)
    write_expression(folder / "epoch_20.pth", seed=2)
    write_bisenet(folder / "bisenet.pth", seed=3)
    write_segformer(folder / "segformer", seed=5)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory, portrait) -> Path:
    """Four usable photos in two folders, and four others."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    Image.fromarray(portrait).save(folder / "a.png")
    Image.fromarray(portrait[:300, 60:400]).save(folder / "b.JPG", quality=95)
    Image.fromarray(portrait // 2 + 60).save(folder / "more" / "c.webp", lossless=True)
    Image.fromarray(mirror(portrait)).save(folder / "more" / "d.png")
    (folder / "broken.jpg").write_bytes((folder / "b.JPG").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    Image.fromarray(np.full((128, 160, 3), 90, np.uint8)).save(folder / "wall.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def settings(photos, weights, detector_file) -> PrepareConfig:
    """Of all networks, without a folder for the cache."""
    return PrepareConfig(
        photos=str(photos),
        base=str(weights / "sd"),
        msid=str(weights / "msid.pt"),
        expression=str(weights / "epoch_20.pth"),
        parser=str(weights / "segformer"),
        detector=str(detector_file),
        image_size=64,
        classes=MOST,
        shard_size=3,
        batch_size=2,
        workers=2,
        device="cpu",
    )


@pytest.fixture
def config(settings, tmp_path) -> PrepareConfig:
    """Without expressions, which take the most time."""
    return replace(settings, out=str(tmp_path / "cache"), expression="")


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> tuple[PrepareConfig, list[str]]:
    """A cache of all networks, and what was said."""
    config = replace(settings, out=str(tmp_path_factory.mktemp("whole") / "cache"))
    said: list[str] = []
    assert prepare(config, said.append) == Path(config.out)
    return config, said


def quiet(message: str) -> None:
    """Say nothing."""


def contents(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def encoder_of(config: PrepareConfig, weights: Path) -> FaceEncoder:
    return FaceEncoder.load(
        config.msid, weights / "mapping.pt", config.expression or None, config.detector or None
    )


# --- What is in the cache -----------------------------------------------------------------------------------


def test_every_photo_is_cached_or_listed(whole):
    config, said = whole[0], list(whole[1])
    cache = LatentCache(config.out, verify=True)
    assert [cache.name(index) for index in range(len(cache))] == [
        "a.png",
        "b.JPG",
        "more/c.webp",
        "more/d.png",
    ]
    report = json.loads((Path(config.out) / "report.json").read_text())
    assert (report["photos"], report["cached"], report["skipped"]) == (7, 4, {"no face": 1, "unreadable": 2})
    listed = {photo["photo"]: photo for photo in report["list"]}
    assert listed.keys() == {"broken.jpg", "empty.jpg", "wall.png"}
    assert (
        "scores 0.60 or more" in listed["wall.png"]["message"] and "0 bytes" in listed["empty.jpg"]["message"]
    )
    assert report["passed_over"] == ["notes.txt"]
    assert said.pop(0) == "Ignored 1 files that are not photos: 1 .txt (notes.txt)."
    assert said[0].startswith("Preparing 7 of 7 photos in 3 shard(s) on cpu; 0 are in the cache already.")
    assert [line.split()[1] for line in said if line.startswith("prepare:")] == ["3/7", "6/7", "7/7"]
    assert said[-2] == "Cached 4 of 7 photos."
    assert said[-1].startswith(
        "Skipped 3: 1 no face, 2 unreadable (broken.jpg, empty.jpg, wall.png); all are listed in"
    )
    assert sorted(path.name for path in Path(config.out).iterdir()) == [
        "cache.json",
        "report.json",
        *(f"shard-00000{number}.{suffix}" for number in range(3) for suffix in ("json", "tar")),
    ]


def test_the_cache_names_the_weights_that_made_it(whole, weights):
    config, _ = whole
    cache = LatentCache(config.out)
    vae = AutoencoderKL.from_pretrained(config.base, subfolder="vae")
    encoder = encoder_of(config, weights)
    cache.check(
        vae=fingerprint(vae.state_dict()),
        msid=encoder.msid_fingerprint,
        expression=fingerprint(encoder.expression.state_dict()),
        parser=fingerprint(load_parser(config.parser).state_dict()),
    )
    assert (cache.latent_size, cache.id_dim, cache.exp_dim, cache.depths) == (8, 256, 64, (1, 2, 3, 4))
    assert cache.info.scaling_factor == 0.18215 and cache.info.classes == MOST


def test_latents_are_the_scaled_posterior_of_the_picture_and_its_mirror_image(whole):
    config, _ = whole
    cache = LatentCache(config.out)
    vae = AutoencoderKL.from_pretrained(config.base, subfolder="vae")
    photo = load_photo(Path(config.photos) / "a.png")
    picture = align_ffhq(photo, detected(config, photo), 64)
    for flip in (False, True):
        with torch.no_grad():
            posterior = vae.encode(to_signed([mirror(picture) if flip else picture])).latent_dist
        item = cache.load(0, flip)
        for name, expected in (("latent_mean", posterior.mean), ("latent_std", posterior.std)):
            torch.testing.assert_close(item[name].float(), expected[0] * 0.18215, rtol=2e-3, atol=1e-4)
    assert not torch.equal(cache.load(0, False)["latent_mean"], cache.load(0, True)["latent_mean"].flip(2)), (
        "a VAE is not symmetric"
    )


def detected(config: PrepareConfig, photo: np.ndarray) -> np.ndarray:
    from face2diffusion.f2d.encoder import load_detector

    return load_detector(config.detector).detect(photo)[0].landmarks.astype(np.float64)


def test_features_are_those_of_the_encoder_for_the_photo_and_the_mirrored_photo(whole, weights):
    config, _ = whole
    cache, encoder = LatentCache(config.out), encoder_of(config, weights)
    for index in range(len(cache)):
        photo = load_photo(Path(config.photos) / cache.name(index))
        plain, flipped = cache.load(index), cache.load(index, flip=True)
        torch.testing.assert_close(plain["v_id"], encoder.identify(photo).v_id, rtol=0, atol=1e-4)
        torch.testing.assert_close(plain["v_exp"], encoder.express(photo).v_exp, rtol=0, atol=1e-4)
        points = mirror_landmarks(detected(config, photo), photo.shape[1])
        torch.testing.assert_close(
            flipped["v_id"], encoder.identify(mirror(photo), landmarks=points).v_id, rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            flipped["v_exp"], encoder.express(mirror(photo), landmarks=points).v_exp, rtol=0, atol=1e-4
        )
        assert (plain["v_id"] - flipped["v_id"]).abs().max() > 1e-3, "a face is not symmetric"


def test_masks_are_shares_and_mirrored(whole):
    config, _ = whole
    cache = LatentCache(config.out)
    photo = load_photo(Path(config.photos) / "a.png")
    picture = align_ffhq(photo, detected(config, photo), 64)
    mask = load_parser(config.parser).identity_mask(
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255, MOST
    )[0]
    expected = mask.float().reshape(8, 8, 8, 8).mean((1, 3))
    assert 0 < expected.mean() < 1, "a mask that is the same everywhere shows nothing"
    torch.testing.assert_close(cache.load(0)["mask"].float(), expected, rtol=0, atol=1e-3)
    assert torch.equal(cache.load(0, flip=True)["mask"], cache.load(0)["mask"].flip(1))


def test_bisenet_serves_as_parser_too(config, weights, photos, tmp_path):
    (tmp_path / "one").mkdir()
    os.link(photos / "a.png", tmp_path / "one" / "a.png")
    config = replace(config, photos=str(tmp_path / "one"), parser=str(weights / "bisenet.pth"))
    mask = LatentCache(prepare(config, quiet)).load(0)["mask"]
    assert 0 < mask.float().mean() <= 1


# --- Alignment ----------------------------------------------------------------------------------------------


def test_an_aligned_face_lies_where_ffhq_puts_it(portrait, detector_file):
    from face2diffusion.f2d.face.detection import YuNet

    picture = align_ffhq(portrait, LANDMARKS, 512)
    found = YuNet(detector_file).detect(picture)[0].landmarks
    assert np.abs(found - ffhq_landmarks(512)).max() < 0.06 * 512, (
        "the average face, but for her own features"
    )


def test_a_second_alignment_changes_nothing(portrait):
    picture = align_ffhq(portrait, LANDMARKS, 256)
    corners = np.array([(0, 0), (0, 256), (256, 256), (256, 0)]) - 0.5
    transform = similarity_transform(ffhq_quad(LANDMARKS), corners)
    points = LANDMARKS @ transform[:, :2].T + transform[:, 2]
    again, shifted = (align_ffhq(picture, points + shift, 256).astype(int) for shift in (0, 0.5))
    change = np.abs(again - picture)[16:-16, 16:-16].mean()
    assert change < 1.5 and change < 0.5 * np.abs(shifted - picture)[16:-16, 16:-16].mean(), (
        "but for the blur of sampling twice"
    )


def test_the_arcface_crop_of_an_ffhq_picture_follows_from_the_template(portrait):
    picture = align_ffhq(portrait, LANDMARKS, 256)
    np.testing.assert_array_equal(crop_ffhq(picture), align_face(picture, ffhq_landmarks(256)))


def test_large_photos_are_shrunk_first_and_give_the_same_crop(portrait):
    small = align_ffhq(portrait, LANDMARKS, 64)
    large = np.asarray(Image.fromarray(portrait).resize((2048, 2048), Image.Resampling.BICUBIC))
    points = (LANDMARKS + 0.5) * 4 - 0.5
    error = np.abs(align_ffhq(large, points, 64).astype(int) - small)
    assert error.mean() < 3 < np.abs(align_ffhq(large, points + 4, 64).astype(int) - small).mean(), (
        "a shift by half a pixel is worse"
    )


def test_outside_the_photo_its_blurred_mirror_image_fades(portrait):
    tight = portrait[70:170, 170:270]
    picture = align_ffhq(tight, LANDMARKS - (170, 70), 128).astype(float)
    assert picture.min() >= 0 and (picture > 0).any(axis=2).mean() > 0.95, "no black border"
    detail = lambda part: np.abs(np.diff(part, axis=1)).mean()  # noqa: E731
    assert detail(picture[:6]) < 0.5 * detail(picture[60:80])


def test_a_mask_is_cut_like_its_photo(portrait):
    mask = np.zeros(portrait.shape[:2], bool)
    mask[90:150, 190:250] = True
    painted = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    expected = align_ffhq(painted, LANDMARKS, 64)[:, :, 0] > 127
    assert (align_ffhq_mask(mask, LANDMARKS, 64) == expected).mean() > 0.99


def test_mirroring_twice_changes_nothing(portrait):
    np.testing.assert_allclose(mirror_landmarks(mirror_landmarks(LANDMARKS, 512), 512), LANDMARKS)
    picture = align_ffhq(portrait, LANDMARKS, 64)
    other = align_ffhq(mirror(portrait), mirror_landmarks(LANDMARKS, 512), 64)
    assert np.abs(other[:, ::-1].astype(int) - picture).mean() < 2


@pytest.mark.parametrize(
    "landmarks",
    [LANDMARKS + 5000, LANDMARKS * np.nan, LANDMARKS * 0, LANDMARKS * [[100], [1], [1], [1], [1]]],
)
def test_landmarks_that_make_no_face_are_refused(portrait, landmarks):
    with pytest.raises(ValueError, match="not those of a face inside the 512x512 px photo"):
        align_ffhq(portrait, landmarks, 64)


# --- FFHQ crops and FastComposer's edition ------------------------------------------------------------------


@pytest.fixture(scope="module")
def crops(tmp_path_factory, portrait) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    Image.fromarray(align_ffhq(portrait, LANDMARKS, 256)).save(folder / "00000.png")
    Image.fromarray(portrait[:300]).save(folder / "00001.png")
    return folder


def test_ffhq_crops_need_no_detector(config, crops, weights):
    config = replace(
        config, photos=str(crops), aligned=True, detector="", expression=str(weights / "epoch_20.pth")
    )
    cache, encoder = LatentCache(prepare(config, quiet)), encoder_of(config, weights)
    photo = load_photo(crops / "00000.png")
    for flip, picture in ((False, photo), (True, mirror(photo))):
        item = cache.load(0, flip)
        torch.testing.assert_close(
            item["v_id"], encoder.identify(picture, alignment="FFHQ").v_id, rtol=0, atol=1e-4
        )
        points = ffhq_landmarks(256) if not flip else mirror_landmarks(ffhq_landmarks(256), 256)
        expected = encoder.embed_expression([align_expression(picture, points)])[0]
        torch.testing.assert_close(item["v_exp"], expected, rtol=0, atol=1e-4)
    report = json.loads((Path(config.out) / "report.json").read_text())
    assert report["skipped"] == {"not square": 1}


def test_with_a_detector_ffhq_crops_are_cut_as_inference_cuts(config, crops, weights):
    """The face at its detected landmarks, the picture as it is; without the detector a warning says so."""
    config = replace(config, photos=str(crops), aligned=True)
    lines: list[str] = []
    cache, encoder = LatentCache(prepare(config, lines.append)), encoder_of(config, weights)
    crop, photo = Cutter(config, 112)[Source("00000.png")], load_photo(crops / "00000.png")
    assert np.array_equal(crop.faces[0], encoder.crop_face(photo).crop)
    assert np.array_equal(crop.image, resize_ffhq(photo, 64))
    average = Cutter(replace(config, detector=""), 112)[Source("00000.png")]
    assert not np.array_equal(crop.faces[0], average.faces[0])
    assert np.array_equal(crop.image, average.image)
    assert not any("--detector" in line for line in lines)
    without = replace(config, detector="", out=f"{config.out}-average")
    prepare(without, lines.append)
    assert sum("--detector" in line and "15 %" in line for line in lines) == 1
    torch.testing.assert_close(
        cache.load(0)["v_id"], encoder.identify(load_photo(crops / "00000.png")).v_id, rtol=0, atol=1e-4
    )


def test_fastcomposers_maps_give_the_person_of_the_face(config, portrait, tmp_path):
    folder = tmp_path / "ffhq" / "00000"
    folder.mkdir(parents=True)
    labels = np.zeros(portrait.shape[:2], np.int32)
    labels[60:, 150:300] = 7  # the person, not to her shoulders' ends
    labels[:, 400:] = 3
    segments = [
        {"id": 3, "coco_label": "person"},
        {"id": 7, "coco_label": "person"},
        {"id": 0, "coco_label": "wall-other-merged"},
    ]
    for name in ("00000001", "00000002", "00000003", "00000004"):
        Image.fromarray(portrait).save(folder / f"{name}.jpg", quality=95)
    for name, found in (("00000001", segments), ("00000003", segments[:1]), ("00000004", segments)):
        (folder / f"{name}.json").write_text(json.dumps({"caption": "a person", "segments": found}))
        np.save(folder / f"{name}.npy", labels if name != "00000004" else labels[:5])
    plain = replace(config, photos=str(tmp_path / "ffhq"), layout="fastcomposer", parser="")
    cache = LatentCache(prepare(plain, quiet))
    assert cache.name(0) == "00000/00000001.jpg" and len(cache) == 1
    photo = load_photo(folder / "00000001.jpg")
    person = align_ffhq_mask(labels == 7, detected(config, photo), 64)
    expected = torch.from_numpy(person).float().reshape(8, 8, 8, 8).mean((1, 3))
    torch.testing.assert_close(cache.load(0)["mask"].float(), expected, rtol=0, atol=1e-3)
    report = json.loads((Path(plain.out) / "report.json").read_text())
    assert report["skipped"] == {"no identity region": 1, "no segmentation map": 2}
    picture = (
        torch.from_numpy(align_ffhq(photo, detected(config, photo), 64).copy()).permute(2, 0, 1)[None] / 255
    )
    parser = load_parser(config.parser)
    inside = parser(picture)[0][torch.from_numpy(person)]
    common = parser.labels[int(inside.mode().values)]
    parsed = replace(plain, parser=config.parser, out=str(tmp_path / "parsed"), classes=(common,))
    expected = (
        (parser.identity_mask(picture, [common])[0] & torch.from_numpy(person))
        .float()
        .reshape(8, 8, 8, 8)
        .mean((1, 3))
    )
    torch.testing.assert_close(
        LatentCache(prepare(parsed, quiet)).load(0)["mask"].float(), expected, rtol=0, atol=1e-3
    )


def test_altered_copies_follow_the_photos_as_faces_of_others(config, tmp_path, portrait):
    """The photos' entries stay what they are without copies; the copies' map is cut like their photo."""
    folder = tmp_path / "ffhq"
    folder.mkdir()
    labels = np.zeros((256, 256), np.uint8)
    labels[60:220, 70:190] = 1
    for name in ("a", "b", "c"):
        Image.fromarray(align_ffhq(portrait, LANDMARKS, 256)).save(folder / f"{name}.png")
        np.save(folder / f"{name}.npy", labels)
        (folder / f"{name}.json").write_text('{"segments": [{"id": 1, "coco_label": "person"}]}')
    plain = replace(
        config, photos=str(folder), layout="fastcomposer", parser="", detector="", aligned=True, shard_size=2
    )
    with_copies = replace(plain, variants=2, out=str(tmp_path / "copies"))
    said: list[str] = []
    photos, cache = LatentCache(prepare(plain, quiet)), LatentCache(prepare(with_copies, said.append))
    assert "Cached 9 of 9 photos." in said
    assert [(cache.name(index), cache.variant(index)) for index in range(9)] == [
        (f"{name}.png", variant) for variant in range(3) for name in "abc"
    ]
    for index in range(3):
        assert photos.variant(index) == 0
        for key, tensor in photos.load(index).items():
            assert torch.equal(tensor, cache.load(index)[key]), key
    features = torch.stack([cache.load(index)["v_id"] for index in (0, 3, 4, 6)])
    assert torch.pdist(features).min() > 0.01 * features.norm(dim=1).mean(), "each copy shows somebody else"
    altered = Alteration.draw("a.png", 1).change_map(labels) == 1
    expected = torch.from_numpy(resize_ffhq_mask(altered, 64)).float().reshape(8, 8, 8, 8).mean((1, 3))
    torch.testing.assert_close(cache.load(3)["mask"].float(), expected, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="variants 0, not 2"):
        prepare(replace(with_copies, out=plain.out), quiet)
    kept, held = split_cache(cache, MapperTrainingConfig(validation=1))
    assert len(held) == 1 and held[0] < 3
    assert kept == [index for index in range(9) if index % 3 != held[0]], "its copies are held out too"


# --- Going on, and several processes ------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_same_bytes(config, tmp_path, monkeypatch):
    unbroken = contents(prepare(replace(config, out=str(tmp_path / "unbroken")), quiet))
    real, calls = cache_module.write_bytes, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 3:  # two shards are written, then the third fails
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    monkeypatch.setattr(cache_module, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(config, quiet)
    monkeypatch.undo()
    before = {path.name: path.stat().st_mtime_ns for path in Path(config.out).iterdir()}
    assert sorted(before) == [
        "cache.json",
        *(f"shard-00000{number}.{suffix}" for number in (0, 1) for suffix in ("json", "tar")),
    ]
    with pytest.raises(FileNotFoundError, match="not finished"):
        LatentCache(config.out)
    said: list[str] = []
    prepare(config, said.append)
    assert any(line.startswith("Preparing 1 of 7 photos in 1 shard(s)") for line in said)
    assert contents(config.out) == unbroken
    assert (
        before.items() <= {path.name: path.stat().st_mtime_ns for path in Path(config.out).iterdir()}.items()
    ), "whole shards stay"


def test_truncated_shards_are_made_anew(config):
    before = contents(prepare(config, quiet))
    shard = Path(config.out) / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-100])
    (Path(config.out) / "shard-000002.tar").unlink()
    (Path(config.out) / "shard-000000.json").write_text("{")
    assert contents(prepare(config, quiet)) == before


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def command(config: PrepareConfig) -> list[str]:
    """The command line of a run."""
    options = [
        f"--{name.replace('_', '-')}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in asdict(config).items()
        if value not in ("", False)
    ]
    return [sys.executable, "-m", "face2diffusion.training.cli", "prepare", *options]


@pytest.mark.slow
def test_kill_9_and_the_same_command_give_the_bytes_of_an_unbroken_run(config, portrait, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(16):
        Image.fromarray(np.roll(portrait, number, axis=1)).save(folder / f"{number:02d}.jpg")
    config = replace(config, photos=str(folder), shard_size=1)
    unbroken = contents(prepare(replace(config, out=str(tmp_path / "unbroken")), quiet))
    job = processes.Processes(processes.prepare, asdict(config), world=1)
    end = time.monotonic() + 90
    while not (Path(config.out) / "shard-000001.json").exists():
        assert job.processes[0].is_alive()
        assert time.monotonic() < end, "no second shard after 90 s"
        time.sleep(0.01)
    job.processes[0].kill()
    assert job.wait() == [None]
    made = len(list(Path(config.out).glob("*.tar")))
    assert 2 <= made < 16, "the run was killed in the middle"
    (Path(config.out) / ".f2d-left.tar").write_bytes(b"half")  # what a kill at the worst moment leaves
    said: list[str] = []
    prepare(config, said.append)
    assert int(said[0].split()[1]) >= 16 - made
    assert contents(config.out) == unbroken


@pytest.mark.slow
def test_a_disk_that_is_really_full_leaves_whole_shards(config, portrait, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.roll(portrait, number, axis=1)).save(folder / f"{number:02d}.jpg")
    config = replace(config, photos=str(folder), shard_size=1, out=str(tmp_path / "disk"))
    done = run_on_small_disk(
        command(config), tmp_path / "disk", "400k", tmp_path / "left", env=ENVIRONMENT, timeout=240
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, last
    assert last.startswith(f"f2d-train: '{tmp_path / 'disk'}")
    assert "No space left" in last
    assert "RuntimeError" not in done.stderr, "the loader processes end without a word"
    shards = sorted(path.stem for path in (tmp_path / "left").glob("*.tar"))
    assert 1 <= len(shards) < 40
    assert all(read_index(tmp_path / "left", int(shard[-6:])) for shard in shards[:-1])


def test_several_processes_fill_one_cache(config, tmp_path, monkeypatch):
    alone = contents(prepare(replace(config, out=str(tmp_path / "alone")), quiet))
    monkeypatch.setenv("WORLD_SIZE", "2")
    said: list[str] = []
    for rank, shards in (("1", [1]), ("0", [0, 1, 2])):
        monkeypatch.setenv("RANK", rank)
        prepare(config, said.append)
        assert sorted(Path(config.out).glob("*.tar")) == [
            Path(config.out) / f"shard-{number:06d}.tar" for number in shards
        ]
    assert "This process's shards are done; others are still writing theirs." in said
    assert contents(config.out) == alone


# --- Worker processes, precision, space ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits(tmp_path_factory, photos) -> Path:
    """Two usable photos."""
    folder = tmp_path_factory.mktemp("portraits")
    for name in ("a.png", "b.JPG"):
        os.link(photos / name, folder / name)
    return folder


def test_the_number_of_workers_changes_no_byte(config, portraits, tmp_path):
    config = replace(config, photos=str(portraits))
    caches = [
        contents(prepare(replace(config, workers=count, out=str(tmp_path / str(count))), quiet))
        for count in (0, 1, 5)
    ]
    assert caches[0] == caches[1] == caches[2]


def test_bf16_changes_latents_by_less_than_2_percent_and_features_not_at_all(config, portraits, tmp_path):
    config = replace(config, photos=str(portraits), shard_size=8)
    exact, rounded = (
        LatentCache(prepare(replace(config, precision=precision, out=str(tmp_path / precision)), quiet))
        for precision in ("no", "bf16")
    )
    for index in range(2):
        one, other = exact.load(index), rounded.load(index)
        assert torch.equal(one["v_id"], other["v_id"])
        for name in ("latent_mean", "latent_std"):
            error = (one[name].float() - other[name].float()).norm() / one[name].float().norm()
            assert 0 < error < 0.02
        assert (one["mask"] - other["mask"]).abs().float().mean() < 0.02
    with pytest.raises(ValueError, match="precision"):
        prepare(replace(config, precision="no", out=str(tmp_path / "bf16")), quiet)


def test_the_size_of_a_photo_follows_from_the_shapes(whole):
    config, said = whole
    assert cache_module.photo_bytes(cache_module.CacheInfo()) == 162_400, "the paper's, in docs/training.md"
    cache = LatentCache(config.out)
    size = sum(file.stat().st_size for file in Path(config.out).glob("shard-*"))
    shards = cache.info.shards * (10_240 + 1_000)  # the end of a tar, its hash, the skipped photos
    assert size - shards < len(cache) * cache_module.photo_bytes(cache.info) < size
    assert f"{cache_module.photo_bytes(cache.info):,} bytes per photo" in "".join(said)


def test_too_little_space_is_said_before_anything_is_encoded(config, portraits, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=5_000))
    with pytest.raises(OSError, match=r"needs 0.0 MB more \([\d,]+ bytes for each of 2 .* 0.0 MB free. Free"):
        prepare(replace(config, photos=str(portraits)), quiet)
    assert not list(Path(config.out).glob("shard-*"))


def test_a_killed_worker_ends_the_run_with_one_line_and_it_resumes(config, portraits, monkeypatch, tmp_path):
    config = replace(config, photos=str(portraits), shard_size=1)
    unbroken = contents(prepare(replace(config, out=str(tmp_path / "unbroken")), quiet))
    cut = Cutter.__getitem__

    def die(self, source):
        if source.name == "b.JPG":
            os.kill(os.getpid(), signal.SIGKILL)
        return cut(self, source)

    monkeypatch.setattr(Cutter, "__getitem__", die)
    with pytest.raises(ConnectionError, match="crops photos died .*Rerun the command.*--workers"):
        prepare(config, quiet)
    monkeypatch.undo()
    assert contents(prepare(config, quiet)) == unbroken


def test_a_terminal_shows_a_bar_instead_of_lines(config, portraits, monkeypatch, capsys):
    monkeypatch.setattr(module, "on_terminal", lambda: True)
    said: list[str] = []
    prepare(replace(config, photos=str(portraits)), said.append)
    assert "2/2" in capsys.readouterr().err
    assert not any(line.startswith("prepare:") for line in said)


# --- What is refused ----------------------------------------------------------------------------------------


def test_a_cache_is_not_gone_on_with_by_other_weights_photos_or_settings(config, weights, photos, tmp_path):
    prepare(config, quiet)
    write_msid(tmp_path / "msid.pt", seed=9, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    with pytest.raises(
        ValueError, match=r"started with other inputs \(msid \w{8}, not \w{8}\)\. Use another --out"
    ):
        prepare(replace(config, msid=str(tmp_path / "msid.pt")), quiet)
    with pytest.raises(ValueError, match=r"image_size 64, not 128; latent_size 8, not 16"):
        prepare(replace(config, image_size=128), quiet)
    (tmp_path / "fewer").mkdir()
    os.link(photos / "a.png", tmp_path / "fewer" / "a.png")
    with pytest.raises(ValueError, match=r"photos 7, not 1; photos_hash"):
        prepare(replace(config, photos=str(tmp_path / "fewer")), quiet)
    (tmp_path / "fewer" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert (
        LatentCache(
            prepare(replace(config, photos=str(tmp_path / "fewer"), out=str(tmp_path / "linked")), quiet)
        ).name(0)
        == "a.png"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"photos": "nowhere"},
            "--photos 'nowhere' is not a folder",
        ),
        ({"photos": ""}, "--photos is missing"),
        ({"out": ""}, "--out is missing"),
        ({"base": "nowhere"}, "'nowhere' is not a Stable Diffusion folder in diffusers layout"),
        ({"msid": "nowhere.pt"}, "nowhere.pt"),
        ({"parser": ""}, "--parser is missing.*face-parsing weights"),
        ({"detector": ""}, "--detector is missing.*YuNet's .onnx file, or add --aligned"),
        ({"detector": "nowhere.onnx"}, "nowhere.onnx"),
        ({"classes": ("skin", "beard")}, r"unknown names \(beard\). Choose from background, skin"),
        ({"image_size": 60}, "60 is not divisible by 8"),
        ({"batch_size": 0}, "batch size 0 .*at least 1"),
        ({"workers": -1}, "-1 workers .*or 0 workers"),
        ({"variants": -1}, "--variants is -1"),
    ],
)
def test_bad_settings_say_what_is_wrong(config, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        prepare(replace(config, **change), quiet)
    assert not Path(config.out).exists()


def test_an_empty_folder_is_refused(config, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"The folder '.*empty' holds no photos \(.*\.jpg"):
        list_photos(tmp_path / "empty")
    assert (
        main(["prepare", "--photos", str(tmp_path / "empty"), "--out", "x", "--base", "x", "--msid", "x"])
        == 2
    )


def test_a_folder_without_a_usable_photo_is_an_error_with_a_report(config, tmp_path):
    (tmp_path / "walls").mkdir()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "walls" / "wall.png")
    with pytest.raises(ValueError, match=r"None of 1 photos can be used \(the first, 'wall.png': No face"):
        prepare(replace(config, photos=str(tmp_path / "walls")), quiet)
    assert json.loads((Path(config.out) / "report.json").read_text())["skipped"] == {"no face": 1}


def test_a_picture_without_the_classes_is_listed(config, weights, tmp_path, photos):
    (tmp_path / "one").mkdir()
    os.link(photos / "a.png", tmp_path / "one" / "a.png")
    parser = load_parser(weights / "segformer")
    photo = load_photo(photos / "a.png")
    labels = parser(
        torch.from_numpy(align_ffhq(photo, detected(config, photo), 64).copy()).permute(2, 0, 1)[None] / 255
    )
    unseen = next(name for number, name in enumerate(CELEBAMASK_LABELS) if number not in labels.unique())
    with pytest.raises(ValueError, match=f"'a.png': None of {unseen} is in the photo"):
        prepare(replace(config, photos=str(tmp_path / "one"), classes=(unseen,)), quiet)


def test_damaged_weights_are_an_error(config, weights, tmp_path):
    state = torch.load(weights / "msid.pt", weights_only=True)
    torch.save({**state, "cls_token": state["cls_token"] * float("nan")}, tmp_path / "msid.pt")
    with pytest.raises(ValueError, match="v_id is NaN or infinity"):
        prepare(replace(config, msid=str(tmp_path / "msid.pt")), quiet)
