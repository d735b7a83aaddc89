"""Identities: averaging, saving and sharing, and belonging to one encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceIdentity
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.mapping import load_mapper
from support.official import write_mapper, write_msid


@pytest.fixture
def crops(portrait: np.ndarray) -> list[np.ndarray]:
    return [portrait[top : top + 112, 160:272] for top in (50, 60, 70)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> FaceEncoder:
    """The small encoder's sizes with other weights."""
    folder = tmp_path_factory.mktemp("other")
    msid = write_msid(folder / "msid.pt", seed=40, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    return FaceEncoder.load(msid, write_mapper(folder / "mapping.pt", seed=50, id_dim=256, hidden_dim=128))


def test_identity_of_one_photo_is_its_feature(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    identity = small.identity(crops[:1])
    torch.testing.assert_close(identity.v_id, small.encode(crops[:1])[0], rtol=0, atol=0)
    assert identity.photos == 1 and identity.encoder is small and identity.v_id.dtype == torch.float32


def test_identity_of_several_photos_is_their_mean(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    identity = small.identify(*crops, alignment="112 px")
    torch.testing.assert_close(identity.v_id, small.encode(crops).mean(0))
    assert identity.photos == 3


def test_more_photos_than_a_batch_are_encoded_alike(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    many = crops * 23  # 69 photos
    features = small.encode(many)
    assert features.shape == (69, 256)
    torch.testing.assert_close(features, small.encode(crops).repeat(23, 1), rtol=1e-4, atol=1e-4)


def test_photo_can_be_given_as_an_array_or_a_path(small: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(portrait).save(tmp_path / "photo.png")
    by_path = small.identify(tmp_path / "photo.png", landmarks=landmarks)
    assert torch.equal(by_path.v_id, small.identify(str(tmp_path / "photo.png"), landmarks=landmarks).v_id)
    assert torch.equal(by_path.v_id, small.identify(portrait, landmarks=landmarks).v_id)


def test_features_can_be_trained_on(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    layer = torch.nn.Linear(256, 1)
    layer(small.encode(crops)).sum().backward()
    assert layer.weight.grad.any()


def test_saved_identity_is_bit_equal(small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    identity = small.identity(crops)
    identity.save(tmp_path / "alice.safetensors")
    loaded = FaceIdentity.load(tmp_path / "alice.safetensors", small)
    assert torch.equal(loaded.v_id, identity.v_id)
    assert (loaded.msid, loaded.photos, loaded.encoder) == (identity.msid, 3, small)
    assert torch.equal(small.words(loaded), small.words(identity))


def test_identity_loads_without_an_encoder(small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    small.identity(crops).save(tmp_path / "alice.safetensors")
    assert FaceIdentity.load(tmp_path / "alice.safetensors").encoder is None


def test_saved_identity_holds_no_photo(small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    small.identity(crops).save(tmp_path / "alice.safetensors")
    checkpoint = read(tmp_path / "alice.safetensors")
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"v_id": (256,)}
    assert set(checkpoint.metadata) <= {"format", "f2d.kind", "version", "msid", "photos"}
    assert (tmp_path / "alice.safetensors").stat().st_size < 4 * 256 + 1024


def test_identity_of_another_encoder_is_refused(small: FaceEncoder, other: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    identity = other.identity(crops)
    identity.save(tmp_path / "alice.safetensors")
    message = rf"Expected an identity of this encoder \({small.msid_fingerprint[:8]}\), got one of another \({identity.msid[:8]}\)"
    with pytest.raises(ValueError, match=message):
        small.words(identity)
    with pytest.raises(ValueError, match=message):
        FaceIdentity.load(tmp_path / "alice.safetensors", small)


def test_identity_outlives_a_change_of_the_mapper(small: FaceEncoder, other: FaceEncoder, crops: list[np.ndarray]) -> None:
    retrained = FaceEncoder(small.msid, other.mapper)
    identity = small.identity(crops)
    assert retrained.words(identity).shape == (2, 768)
    assert not torch.allclose(retrained.words(identity), small.words(identity))


def test_different_faces_have_different_words(small: FaceEncoder, portrait: np.ndarray, crops: list[np.ndarray]) -> None:
    words = small.words(small.identity(crops[:1]))
    assert words.shape == (2, 768) and words.dtype == torch.float32
    assert not torch.allclose(words, small.words(small.identity([portrait[300:412, 300:412]])), rtol=1e-2)


@pytest.mark.parametrize("alignment", ["FFHQ", "112 px"])
def test_aligned_pictures_need_no_detector(small: FaceEncoder, portrait: np.ndarray, alignment: str) -> None:
    found = small.find(portrait, alignment)
    assert found.crop.shape == (112, 112, 3) and found.faces == [] and found.chosen is None


def test_encoder_with_other_picture_size_crops_to_it(tmp_path: Path, portrait: np.ndarray, landmarks: np.ndarray) -> None:
    write_msid(tmp_path / "msid.pt", image_size=64, patch_size=16, width=64, depth=2, layers=(1,))
    write_mapper(tmp_path / "mapping.pt", id_dim=64, hidden_dim=32)
    encoder = FaceEncoder.load(tmp_path / "msid.pt", tmp_path / "mapping.pt")
    for choice in ({"landmarks": landmarks}, {"alignment": "FFHQ"}, {"alignment": "112 px"}):
        assert encoder.find(portrait, **choice).crop.shape == (64, 64, 3)
    assert encoder.words(encoder.identify(portrait, landmarks=landmarks)).shape == (2, 768)


def test_a_mapper_says_which_encoder_it_was_trained_with(small_files: Path, tmp_path: Path) -> None:
    checkpoint = read(small_files / "mapping.pt")
    mapper = load_mapper(checkpoint)
    own = FaceEncoder.load(small_files / "msid.pt", small_files / "mapping.pt").msid_fingerprint
    save(tmp_path / "own.safetensors", checkpoint.tensors, "mapper", mapper.config, msid=own)
    save(tmp_path / "other.safetensors", checkpoint.tensors, "mapper", mapper.config, msid="0" * 64)
    FaceEncoder.load(small_files / "msid.pt", tmp_path / "own.safetensors")
    with pytest.raises(
        ValueError, match=r"Expected the MSID encoder that '.*other.safetensors' was trained with \(00000000\), got another"
    ):
        FaceEncoder.load(small_files / "msid.pt", tmp_path / "other.safetensors")
