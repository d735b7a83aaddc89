"""The face cropper: one detection, every crop, and the same face in the mirror image and in its FFHQ crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from face2diffusion.f2d.face.alignment import (
    align_expression,
    align_face,
    expression_landmarks,
    mesh_landmarks,
    move_points,
)
from face2diffusion.f2d.face.batch import crop_batch
from face2diffusion.f2d.face.cropping import LocatedFace, locate_face
from face2diffusion.f2d.face.detection import Face, NoFaceError, YuNet
from face2diffusion.f2d.face.ffhq import align_ffhq, crop_ffhq, ffhq_landmarks, resize_ffhq
from face2diffusion.f2d.face.landmark_order import measure_misfit
from face2diffusion.f2d.image import mirror
from face2diffusion.f2d.options import FaceChoice


class Counting:
    """Finds two faces, and counts how often it is asked."""

    def __init__(self, *faces: Face) -> None:
        self.faces, self.calls = list(faces), 0

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        self.calls += 1
        return [face for face in self.faces if face.score >= min_score]


@pytest.fixture
def detector(landmarks: np.ndarray) -> Counting:
    left = Face(np.array([20.0, 30, 40, 40]), landmarks * 0.4, 0.7)
    return Counting(left, Face(np.array([170.0, 60, 90, 110]), landmarks, 0.9))


def test_one_detection_serves_all_crops(
    detector: Counting, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    face = locate_face(detector, portrait)
    np.testing.assert_array_equal(face.align_face(112), align_face(portrait, landmarks))
    np.testing.assert_array_equal(face.align_expression(), align_expression(portrait, landmarks))
    np.testing.assert_array_equal(face.align_ffhq(64), align_ffhq(portrait, landmarks, 64))
    face.mirrored().align_face(112)
    assert detector.calls == 1 and len(face.faces) == 2 and face.chosen is face.faces[0]


@pytest.mark.parametrize(
    ("choice", "place"),
    [
        (FaceChoice(), 1),
        (FaceChoice(index=1), 0),
        (FaceChoice("left to right"), 0),
        (FaceChoice("left to right", 1), 1),
        (FaceChoice("left to right", 0, 0.8), 1),
    ],
)
def test_choice_names_the_face(
    detector: Counting, portrait: np.ndarray, choice: FaceChoice, place: int
) -> None:
    assert locate_face(detector, portrait, choice=choice).chosen is detector.faces[place]


def test_given_landmarks_need_no_detector_and_count_more_than_the_alignment(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    for alignment in ("detect", "FFHQ", "112 px"):
        face = locate_face(None, portrait, alignment, FaceChoice(landmarks=landmarks.tolist()))
        np.testing.assert_array_equal(face.align_face(112), align_face(portrait, landmarks))


def test_faces_found_elsewhere_need_no_detector(detector: Counting, portrait: np.ndarray) -> None:
    for alignment in ("detect", "FFHQ"):
        face = locate_face(None, portrait, alignment, FaceChoice(index=1, faces=detector.faces))
        assert face.chosen is detector.faces[0] and len(face.faces) == 2
    with pytest.raises(NoFaceError, match="no face in this photo"):
        locate_face(detector, portrait, choice=FaceChoice(faces=[]))
    assert detector.calls == 0


@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.5, 2.0], ids=lambda margin: f"margin {margin}")
@pytest.mark.parametrize("place", [0, 1])
def test_a_box_marks_a_face_loosely_or_tightly(
    detector: Counting, portrait: np.ndarray, place: int, margin: float
) -> None:
    x, y, width, height = detector.faces[place].box
    box = [x - margin * width / 2, y - margin * height / 2, width * (1 + margin), height * (1 + margin)]
    chosen = locate_face(detector, portrait, choice=FaceChoice(index=1 - place, box=box)).chosen
    assert chosen is detector.faces[place]


def test_a_box_beside_all_faces_is_refused(detector: Counting, portrait: np.ndarray) -> None:
    with pytest.raises(NoFaceError, match=r"box at \(-90, -90\) of 20x20 px.*Move or enlarge"):
        locate_face(detector, portrait, choice=FaceChoice(box=(-90, -90, 20, 20)))


def test_the_face_mesh_of_mediapipe_is_reduced_to_five_points(landmarks: np.ndarray) -> None:
    mesh = np.full((478, 2), np.nan)
    for point, places in zip(
        landmarks, ([33, 133, 159, 145], [263, 362, 386, 374], [1], [61], [291]), strict=True
    ):
        around = np.array([[-4, 0], [4, 0], [0, -1], [0, 1]])[: len(places)] * (len(places) > 1)
        mesh[places] = point + around
    np.testing.assert_allclose(mesh_landmarks(mesh), landmarks)


def test_68_landmarks_have_other_eyes_for_the_expression(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    points = np.repeat(landmarks.mean(0)[None], 68, axis=0)
    points[36:42], points[42:48], points[30], points[48], points[54] = landmarks
    points[[36, 39]] += 3
    face = locate_face(None, portrait, choice=FaceChoice(landmarks=points))
    np.testing.assert_array_equal(
        face.align_expression(), align_expression(portrait, expression_landmarks(points))
    )
    assert (face.align_expression() != align_expression(portrait, face.landmarks)).any()


def test_aligned_images_are_cut_without_landmarks(portrait: np.ndarray) -> None:
    face = locate_face(None, portrait, "FFHQ")
    np.testing.assert_array_equal(face.align_face(112), crop_ffhq(portrait))
    np.testing.assert_array_equal(face.align_expression(), align_expression(portrait, ffhq_landmarks(512)))
    np.testing.assert_array_equal(face.align_ffhq(64), resize_ffhq(portrait, 64))
    assert face.faces == () and face.chosen is None
    crop = portrait[50:162, 160:272]
    assert locate_face(None, crop, "112 px").align_face(112) is crop
    with pytest.raises(ValueError, match="already aligned"):
        face.face_in_ffhq(64)


def test_mirror_image_shows_the_same_face(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    face = locate_face(None, portrait, choice=FaceChoice(landmarks=landmarks))
    other = face.mirrored()
    np.testing.assert_array_equal(other.photo, mirror(portrait))
    for cut in (LocatedFace.align_face, LocatedFace.align_expression):
        crop, flipped = cut(face).astype(float), mirror(cut(other)).astype(float)
        shared = np.corrcoef(crop.ravel(), flipped.ravel())[0, 1]
        assert shared > 0.9 > np.corrcoef(crop.ravel(), cut(other).astype(float).ravel())[0, 1]
    np.testing.assert_array_equal(other.mirrored().align_face(), face.align_face())


def test_face_is_found_again_where_its_ffhq_crop_says(detector_file, portrait: np.ndarray) -> None:
    detector = YuNet(detector_file)
    face = locate_face(detector, portrait)
    told = face.face_in_ffhq(512)
    found = locate_face(detector, face.align_ffhq(512)).chosen
    eyes = np.hypot(*(found.landmarks[1] - found.landmarks[0]))
    assert np.hypot(*(told.landmarks - found.landmarks).T).max() < 0.1 * eyes
    low, high = np.maximum(told.box[:2], found.box[:2]), told.box[:2] + told.box[2:]
    common = np.prod(np.minimum(high, found.box[:2] + found.box[2:]) - low)
    assert common / (np.prod(told.box[2:]) + np.prod(found.box[2:]) - common) > 0.6
    assert told.score == face.chosen.score


def test_face_comes_back_from_json(landmarks: np.ndarray) -> None:
    for fine in (None, np.arange(136.0).reshape(68, 2)):
        face = Face(np.array([1.5, 2, 3, 4]), landmarks.astype(np.float32), 0.75, fine)
        back = Face.from_json(face.to_json())
        for key, value in vars(face).items():
            np.testing.assert_array_equal(getattr(back, key), value)


WRONG_ORDERS = {
    "eyes swapped": lambda points: points[[1, 0, 2, 3, 4]],
    "mouth corners swapped": lambda points: points[[0, 1, 2, 4, 3]],
    "person's left first": lambda points: points[[1, 0, 2, 4, 3]],
    "x and y exchanged": lambda points: points[:, ::-1],
}


@pytest.mark.parametrize("wrong", WRONG_ORDERS)
@pytest.mark.parametrize("roll", [-30, 0, 30])
def test_given_landmarks_in_a_wrong_order_are_mended_and_logged(
    landmarks: np.ndarray, portrait: np.ndarray, wrong: str, roll: float, caplog: pytest.LogCaptureFixture
) -> None:
    points = move_points(landmarks, cv2.getRotationMatrix2D(tuple(landmarks.mean(0)), roll, 1))
    given = WRONG_ORDERS[wrong](points)
    assert measure_misfit(given)[0] > 15 > measure_misfit(points)[0]
    found = locate_face(None, portrait, choice=FaceChoice(landmarks=given))
    np.testing.assert_array_equal(found.landmarks, points)
    assert "mended" in caplog.text and "nose" in caplog.text


def test_given_landmarks_that_are_no_face_are_refused_with_the_expected_order(
    landmarks: np.ndarray, portrait: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"px of 112 \(at most 15\).*eyes, nose tip and mouth corners"):
        locate_face(None, portrait, choice=FaceChoice(landmarks=landmarks[[2, 3, 0, 4, 1]]))


@pytest.mark.parametrize("angle", [-90, -40, 0, 40, 90, 180])
def test_given_landmarks_in_the_right_order_are_kept_at_any_roll(
    landmarks: np.ndarray, portrait: np.ndarray, angle: float
) -> None:
    points = move_points(landmarks, cv2.getRotationMatrix2D(tuple(landmarks.mean(0)), angle, 1))
    np.testing.assert_array_equal(
        locate_face(None, portrait, choice=FaceChoice(landmarks=points)).landmarks, points
    )


def crop_number(number: int) -> int:
    if number < 0:
        raise NoFaceError("no face", -number / 100)
    if number > 99:
        raise ValueError("not usable")
    return number


def test_photos_without_a_face_are_skipped_and_reported() -> None:
    batch = crop_batch([1, -30, 3, 4, -41], crop_number)
    assert batch.crops == [1, None, 3, 4, None] and batch.used == [1, 3, 4]
    assert batch.report == "2 of 5 photos skipped: 2, 5; best score 0.41"
    assert crop_batch([1, -3], crop_number, ["'a.png'", "'b.png'"]).skipped == ["'b.png'"]
    assert crop_batch([1, 2], crop_number).report == ""


def test_the_first_photo_with_a_face_is_enough_where_only_one_is_needed() -> None:
    batch = crop_batch([-30, 3, 1000], crop_number, first_only=True)
    assert batch.used == [3] and batch.report == "1 of 3 photos skipped: 1; best score 0.30"
    with pytest.raises(NoFaceError, match=r"in the 2 photos.*0\.41"):
        crop_batch([-30, -41], crop_number, first_only=True)


def test_a_batch_without_any_face_is_refused_with_the_best_score() -> None:
    with pytest.raises(NoFaceError, match=r"in the 3 photos.*0\.41.*Lower") as refused:
        crop_batch([-30, -41, -2], crop_number)
    assert refused.value.best_score == 0.41
    with pytest.raises(NoFaceError, match="^no face$"):
        crop_batch([-30], crop_number)


def test_a_photo_that_is_not_usable_is_named() -> None:
    with pytest.raises(ValueError, match="Photo 2 of 2: not usable"):
        crop_batch([1, 100], crop_number)
