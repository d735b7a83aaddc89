"""The study of ideas beyond the paper: the copying metric, its probe, and the page."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from face2diffusion.f2d.miniature import load_evaluators
from face2diffusion.f2d.miniature.prompts import NEUTRAL, SceneAttributes
from face2diffusion.training.config import MINIATURE_SMALL, MiniatureConfig
from face2diffusion.training.miniature.recipe import Miniature
from face2diffusion.training.miniature.study import mapper_ideas
from face2diffusion.training.miniature.study.copying import (
    Copying,
    SceneProbe,
    ShownScene,
    compare_scenes,
    read_scene,
)
from face2diffusion.training.miniature.study.held_out_data import build_photo, render_photo
from face2diffusion.training.miniature.study.mapper_ideas import MapperScores, write_ideas_study


def quiet(message: str) -> None:
    pass


def scene(yaw: float, hue: float, place: str = "", expression: str = NEUTRAL) -> ShownScene:
    angle = 2 * np.pi * hue
    return ShownScene(yaw, (np.cos(angle), np.sin(angle)), SceneAttributes(expression, "", place))


PHOTOS = [
    scene(-10, 0.1, "rome", "smiling"),
    scene(0, 0.4, "rome"),
    scene(20, 0.7, "", "smiling"),
    scene(5, 0.9, "peru"),
]


def test_photos_copy_all_of_themselves() -> None:
    assert list(compare_scenes(PHOTOS, PHOTOS).rows()) == [
        (name, pytest.approx(1)) for name in ("yaw", "sweater", "place", "expression")
    ]


def test_each_part_of_the_scene_counts_for_itself() -> None:
    images = [scene(-photo.yaw, 0.0, photo.attributes.place) for photo in PHOTOS[:3]]
    images = [
        ShownScene(image.yaw, photo.hue, image.attributes)
        for image, photo in zip(images, PHOTOS, strict=False)
    ]
    images.append(ShownScene(-5, PHOTOS[3].hue, SceneAttributes(NEUTRAL, "", "rome")))
    found = compare_scenes(PHOTOS, images)
    assert (found.yaw, found.sweater) == pytest.approx((-1, 1))
    assert found.place == pytest.approx(2 / 3), "of the three photos with a place"
    assert found.expression == 0
    assert np.isnan(compare_scenes(PHOTOS[1::2], PHOTOS[:2]).expression), "no photo has an expression"


def test_the_truth_of_a_photo_is_that_of_its_rendering() -> None:
    sample = build_photo(3, 2)
    assert np.array_equal(sample.rendering.image, render_photo(3, 2))
    figure, shown = sample.scene.figures[0], read_scene(sample)
    assert shown.yaw == figure.view.yaw
    assert np.arctan2(*reversed(shown.hue)) % (2 * np.pi) == pytest.approx(2 * np.pi * figure.sweater)
    assert shown.attributes.job == ""


@pytest.mark.slow
def test_the_probe_reads_held_out_photos() -> None:
    probe = SceneProbe(load_evaluators()[1], count=300)
    samples = [build_photo(who) for who in range(40)]
    found = compare_scenes(
        [read_scene(sample) for sample in samples],
        probe.read([sample.rendering.image for sample in samples]),
    )
    assert found.yaw > 0.6
    assert found.sweater > 0.95
    assert min(found.place, found.expression) > 0.9


def test_the_page_pairs_differences_by_person(tmp_path, monkeypatch) -> None:
    config = MiniatureConfig(
        out=str(tmp_path), **{**MINIATURE_SMALL, "report_people": 4}, presets=("cgdr", "length"), seeds=(0, 1)
    )
    base = np.array([0.1, 0.9, 0.4, 0.6])

    def measured(miniature, preset: str, seed: int, probe) -> MapperScores:
        gain = 0.05 * (preset == "length") + 0.02 * (2 * seed - 1)  # which cancels out over the seeds
        titles = (
            "Identity",
            "Text",
            "At rest if none is requested",
            "References followed",
            "Couples told apart",
        )
        return MapperScores(dict.fromkeys(titles, (base + gain).tolist()), Copying(0.5, 0.25, seed, 0.0))

    def read(photos) -> list[ShownScene]:
        return [read_scene(build_photo(who, photo)) for who in range(4) for photo in range(4)]

    monkeypatch.setattr(mapper_ideas, "measure_mapper", measured)
    monkeypatch.setattr(mapper_ideas, "measure_person", lambda miniature, probe: Copying(-0.1, 0.0, 0.0, 0.2))
    monkeypatch.setattr(mapper_ideas, "SceneProbe", lambda attributes: SimpleNamespace(read=read))
    monkeypatch.setattr(Miniature, "attributes", lambda self: None)
    text = write_ideas_study(Miniature(config, quiet), quiet).read_text(encoding="utf-8")
    scores, copying = (
        {row[0]: row[1:] for line in part.splitlines() if len(row := re.split(r" ?\| ?", line)[1:-1]) > 3}
        for part in text.split("Copied from the photo")
    )
    assert scores["length"][0].startswith("0.550 ")
    assert scores["length - cgdr"] == [r"0.050 \[0.050, 0.050\]"] * 5
    assert copying["cgdr"] == ["0.50", "0.25", "0.50", "0.00"]
    assert copying["“a person”, the same seeds"][0] == "-0.10"
    assert copying["the photos themselves"] == ["1.00"] * 4
