"""Scores of the sample sheets: what the evaluators are given."""

from __future__ import annotations

import numpy as np
import pytest
from face2diffusion.training.config import MapperTrainingConfig
from face2diffusion.training.evaluation.sample_scores import SampleScorer, load_sample_scorer
from skimage.data import astronaut
from support.evaluation import METRICS, HashScorer
from support.recognition import write_siglip, write_sphereface


class RecordingScorer(HashScorer):
    def __init__(self) -> None:
        self.requests: list = []
        self.devices: list[str] = []

    def to(self, device: str) -> None:
        self.devices.append(device)

    def score(self, requests, progress=True):
        self.requests += requests
        return super().score(requests, progress)


def test_images_are_scored_on_the_device_against_their_person() -> None:
    photos = [np.full((8, 8, 3), shade, np.uint8) for shade in (10, 10, 200)]
    images = [np.full((8, 8, 3), shade, np.uint8) for shade in (11, 12, 201)]
    scorer = RecordingScorer()
    means = SampleScorer(scorer, "meta")(photos, images, ["A photo of S*", "S* as a chef", "A photo of S*"])
    assert scorer.devices == ["meta", "cpu"], "the device's memory is free again"
    assert [request.prompt for request in scorer.requests] == [
        "A photo of a person",
        "a person as a chef",
        "A photo of a person",
    ]
    first, second, other = scorer.requests
    assert first.base == second.base == first.image and other.base == other.image
    assert list(means) == list(METRICS) and all(0 <= mean <= 1 for mean in means.values())


def test_evaluators_are_loaded_for_sheets_only() -> None:
    assert load_sample_scorer(MapperTrainingConfig(sample_clip="nowhere"), "cpu") is None
    assert load_sample_scorer(MapperTrainingConfig(sample_every=1), "cpu") is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_sample_scorer(MapperTrainingConfig(sample_every=1, sample_clip="nowhere"), "cpu")
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere|detector"):
        load_sample_scorer(MapperTrainingConfig(sample_every=1, sample_adaface="nowhere.ckpt"), "cpu")


def test_networks_in_the_published_layouts_score_a_portrait(tmp_path, detector_file) -> None:
    """Random weights: an image that is the portrait itself is the same person, a blank one shows nobody."""
    config = MapperTrainingConfig(
        sample_every=1,
        sample_sphereface=str(write_sphereface(tmp_path / "sphere20a_20171020.pth")),
        sample_siglip=str(write_siglip(tmp_path / "siglip")),
        sample_detector=str(detector_file),
    )
    scorer = load_sample_scorer(config, "cpu")
    assert scorer is not None
    portrait = astronaut()
    prompts = ["A photo of S*", "S* as a chef"]
    same = scorer([portrait] * 2, [portrait] * 2, prompts)
    half = scorer([portrait] * 2, [portrait, np.full_like(portrait, 128)], prompts)
    assert set(same) == {"SphereFace", "SigLIP"}
    assert same["SphereFace"] == pytest.approx(1, abs=1e-5)
    assert half["SphereFace"] == pytest.approx(0.5, abs=1e-5)
    assert 0 < half["SigLIP"] != same["SigLIP"] > 0
