"""Identities: averaging, saving and sharing, and belonging to one encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceIdentity
from face2diffusion.f2d import identity as identity_module
from face2diffusion.f2d.checkpoint import read, save
from face2diffusion.f2d.identity import INTERPOLATIONS, spherical_mean
from face2diffusion.f2d.networks.mapping import load_mapper
from face2diffusion.f2d.options import FaceChoice
from support.official import write_mapper, write_msid


@pytest.fixture
def crops(portrait: np.ndarray) -> list[np.ndarray]:
    return [portrait[top : top + 112, 160:272] for top in (50, 60, 70)]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> FaceEncoder:
    """The small encoder's sizes with other weights."""
    folder = tmp_path_factory.mktemp("other")
    msid = write_msid(folder / "other.pt", seed=40, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    return FaceEncoder.load(msid, write_mapper(folder / "mapping.pt", seed=50, id_dim=256, hidden_dim=128))


def test_identity_of_one_photo_is_its_feature(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    identity = small.identify_crops(crops[:1])
    torch.testing.assert_close(identity.v_id, small.embed(crops[:1])[0], rtol=0, atol=0)
    assert identity.photos == 1 and identity.v_id.dtype == torch.float32


def test_identity_of_several_photos_is_their_mean(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    identity = small.identify(*crops, alignment="112 px")
    torch.testing.assert_close(identity.v_id, small.embed(crops).mean(0))
    assert identity.photos == 3


def test_more_photos_than_a_batch_are_encoded_alike(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    many = crops * 23  # 69 photos
    features = small.embed(many)
    assert features.shape == (69, 256)
    torch.testing.assert_close(features, small.embed(crops).repeat(23, 1), rtol=1e-4, atol=1e-4)


def test_photo_can_be_given_as_an_array_or_a_path(
    small: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray, tmp_path: Path
) -> None:
    from PIL import Image

    Image.fromarray(portrait).save(tmp_path / "photo.png")
    by_path = small.identify(tmp_path / "photo.png", landmarks=landmarks)
    assert torch.equal(by_path.v_id, small.identify(str(tmp_path / "photo.png"), landmarks=landmarks).v_id)
    assert torch.equal(by_path.v_id, small.identify(portrait, landmarks=landmarks).v_id)


def test_features_can_be_trained_on(small: FaceEncoder, crops: list[np.ndarray]) -> None:
    layer = torch.nn.Linear(256, 1)
    layer(small.embed(crops)).sum().backward()
    assert layer.weight.grad.any()


def test_saved_identity_is_bit_equal(small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    identity = small.identify_crops(crops)
    identity.save(tmp_path / "alice.safetensors")
    loaded = small.load_identity(tmp_path / "alice.safetensors")
    assert torch.equal(loaded.v_id, identity.v_id)
    assert (loaded.msid, loaded.photos) == (identity.msid, 3)
    assert torch.equal(small.words(loaded), small.words(identity))


def test_identity_loads_without_an_encoder(
    small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path
) -> None:
    small.identify_crops(crops).save(tmp_path / "alice.safetensors")
    assert FaceIdentity.load(tmp_path / "alice.safetensors").photos == 3


def test_saved_identity_holds_no_photo(small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path) -> None:
    small.identify_crops(crops).save(tmp_path / "alice.safetensors")
    checkpoint = read(tmp_path / "alice.safetensors")
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"v_id": (256,)}
    assert set(checkpoint.metadata) <= {"format", "f2d.kind", "version", "msid", "msid_file", "photos"}
    assert checkpoint.metadata["msid_file"] == "msid.pt", "and no path"
    assert (tmp_path / "alice.safetensors").stat().st_size < 4 * 256 + 1024


def test_identity_of_another_encoder_is_refused(
    small: FaceEncoder, other: FaceEncoder, crops: list[np.ndarray], tmp_path: Path
) -> None:
    identity = other.identify_crops(crops)
    identity.save(tmp_path / "alice.safetensors")
    message = rf"\(msid.pt, {small.msid_fingerprint[:8]}\) .* %s.*\(other.pt, {identity.msid[:8]}\)\. Encode"
    with pytest.raises(ValueError, match=message % "this identity"):
        small.words(identity)
    with pytest.raises(ValueError, match=message % r"'.*alice\.safetensors'"):
        small.load_identity(tmp_path / "alice.safetensors")


def test_identity_file_that_names_no_msid_file_is_read(
    small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path
) -> None:
    identity = small.identify_crops(crops)
    save(
        tmp_path / "old.safetensors",
        {"v_id": identity.v_id},
        "identity",
        version="1",
        msid=identity.msid,
        photos="3",
    )
    assert torch.equal(small.load_identity(tmp_path / "old.safetensors").v_id, identity.v_id)


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="needs Linux, which tells what files a process maps"
)
def test_loaded_identity_lets_go_of_its_file(
    small: FaceEncoder, crops: list[np.ndarray], tmp_path: Path
) -> None:
    """Windows replaces no file that is mapped into memory."""
    small.identify_crops(crops).save(tmp_path / "alice.safetensors")
    identity = small.load_identity(tmp_path / "alice.safetensors")
    assert "alice.safetensors" not in Path("/proc/self/maps").read_text()
    assert identity.v_id.isfinite().all()


def test_identity_outlives_a_change_of_the_mapper(
    small: FaceEncoder, other: FaceEncoder, crops: list[np.ndarray]
) -> None:
    retrained = FaceEncoder(small.msid, other.mapper)
    identity = small.identify_crops(crops)
    assert retrained.words(identity).shape == (2, 768)
    assert not torch.allclose(retrained.words(identity), small.words(identity))


def test_different_faces_have_different_words(
    small: FaceEncoder, portrait: np.ndarray, crops: list[np.ndarray]
) -> None:
    words = small.words(small.identify_crops(crops[:1]))
    assert words.shape == (2, 768) and words.dtype == torch.float32
    assert not torch.allclose(
        words, small.words(small.identify_crops([portrait[300:412, 300:412]])), rtol=1e-2
    )


@pytest.mark.parametrize("alignment", ["FFHQ", "112 px"])
def test_aligned_pictures_need_no_detector(small: FaceEncoder, portrait: np.ndarray, alignment: str) -> None:
    found = small.crop_face(portrait, alignment)
    assert found.crop.shape == (112, 112, 3) and found.faces == () and found.chosen is None


def test_encoder_with_other_picture_size_crops_to_it(
    tmp_path: Path, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    write_msid(tmp_path / "msid.pt", image_size=64, patch_size=16, width=64, depth=2, layers=(1,))
    write_mapper(tmp_path / "mapping.pt", id_dim=64, hidden_dim=32)
    encoder = FaceEncoder.load(tmp_path / "msid.pt", tmp_path / "mapping.pt")
    for choice in (
        {"choice": FaceChoice(landmarks=landmarks)},
        {"alignment": "FFHQ"},
        {"alignment": "112 px"},
    ):
        assert encoder.crop_face(portrait, **choice).crop.shape == (64, 64, 3)
    assert encoder.words(encoder.identify(portrait, landmarks=landmarks)).shape == (2, 768)


def test_a_mapper_says_which_encoder_it_was_trained_with(small_files: Path, tmp_path: Path) -> None:
    checkpoint = read(small_files / "mapping.pt")
    mapper = load_mapper(checkpoint)
    own = FaceEncoder.load(small_files / "msid.pt", small_files / "mapping.pt").msid_fingerprint
    save(tmp_path / "own.safetensors", checkpoint.tensors, "mapper", mapper.config, msid=own)
    save(tmp_path / "other.safetensors", checkpoint.tensors, "mapper", mapper.config, msid="0" * 64)
    FaceEncoder.load(small_files / "msid.pt", tmp_path / "own.safetensors")
    with pytest.raises(
        ValueError,
        match=r"other.safetensors' was trained with the MSID encoder 00000000, .*\(msid.pt, .*Load the two",
    ):
        FaceEncoder.load(small_files / "msid.pt", tmp_path / "other.safetensors")


# --- Mixing -------------------------------------------------------------------------------------------------

mix = partial(identity_module.mix, depths=4)  # as the small encoder has


@pytest.fixture
def people(small: FaceEncoder, portrait: np.ndarray) -> list[FaceIdentity]:
    return [
        small.identify_crops([portrait[top : top + 112, left : left + 112]])
        for top, left in ((50, 160), (300, 300), (200, 20))
    ]


def levels(identity: FaceIdentity) -> torch.Tensor:
    """v_id of the small encoder by depths, shape (4, 64), float64."""
    return identity.v_id.double().reshape(4, 64)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_whole_weight_on_one_person_is_that_person_to_the_bit(
    people: list[FaceIdentity], interpolation: str
) -> None:
    for weights in ((1, 0, 0), (0, 0.3, 0)):
        mixed = mix(people, weights, interpolation)
        assert torch.equal(mixed.v_id, people[weights.index(max(weights))].v_id)


def test_encoder_mixes_its_own_people_and_no_others(
    small: FaceEncoder, other: FaceEncoder, people: list[FaceIdentity]
) -> None:
    assert torch.equal(small.mix(people, (1, 2, 3)).v_id, mix(people, (1, 2, 3)).v_id)
    with pytest.raises(ValueError, match=rf"{other.msid_fingerprint[:8]}.*{small.msid_fingerprint[:8]}"):
        other.mix(people, (1, 2, 3))


def test_linear_mix_is_the_weighted_mean(people: list[FaceIdentity]) -> None:
    mixed = mix(people, (2, 1, 1), "linear")
    torch.testing.assert_close(
        mixed.v_id, 0.5 * people[0].v_id + 0.25 * people[1].v_id + 0.25 * people[2].v_id
    )
    assert mixed.v_id.dtype == torch.float32 and mixed.photos == 3


def test_negative_weight_leads_away_from_a_person(people: list[FaceIdentity]) -> None:
    mixed = mix(people[:2], (1.5, -0.5), "linear")
    torch.testing.assert_close(mixed.v_id, people[0].v_id + 0.5 * (people[0].v_id - people[1].v_id))


def test_only_the_proportion_of_the_weights_counts(people: list[FaceIdentity]) -> None:
    for interpolation in INTERPOLATIONS:
        torch.testing.assert_close(
            mix(people, (1, 2, 3), interpolation).v_id, mix(people, (0.1, 0.2, 0.3), interpolation).v_id
        )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_spherical_mix_of_two_is_slerp_at_each_depth(people: list[FaceIdentity], share: float) -> None:
    """Shoemake 1985: sin((1 - t) a) / sin(a) and sin(t a) / sin(a) of two directions at the angle a."""
    first, second = levels(people[0]), levels(people[2])
    mixed = levels(mix([people[0], people[2]], (1 - share, share)))
    for one, two, found in zip(first, second, mixed, strict=True):
        angle = torch.arccos(one @ two / one.norm() / two.norm())
        direction = (
            torch.sin((1 - share) * angle) * one / one.norm() + torch.sin(share * angle) * two / two.norm()
        )
        length = (1 - share) * one.norm() + share * two.norm()
        torch.testing.assert_close(found, length * direction / torch.sin(angle), rtol=1e-5, atol=1e-6)


def test_spherical_mix_keeps_the_length_that_linear_loses(people: list[FaceIdentity]) -> None:
    lengths = torch.stack([levels(person).norm(dim=1) for person in people]).mean(0)
    torch.testing.assert_close(levels(mix(people, (1, 1, 1))).norm(dim=1), lengths)
    assert (levels(mix(people, (1, 1, 1), "linear")).norm(dim=1) < lengths).all()


def test_spherical_mean_does_not_depend_on_the_order_and_balances_the_arcs() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 3, 20, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64)
    mean = spherical_mean(vectors, weights)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(spherical_mean(vectors[order], weights[order]), mean, rtol=1e-7, atol=1e-7)
    center, directions = mean / mean.norm(dim=-1, keepdim=True), vectors / vectors.norm(dim=-1, keepdim=True)
    cosine = (directions * center).sum(-1, keepdim=True)
    aside = directions - cosine * center
    arcs = torch.arccos(cosine) * aside / aside.norm(dim=-1, keepdim=True)
    assert (weights[:, None, None] * arcs).sum(0).abs().max() < 1e-7


def test_mix_has_words(small: FaceEncoder, people: list[FaceIdentity], tmp_path: Path) -> None:
    mixed = mix(people, (1, 1, 1))
    mixed.save(tmp_path / "mixed.safetensors")
    assert torch.equal(small.words(small.load_identity(tmp_path / "mixed.safetensors")), small.words(mixed))


BAD_MIXES = {
    "no weight at all": (lambda p: mix(p, (0, 0, 0)), "weights 0, 0, 0 do not add up to more than 0.*Raise"),
    "a negative sum": (
        lambda p: mix(p, (1, -1, -1), "linear"),
        "weights 1, -1, -1 do not add up to more than 0.*Raise",
    ),
    "weights that cancel out": (
        lambda p: mix(p, (0.1, 0.2, -0.3), "linear"),
        r"weights 0\.1, 0\.2, -0\.3 do not add up to more than 0",
    ),
    "not a number": (lambda p: mix(p, (1, float("nan"), 1)), "1, nan, 1 are not all finite"),
    "infinity": (lambda p: mix(p, (1, float("inf"), 1)), "1, inf, 1 are not all finite"),
    "a negative weight on the sphere": (
        lambda p: mix(p, (1, 1, -0.5)),
        "no weights below 0, but they are 1, 1, -0.5.*linear",
    ),
    "fewer weights": (lambda p: mix(p, (1, 1)), "3 identities and 2 weights"),
    "nobody": (lambda p: mix([], []), "0 identities and 0 weights"),
    "an unknown interpolation": (
        lambda p: mix(p, (1, 1, 1), "cubic"),
        "'cubic'.*one of spherical, linear",
    ),
    "another encoder": (
        lambda p: mix([p[0], p[1], FaceIdentity(p[1].v_id, "f00dcafe99", msid_file="mine.pt")], (1, 1, 0)),
        r"identity 1 .*\(msid.pt, [0-9a-f]{8}\) and identity 3 .*\(mine.pt, f00dcafe\)\. Encode",
    ),
    "another encoder under other names": (
        lambda p: mix([p[0], FaceIdentity(p[1].v_id, "f00dcafe99")], (1, 1), names=["Ann", "Bob"]),
        r"Ann .*\(msid.pt, [0-9a-f]{8}\) and Bob .*\(f00dcafe\)",
    ),
    "the opposite": (
        lambda p: mix([p[0], FaceIdentity(-p[0].v_id, p[0].msid)], (1, 1)),
        "opposite.*Change a weight",
    ),
}


@pytest.mark.parametrize("name", BAD_MIXES)
def test_senseless_mixes_are_refused(people: list[FaceIdentity], name: str) -> None:
    do, message = BAD_MIXES[name]
    with pytest.raises(ValueError, match=message):
        do(people)


def test_file_with_too_many_features_is_refused(
    small: FaceEncoder, people: list[FaceIdentity], tmp_path: Path
) -> None:
    FaceIdentity(people[0].v_id.repeat(2), small.msid_fingerprint).save(tmp_path / "long.safetensors")
    with pytest.raises(ValueError, match=r"256 features, but '.*long\.safetensors' has 512"):
        small.load_identity(tmp_path / "long.safetensors")
