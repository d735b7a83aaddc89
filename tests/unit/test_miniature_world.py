"""The drawn world: everything that is said of a drawing is true of it."""

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
from face2diffusion.training.miniature.world.render import draw
from face2diffusion.training.miniature.world.samples import (
    ENROLLED,
    EVALUATED,
    HELD_OUT,
    KNOWN,
    drawing,
    person,
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


def test_the_same_number_gives_the_same_drawing():
    first, again, other = drawing(5), drawing(5), drawing(6)
    assert np.array_equal(first.picture.image, again.picture.image)
    assert first.scene == again.scene
    assert not np.array_equal(first.picture.image, other.picture.image)


def test_each_stage_has_people_of_its_own():
    groups = [set(group) for group in (ENROLLED, EVALUATED, HELD_OUT)]
    assert not any(a & b for a in groups for b in groups if a is not b)
    assert not any(KNOWN.start <= number < KNOWN.stop for group in groups for number in group)
    assert len({person(number).vector for number in HELD_OUT}) == len(HELD_OUT)


def test_who_someone_is_does_not_depend_on_the_scene():
    who = HELD_OUT.start
    people = {drawing(number, who).people[0] for number in range(8)}
    assert people == {person(who)}
    assert len({drawing(number, who).scene.figures[0].view for number in range(8)}) == 8


def test_pictures_are_as_wide_as_the_scene_says():
    assert drawing(1).picture.image.shape == (128, 128, 3)
    pair = drawing(1, pair=True)
    assert pair.picture.image.shape == (128, 192, 3)
    left, right = (points.mean(0)[0] for points in pair.picture.landmarks)
    assert left < 96 < right


def test_larger_pictures_show_the_same():
    small, large = drawing(3).picture, drawing(3, size=256).picture
    reduced = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(reduced - small.image).mean() < 3
    np.testing.assert_allclose(large.landmarks5, small.landmarks5 * 2, atol=1e-6)


@pytest.mark.parametrize("number", range(20))
def test_landmarks_lie_on_what_they_mark(number):
    found = drawing(number)
    points, labels = found.picture.landmarks[0], found.picture.labels
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
def test_the_noses_landmarks_are_where_it_is_drawn(roundness, yaw):
    vector = np.full(24, 0.5)
    vector[[14, 16, 19, 20]] = 0.8, roundness, 0, 0  # a wide nose; no beard, no glasses
    found = draw(Scene((Figure(Person.of(vector), view=View(yaw=yaw)),)), 512)
    columns = np.flatnonzero((found.labels == LABELS.index("nose")).any(0))
    tip, left, right = found.landmarks[0][[30, 31, 35], 0]
    np.testing.assert_allclose(
        [left, tip, right], [columns[0], (columns[0] + columns[-1]) / 2, columns[-1]], atol=1.5
    )


def test_turning_the_head_moves_the_nose_and_not_the_chin():
    front = Scene((Figure(sample_person(np.random.default_rng(0))),))
    turned = replace(front, figures=(replace(front.figures[0], view=View(yaw=25)),))
    before, after = draw(front).landmarks[0], draw(turned).landmarks[0]
    assert after[30, 0] - before[30, 0] > 8
    np.testing.assert_allclose(after[8], before[8], atol=1e-6)


@pytest.mark.parametrize("kind", ["job", "place", "expression"])
def test_what_is_asked_for_shows(kind):
    names = {"job": JOBS, "place": PLACES, "expression": EXPRESSIONS}[kind]
    plain = drawing(2, facts=SceneAttributes()).picture
    pictures = [drawing(2, facts=SceneAttributes(**{kind: name})).picture.image.astype(int) for name in names]
    for index, one in enumerate(pictures):
        changed = np.abs(one - plain.image).max(2) > 30
        assert changed.mean() > (0.004 if kind == "expression" else 0.05)
        assert all(np.abs(one - other).max() > 60 for other in pictures[:index])


def test_hats_are_not_part_of_the_person():
    bare, hat = (drawing(4, facts=SceneAttributes(job=job)).picture.labels for job in ("", "king"))
    assert not (bare == LABELS.index("hat")).any()
    assert (hat == LABELS.index("hat")).sum() > 300


def test_a_vector_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="Expected 24 coordinates"):
        Person.of(np.full(24, 1.5))


def test_everything_that_is_said_is_a_word():
    tokenizer = build_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
    generator = np.random.default_rng(0)
    sentences = [describe(facts, "S*") for facts in PROMPTS] + [
        describe_looks(sample_person(generator), generator) for _ in range(200)
    ]
    sentences += list(FIRST_NAMES)
    assert not [text for text in sentences if unknown in tokenizer(text).input_ids]


def test_the_forty_prompts():
    assert len(set(PROMPTS)) == 40
    assert {getattr(facts, kind) for facts in PROMPTS for kind in KINDS} == {
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
