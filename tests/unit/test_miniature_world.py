"""The synthetic dataset: samples are reproducible, and their ground truth is correct."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from face2diffusion.f2d.miniature.prompts import (
    EXPRESSIONS,
    JOBS,
    KINDS,
    PLACES,
    PROMPTS,
    SceneAttributes,
    describe,
    text_accuracy,
)
from face2diffusion.training.data.parsing import CELEBAMASK_LABELS as LABELS
from face2diffusion.training.miniature.world.photo_folders import _choose_person, write_photos
from face2diffusion.training.miniature.world.render import render
from face2diffusion.training.miniature.world.samples import (
    DIFFUSION_PEOPLE,
    ENCODER_PEOPLE,
    EVALUATOR_PEOPLE,
    HELD_OUT_PEOPLE,
    get_person,
    render_sample,
)
from face2diffusion.training.miniature.world.scene import (
    FIRST_NAMES,
    Figure,
    Person,
    Scene,
    View,
    describe_looks,
    sample_person,
)
from face2diffusion.training.miniature.world.tokenizer import UNKNOWN, build_tokenizer


def test_a_number_always_gives_the_same_sample():
    first, again, other = render_sample(5), render_sample(5), render_sample(6)
    assert np.array_equal(first.rendering.image, again.rendering.image)
    assert first.scene == again.scene
    assert not np.array_equal(first.rendering.image, other.rendering.image)


def test_data_splits_share_no_people():
    groups = [set(group) for group in (ENCODER_PEOPLE, EVALUATOR_PEOPLE, HELD_OUT_PEOPLE)]
    assert not any(a & b for a in groups for b in groups if a is not b)
    assert not any(number in DIFFUSION_PEOPLE for group in groups for number in group)
    assert len({get_person(number).vector for number in HELD_OUT_PEOPLE}) == len(HELD_OUT_PEOPLE)


def test_identity_is_independent_of_the_scene():
    who = HELD_OUT_PEOPLE[0]
    people = {render_sample(number, who).people[0] for number in range(8)}
    assert people == {get_person(who)}
    assert len({render_sample(number, who).scene.figures[0].view for number in range(8)}) == 8


def test_photos_of_a_person_are_in_a_folder(tmp_path):
    folder = write_photos(tmp_path / "pairs", 4, per_person=2)
    names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))]
    assert names == ["000000/000000.png", "000000/000001.png", "000001/000002.png", "000001/000003.png"]
    assert all((folder / name).with_suffix(".npy").exists() for name in names)
    people = [_choose_person(place) for place in range(20)]
    assert len(set(people)) == 20
    assert all(number in DIFFUSION_PEOPLE for number in people)


def test_image_size_follows_the_scene():
    assert render_sample(1).rendering.image.shape == (128, 128, 3)
    pair = render_sample(1, pair=True)
    assert pair.rendering.image.shape == (128, 192, 3)
    left, right = (points.mean(0)[0] for points in pair.rendering.landmarks)
    assert left < 96 < right


def test_larger_images_show_the_same():
    small, large = render_sample(3).rendering, render_sample(3, size=256).rendering
    reduced = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(reduced - small.image).mean() < 3
    np.testing.assert_allclose(large.landmarks5, small.landmarks5 * 2, atol=1e-6)


@pytest.mark.parametrize("number", range(20))
def test_landmarks_lie_on_what_they_mark(number):
    found = render_sample(number)
    points, labels = found.rendering.landmarks[0], found.rendering.labels
    assert points.shape == (68, 2)
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    for center, name in zip(eyes, ("l_eye", "r_eye"), strict=True):
        x, y = np.rint(center).astype(int)
        near = labels[y - 3 : y + 4, x - 3 : x + 4]
        assert np.isin(near, [LABELS.index(name), LABELS.index("eye_g")]).any()
    x, y = np.rint(points[60:68].mean(0)).astype(int)
    assert np.isin(
        labels[y - 3 : y + 4, x - 3 : x + 4],
        [LABELS.index(part) for part in ("mouth", "u_lip", "l_lip", "hair")],
    ).any()


@pytest.mark.parametrize("roundness", [0.2, 0.9])
@pytest.mark.parametrize("yaw", [-25, 0, 13])
def test_nose_landmarks_match_the_label_map(roundness, yaw):
    vector = np.full(24, 0.5)
    vector[[14, 16, 19, 20]] = 0.8, roundness, 0, 0  # a wide nose; no beard, no glasses
    found = render(Scene((Figure(Person.from_vector(vector), view=View(yaw=yaw)),)), 512)
    columns = np.flatnonzero((found.labels == LABELS.index("nose")).any(0))
    tip, left, right = found.landmarks[0][[30, 31, 35], 0]
    np.testing.assert_allclose(
        [left, tip, right], [columns[0], (columns[0] + columns[-1]) / 2, columns[-1]], atol=1.5
    )


def test_turning_the_head_moves_the_nose_and_not_the_chin():
    front = Scene((Figure(sample_person(np.random.default_rng(0))),))
    turned = replace(front, figures=(replace(front.figures[0], view=View(yaw=25)),))
    before, after = render(front).landmarks[0], render(turned).landmarks[0]
    assert after[30, 0] - before[30, 0] > 8
    np.testing.assert_allclose(after[8], before[8], atol=1e-6)


@pytest.mark.parametrize("kind", ["job", "place", "expression"])
def test_requested_attributes_show(kind):
    names = {"job": JOBS, "place": PLACES, "expression": EXPRESSIONS}[kind]
    plain = render_sample(2, attributes=SceneAttributes()).rendering
    images = [
        render_sample(2, attributes=SceneAttributes(**{kind: name})).rendering.image.astype(int)
        for name in names
    ]
    for index, image in enumerate(images):
        changed = np.abs(image - plain.image).max(2) > 30
        assert changed.mean() > (0.004 if kind == "expression" else 0.05)
        assert all(np.abs(image - other).max() > 60 for other in images[:index])


def test_hats_are_not_part_of_the_person():
    bare, hat = (
        render_sample(4, attributes=SceneAttributes(job=job)).rendering.labels for job in ("", "king")
    )
    assert not (bare == LABELS.index("hat")).any()
    assert (hat == LABELS.index("hat")).sum() > 300


def test_a_vector_out_of_range_is_refused():
    with pytest.raises(ValueError, match="1.5.*24 coordinates in .0, 1."):
        Person.from_vector(np.full(24, 1.5))


def test_captions_use_only_known_words():
    tokenizer = build_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    generator = np.random.default_rng(0)
    sentences = [describe(attributes, "S*") for attributes in PROMPTS] + [
        describe_looks(sample_person(generator), generator) for _ in range(200)
    ]
    sentences += list(FIRST_NAMES)
    assert not [text for text in sentences if unknown in tokenizer(text).input_ids]


def test_the_forty_prompts():
    assert len(set(PROMPTS)) == 40
    assert {getattr(attributes, kind) for attributes in PROMPTS for kind in KINDS} == {
        name for names in KINDS.values() for name in names
    }
    assert (
        describe(PROMPTS[-1], "S*") == "a photo of S* as a scientist surrounded by tall books looking sleepy"
    )


def test_text_accuracy():
    asked = SceneAttributes(job="chef", expression="looking sad")
    assert text_accuracy(asked, asked) == 1
    assert text_accuracy(asked, SceneAttributes(job="chef", place="walking in a city")) == 0.5
    assert text_accuracy(asked, SceneAttributes()) == 0
    assert text_accuracy(SceneAttributes(), asked) == 1
