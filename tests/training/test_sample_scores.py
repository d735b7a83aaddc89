"""Scores of the sample sheets: what the evaluators are given."""

from __future__ import annotations

import numpy as np
import pytest
from face2diffusion.training.config import MapperTrainingConfig
from face2diffusion.training.evaluation.sample_scores import SampleScorer, load_sample_scorer
from support.evaluation import METRICS, HashScorer


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
