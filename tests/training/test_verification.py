"""Triplets, AUC and the report on an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d.checkpoint import save
from face2diffusion.f2d.image import load_photo, to_signed
from face2diffusion.f2d.networks.msid import MSIDConfig, MSIDEncoder
from face2diffusion.training.data.face_datasets import open_faces
from face2diffusion.training.msid.verification import area_under_curve, compare, sample_triplets, verify
from support.identities import write_folders

SMALL = MSIDConfig(image_size=16, patch_size=8, embed_dim=32, depth=2, heads=2, depths=(1, 2), normed=(2,))


def test_triplets_are_two_photos_of_one_person_and_one_of_another() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(40), np.arange(1, 41)))
    triplets = sample_triplets(labels, seed=3)
    anchor, positive, negative = labels[triplets].T
    assert sorted(anchor) == list(range(1, 40))  # one each, but of the person with one photo
    assert (anchor == positive).all() and (anchor != negative).all()
    assert (triplets[:, 0] != triplets[:, 1]).all()
    assert np.array_equal(triplets, sample_triplets(labels, seed=3))
    assert not np.array_equal(triplets, sample_triplets(labels, seed=4))


def test_negatives_are_any_photo_of_the_others() -> None:
    labels = np.array([0, 0, 1, 2, 2, 2])
    seen = {int(sample_triplets(labels, seed)[0, 2]) for seed in range(60)}
    assert seen == {2, 3, 4, 5}


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [0, 1, 2]])
def test_triplets_need_two_people_and_a_second_photo(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 2 identities, one of them with 2 photos"):
        sample_triplets(np.array(labels, np.int64))


def test_triplets_leave_out_faces_without_a_known_identity() -> None:
    labels = np.array([0, -1, 1, 0, -1, 1, 2])
    triplets = np.concatenate([sample_triplets(labels, seed) for seed in range(20)])
    assert set(triplets.flatten().tolist()) == {0, 2, 3, 5, 6}
    assert (labels[triplets[:, 0]] == labels[triplets[:, 1]]).all()
    assert (labels[triplets[:, 0]] != labels[triplets[:, 2]]).all()


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    draws = np.random.default_rng(0)
    positive, negative = draws.integers(0, 20, 50), draws.integers(0, 15, 70)
    pairs = positive[:, None] - negative
    assert area_under_curve(positive, negative) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert area_under_curve(np.array([2.0, 3]), np.array([0.0, 1])) == 1
    assert area_under_curve(np.ones(3), np.ones(4)) == 0.5


def test_report_has_the_auc_of_each_depth_and_a_picture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = MSIDEncoder(SMALL).eval()
    save(tmp_path / "msid.safetensors", encoder.state_dict(), "msid", SMALL)
    data = write_folders(tmp_path / "data", identities=5, photos=3)
    result = verify(tmp_path / "msid.safetensors", data, tmp_path / "out", device="cpu", batch_size=4)
    assert json.loads((tmp_path / "out" / "verification.json").read_text()) == result
    assert result["triplets"] == 5
    assert [depth["depth"] for depth in result["depths"]] == [1, 2]
    faces = open_faces(data)
    triplets = sample_triplets(faces.labels)
    with torch.no_grad():
        photos = to_signed([faces.load(int(place), 16) for place in triplets.reshape(-1)])
        levels = [level.reshape(5, 3, -1) for level in encoder.forward_levels(photos)]
    for depth, level in zip(result["depths"], levels, strict=True):
        positive, negative = (torch.cosine_similarity(level[:, 0], level[:, other]) for other in (1, 2))
        assert depth["positive_mean"] == pytest.approx(positive.mean().item(), abs=1e-5)
        assert depth["negative_mean"] == pytest.approx(negative.mean().item(), abs=1e-5)
        assert depth["positive"] == pytest.approx(positive.tolist(), abs=1e-5)
        assert depth["auc"] == pytest.approx(area_under_curve(positive.numpy(), negative.numpy()))
    assert load_photo(tmp_path / "out" / "verification.png").shape[1] > 600
    one = verify(tmp_path / "msid.safetensors", data, tmp_path / "one", depths=(2,), device="cpu")
    assert [depth["depth"] for depth in one["depths"]] == [2]
    for name in ("auc", "positive", "negative"):
        assert one["depths"][0][name] == pytest.approx(result["depths"][1][name], abs=1e-6)


def test_triplets_with_a_damaged_face_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    encoder = MSIDEncoder(SMALL).eval()
    faces = open_faces(write_folders(tmp_path, identities=5, photos=2))
    triplets = sample_triplets(faces.labels)
    whole = compare(encoder, faces, triplets)
    bad = int(triplets[1, 2])
    Path(faces.files[bad]).write_bytes(b"nothing")
    kept = ~(triplets == bad).any(axis=1)
    found = compare(encoder, faces, triplets)
    assert 0 < kept.sum() < 5
    for depth, similarities in found.items():
        np.testing.assert_allclose(similarities.positive, whole[depth].positive[kept], atol=1e-6)
        np.testing.assert_allclose(similarities.negative, whole[depth].negative[kept], atol=1e-6)
    assert f"Skipped face {bad}" in caplog.text
    for file in faces.files:
        Path(file).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="None of the 5 triplets"):
        compare(encoder, faces, triplets)
