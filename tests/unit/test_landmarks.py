"""The condition picture of the landmark ControlNet, from keypoints, from FAN and from five points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from face2diffusion.f2d.face.alignment import ARCFACE_TEMPLATE, five_landmarks
from face2diffusion.f2d.face.detection import Face, NoFaceError
from face2diffusion.f2d.face.landmarks import (
    LandmarkFrame,
    coarse_landmarks,
    draw_all,
    draw_landmarks,
    find_landmarks,
    read_pose,
)

FACE = np.random.default_rng(0).uniform((100, 80), (300, 320), (70, 2))  # px in 400 x 500


def keypoints(points: np.ndarray, confidence: float = 1.0) -> list[float]:
    return np.column_stack([points, np.full(len(points), confidence)]).ravel().tolist()


def frame(*people: Any, width: int = 400, height: int = 500) -> dict[str, Any]:
    return {"people": list(people), "canvas_width": width, "canvas_height": height}


def person(points: np.ndarray = FACE) -> dict[str, Any]:
    return {
        "pose_keypoints_2d": [0.0] * 54,
        "face_keypoints_2d": keypoints(points),
        "hand_left_keypoints_2d": None,
    }


# --- The picture --------------------------------------------------------------------------------------------


def test_landmark_is_a_white_disc_of_radius_two_and_a_half() -> None:
    picture = draw_landmarks(LandmarkFrame(512, 512, [np.array([(100.0, 200.0)])]))
    assert picture.shape == (512, 512, 3) and picture.dtype == np.uint8
    y, x = np.nonzero(picture.all(axis=2))
    assert set(np.unique(picture)) == {0, 255}
    assert np.hypot(x - 99.5, y - 199.5).max() <= 3.5 and len(x) == pytest.approx(
        np.pi * 2.5**2, abs=5
    )  # Pillow's rounding
    assert np.array_equal(picture, picture[..., :1].repeat(3, 2))


@pytest.mark.parametrize(
    ("width", "height", "resolution", "size"),
    [
        (1000, 1000, 512, (512, 512)),
        (1920, 1080, 512, (896, 512)),
        (300, 450, 512, (512, 768)),
        (640, 640, 500, (512, 512)),
    ],
)
def test_sides_are_multiples_of_64_and_the_face_stays_in_its_place(
    width: int, height: int, resolution: int, size: tuple[int, int]
) -> None:
    picture = draw_landmarks(LandmarkFrame(width, height, [np.array([(width / 4, height / 2)])]), resolution)
    assert picture.shape[1::-1] == size
    y, x = np.nonzero(picture[..., 0])
    assert (x.mean(), y.mean()) == pytest.approx((size[0] / 4, size[1] / 2), abs=1)


def test_landmarks_outside_the_picture_do_no_harm() -> None:
    picture = draw_landmarks(
        LandmarkFrame(512, 512, [np.array([(-50.0, 10.0), (1e6, -1e6), (511.0, 511.0)])])
    )
    assert picture[511, 511].all() and picture.any(axis=2).sum() < 15


# --- Keypoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(1, 1), (1 / 400, 1 / 500)], ids=["px", "shares"])
def test_68_of_70_keypoints_are_taken_in_pixels_or_shares(scale: tuple[float, float]) -> None:
    (found,) = read_pose([frame(person(FACE * scale))])
    assert (found.width, found.height) == (400, 500)
    np.testing.assert_allclose(found.faces[0], FACE[:68])


def test_unseen_points_and_people_without_a_face_are_left_out() -> None:
    partly = keypoints(FACE)
    partly[2::3] = [0.0, 0.1, float("nan")] + [1.0] * 67
    people = [
        {"face_keypoints_2d": partly},
        {"face_keypoints_2d": None},
        {"face_keypoints_2d": []},
        {},
        {"face_keypoints_2d": [0.0] * 210},
    ]
    (found,) = read_pose(frame(*people))
    assert len(found.faces) == 1
    np.testing.assert_allclose(found.faces[0], FACE[3:68])


def test_every_person_and_every_frame_counts() -> None:
    frames = read_pose([frame(person(), person(FACE + 50)), frame(), frame(person())])
    assert [len(found.faces) for found in frames] == [2, 0, 1]
    pictures = draw_all(frames)
    assert [bool(picture.any()) for picture in pictures] == [True, False, True]


@pytest.mark.parametrize(
    ("pose", "got"),
    [
        (None, "NoneType None"),
        ([], r"list \[\]"),
        ("pose", "str pose"),
        ([["people"]], "list"),
        ([{"people": []}], "its canvas has 0x0 px"),
        ([frame(width="wide")], "its canvas has widex500 px"),
        ([frame(width=float("nan"))], "its canvas has nanx500 px"),
        ([frame(height=0)], "its canvas has 400x0 px"),
        ([{**frame(), "people": "Alice"}], "its people are Alice"),
        ([frame("Alice")], "its people are .'Alice'."),
        ([frame({"face_keypoints_2d": [1.0, 2.0]})], r"its face keypoints are \[1.0, 2.0\]"),
        ([frame({"face_keypoints_2d": "face"})], "its face keypoints are face"),
        ([frame({"face_keypoints_2d": {"x": 1}})], "its face keypoints are {'x': 1}"),
    ],
)
def test_other_things_than_keypoints_are_refused(pose: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"OpenPose keypoints .*{got}.* Connect the POSE_KEYPOINT output"):
        read_pose(pose)


def test_no_face_anywhere_is_an_error() -> None:
    with pytest.raises(NoFaceError, match=r"None of 2 image\(s\)"):
        draw_all(read_pose([frame(), frame({})]))


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="512x640 and 512x1024 px"):
        draw_all(read_pose([frame(person()), frame(person(), height=800)]))


def test_endless_canvas_is_refused() -> None:
    with pytest.raises(ValueError, match="512x32768 px; at most 4096 px"):
        draw_all(read_pose([frame(person(), width=500, height=32000)]))


# --- Photos -------------------------------------------------------------------------------------------------


class Finds:
    """A detector that gives what it was made with."""

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        if not self.faces:
            raise NoFaceError("none")
        return self.faces


def test_mean_face_has_68_points_whose_five_are_the_template() -> None:
    points = coarse_landmarks(ARCFACE_TEMPLATE)
    assert len({tuple(point) for point in points.round(3)}) == 68
    eyes = [points[(np.abs(points - eye) < (9, 4)).all(axis=1)] for eye in ARCFACE_TEMPLATE[:2]]
    for eye, center in zip(eyes, ARCFACE_TEMPLATE[:2], strict=True):
        assert len(eye) == 6
        np.testing.assert_allclose(eye.mean(0), center, atol=0.5)
    for corner in ARCFACE_TEMPLATE[2:]:  # nose tip and mouth corners are landmarks themselves
        assert np.hypot(*(points - corner).T).min() < 0.5


def test_mean_face_follows_the_five_points() -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = coarse_landmarks(2.5 * ARCFACE_TEMPLATE @ turn.T + (30, -7))
    np.testing.assert_allclose(moved, 2.5 * coarse_landmarks(ARCFACE_TEMPLATE) @ turn.T + (30, -7), atol=1e-9)


def test_fans_landmarks_are_drawn_as_they_are_and_yunets_five_become_a_mean_face(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    box = np.array([0.0, 0, 100, 100])
    fine, coarse = Face(box, five_landmarks(FACE[:68]), 1.0, FACE[:68]), Face(box, landmarks, 0.9)
    found = find_landmarks(portrait, Finds(fine, coarse))
    assert np.array_equal(found.faces[0], FACE[:68])
    np.testing.assert_allclose(found.faces[1], coarse_landmarks(landmarks))
    assert find_landmarks(portrait, Finds()).faces == []
