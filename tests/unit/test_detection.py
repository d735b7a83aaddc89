"""Detection: faces of every size and place are found, counted, chosen and drawn."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.face.alignment import align_face, move_points
from face2diffusion.f2d.face.detection import (
    Face,
    NoFaceError,
    YuNet,
    choose_face,
    draw_faces,
    face_from_landmarks,
    sort_faces,
)
from face2diffusion.f2d.face.face import box_overlaps, keep_distinct
from face2diffusion.f2d.face.search import search_faces
from face2diffusion.f2d.image import load_photo
from face2diffusion.f2d.options import FaceChoice
from PIL import Image


@pytest.fixture(scope="module")
def yunet(detector_file: Path) -> YuNet:
    return YuNet(detector_file)


@pytest.fixture(scope="module")
def couple(portrait: np.ndarray) -> np.ndarray:
    """A small face at the left, a large one at the right."""
    small, large = (
        cv2.resize(portrait, (256, 256), interpolation=cv2.INTER_AREA),
        cv2.resize(portrait, (512, 512)),
    )
    return np.hstack([np.pad(small, ((0, 256), (0, 0), (0, 0))), large])


def scaled(points: np.ndarray, zoom: float) -> np.ndarray:
    return (points + 0.5) * zoom - 0.5


def error(face: Face, landmarks: np.ndarray) -> float:
    """The worst landmark as a share of the eyes' distance; YuNet itself wavers by up to 0.3 with the size."""
    return float(np.hypot(*(face.landmarks - landmarks).T).max() / np.hypot(*(landmarks[1] - landmarks[0])))


def make_face(x: float, y: float, width: float, height: float, score: float = 0.9) -> Face:
    return Face(np.array([x, y, width, height]), np.array([(x + i, y + i) for i in range(5)]), score)


def test_portrait_has_one_face_with_known_landmarks(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    (face,) = yunet.detect(portrait)
    assert error(face, landmarks) < 0.1
    assert face.score > 0.9
    assert face.landmarks.shape == (5, 2) and face.box.shape == (4,)
    assert ((face.landmarks > face.box[:2]) & (face.landmarks < face.box[:2] + face.box[2:])).all()


def test_moved_portrait_moves_the_landmarks(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    moved = np.pad(portrait, ((64, 0), (128, 0), (0, 0)), mode="edge")
    assert error(yunet.detect(moved)[0], landmarks + (128, 64)) < 0.15


@pytest.mark.parametrize("zoom", [0.25, 0.5, 2.0, 6.0])
def test_resized_portrait_scales_the_landmarks(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, zoom: float
) -> None:
    picture = cv2.resize(
        portrait, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    )
    assert error(yunet.detect(picture)[0], scaled(landmarks, zoom)) < 0.4


@pytest.mark.parametrize("side", [340, 150], ids=["face of 60 px", "face of 26 px"])
def test_small_face_in_a_large_picture_is_found(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, side: int
) -> None:
    canvas = np.full((2000, 3000, 3), 127, np.uint8)
    canvas[1500 : 1500 + side, 2400 : 2400 + side] = cv2.resize(
        portrait, (side, side), interpolation=cv2.INTER_AREA
    )
    (face,) = yunet.detect(canvas)
    assert error(face, scaled(landmarks, side / 512) + (2400, 1500)) < 0.4


@pytest.mark.parametrize("zoom", [2, 12, 16])
def test_face_that_fills_the_picture_is_found(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, zoom: int
) -> None:
    close_up = cv2.resize(portrait[75:165, 180:265], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    face = yunet.detect(close_up)[0]
    assert error(face, scaled(landmarks - (180, 75), zoom)) < 0.2
    assert face.box[:2] + face.box[2:] / 2 == pytest.approx(
        landmarks.mean(0) * zoom - (180 * zoom, 75 * zoom), abs=15 * zoom
    )


def test_photo_turned_by_its_exif_entry_is_found_upright(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    Image.fromarray(np.rot90(portrait).copy()).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    assert error(yunet.detect(load_photo(tmp_path / "turned.jpg"))[0], landmarks) < 0.1


def test_detection_does_not_depend_on_the_photo_before(
    yunet: YuNet, portrait: np.ndarray, couple: np.ndarray
) -> None:
    first = yunet.detect(portrait)[0]
    assert len(yunet.detect(couple)) == 2
    again = yunet.detect(portrait)[0]
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    assert first.score == again.score


def test_photo_is_not_changed_by_detection(yunet: YuNet, portrait: np.ndarray) -> None:
    before = portrait.copy()
    yunet.detect(portrait)
    np.testing.assert_array_equal(portrait, before)


def test_faces_come_in_descending_order_of_score(yunet: YuNet, couple: np.ndarray) -> None:
    scores = [face.score for face in yunet.detect(couple)]
    assert scores == sorted(scores, reverse=True)


def test_two_faces_are_counted_by_size_and_from_left_to_right(yunet: YuNet, couple: np.ndarray) -> None:
    faces = yunet.detect(couple)
    assert [face.box[0] > 256 for face in sort_faces(faces, "largest")] == [True, False]
    assert [face.box[0] > 256 for face in sort_faces(faces, "left to right")] == [False, True]


def test_encoder_crops_the_face_that_was_asked_for(
    yunet: YuNet, small: FaceEncoder, couple: np.ndarray
) -> None:
    encoder = FaceEncoder(small.msid, small.mapper, detector=yunet)
    largest = encoder.crop_face(couple)
    leftmost = encoder.crop_face(couple, choice=FaceChoice("left to right"))
    assert largest.chosen is largest.faces[0] and len(largest.faces) == 2
    np.testing.assert_array_equal(leftmost.crop, encoder.crop_face(couple, choice=FaceChoice(index=1)).crop)
    assert (leftmost.crop != largest.crop).any()


def test_the_score_of_the_best_candidate_is_named_where_none_suffices(
    yunet: YuNet, portrait: np.ndarray
) -> None:
    with pytest.raises(
        NoFaceError, match=r"scores 0\.99 or more.* best candidate has 0\.9\d\. Lower the minimum score"
    ) as refused:
        yunet.detect(portrait, min_score=0.99)
    assert 0.9 < refused.value.best_score < 0.99


@pytest.mark.parametrize(
    "part",
    [np.s_[300:], np.s_[256:, :256], np.s_[:256, 256:], np.s_[:60]],
    ids=["body", "arm", "shuttle", "flag"],
)
def test_pictures_without_a_face_have_none(yunet: YuNet, portrait: np.ndarray, part: tuple) -> None:
    with pytest.raises(NoFaceError, match=r"scores 0\.60 or more.*larger, frontal face"):
        yunet.detect(portrait[part])


@pytest.mark.parametrize("shape", [(16, 16), (16, 5000), (5000, 16)])
def test_empty_images_of_any_shape_have_no_face(yunet: YuNet, shape: tuple[int, int]) -> None:
    with pytest.raises(NoFaceError, match=r"scores 0\.60 or more.*larger, frontal face"):
        yunet.detect(np.full((*shape, 3), 127, np.uint8))


def test_orders_sort_by_area_and_by_center() -> None:
    wide, tall, small = make_face(0, 0, 100, 10), make_face(10, 0, 30, 40), make_face(45, 0, 5, 5)
    assert sort_faces([small, wide, tall], "largest") == [tall, wide, small]
    assert sort_faces([small, wide, tall], "left to right") == [
        tall,
        small,
        wide,
    ]  # centers at 25, 47.5 and 50 px


def test_sorting_leaves_the_list_alone() -> None:
    faces = [make_face(0, 0, 1, 1), make_face(0, 0, 2, 2)]
    before = list(faces)
    sort_faces(faces)
    assert faces == before


def test_chosen_face_is_the_one_at_the_index() -> None:
    faces = [make_face(0, 0, 1, 1), make_face(0, 0, 2, 2)]
    assert choose_face(faces, 0) is faces[0] and choose_face(faces, 1) is faces[1]


def test_given_landmarks_are_kept_bit_by_bit() -> None:
    points = np.array([(0.1, 0.2), (10.3, 0.4), (5.5, 5.6), (1.7, 9.8), (8.9, 9.1)])
    np.testing.assert_array_equal(face_from_landmarks(points).landmarks, points)
    assert face_from_landmarks(points.tolist()).landmarks68 is None


def test_68_landmarks_are_reduced_to_five_and_kept() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    face = face_from_landmarks(points)
    assert face.landmarks.shape == (5, 2)
    np.testing.assert_array_equal(face.landmarks68, points)
    np.testing.assert_allclose(face.box, [*points.min(0), *np.ptp(points, axis=0)])


def test_drawing_changes_a_copy_only(portrait: np.ndarray) -> None:
    before = portrait.copy()
    drawn = draw_faces(portrait, [make_face(100, 100, 80, 90)])
    np.testing.assert_array_equal(portrait, before)
    assert drawn.shape == portrait.shape and drawn.dtype == np.uint8
    assert (drawn != portrait).any()
    np.testing.assert_array_equal(drawn[300:], portrait[300:])


def test_drawing_marks_the_chosen_face_green_and_others_orange() -> None:
    faces = [make_face(20, 40, 40, 40), make_face(120, 40, 40, 40)]
    drawn = draw_faces(np.zeros((120, 200, 3), np.uint8), faces, chosen=faces[1])
    assert drawn[80, 40].argmax() == 0 and drawn[80, 140].argmax() == 1  # the lower edge of each box
    assert drawn[80, 40].any() and drawn[80, 140].any()


def test_drawing_draws_every_landmark() -> None:
    face = Face(
        np.array([10.0, 40, 80, 80]), np.array([(30, 60), (70, 60), (50, 80), (35, 100), (65, 100)]), 0.5
    )
    drawn = draw_faces(np.zeros((200, 200, 3), np.uint8), [face])
    assert all(drawn[y, x].any() for x, y in face.landmarks)


def test_faces_partly_outside_can_be_drawn() -> None:
    drawn = draw_faces(
        np.zeros((64, 64, 3), np.uint8), [make_face(-50, -50, 90, 90), make_face(60, 60, 500, 500)]
    )
    assert drawn.shape == (64, 64, 3) and drawn.any()


@pytest.mark.parametrize("side", [400, 1200, 3000])
def test_a_close_up_is_looked_at_again_in_a_smaller_picture(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, side: int
) -> None:
    """A face that fills the image has the score, and nearly the landmarks, of the whole portrait."""
    left, top, width = 140, 40, 170
    picture = cv2.resize(
        portrait[top : top + width, left : left + width], (side, side), interpolation=cv2.INTER_CUBIC
    )
    (face,) = yunet.detect(picture)
    expected = (landmarks - (left, top)) * side / width
    assert face.score > 0.9
    assert np.abs(face.landmarks - expected).max() < 0.11 * np.linalg.norm(expected[1] - expected[0])


def turn(portrait: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn a square photo by degrees around its center, on black; also give the transform, shape (2, 3)."""
    side, room = len(portrait), round(len(portrait) * 2**0.5) + 1
    transform = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, angle, 1)
    transform[:, 2] += (room - side) / 2
    return cv2.warpAffine(portrait, transform, (room, room)), transform


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel().astype(float), second.ravel().astype(float))[0, 1])


@pytest.mark.parametrize("angle", range(15, 360, 15))
def test_a_turned_photo_gives_the_upright_crop(yunet: YuNet, portrait: np.ndarray, angle: int) -> None:
    upright = align_face(portrait, yunet.detect(portrait)[0].landmarks)
    turned, _ = turn(portrait, angle)
    assert correlate(align_face(turned, yunet.detect(turned)[0].landmarks), upright) > 0.9


@pytest.mark.parametrize("zoom", [0.5, 0.75, 1.25, 1.5])
def test_the_crop_does_not_depend_on_the_size_of_the_photo(
    yunet: YuNet, portrait: np.ndarray, zoom: float
) -> None:
    original = align_face(portrait, yunet.detect(portrait)[0].landmarks)
    interpolation = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(portrait, None, fx=zoom, fy=zoom, interpolation=interpolation)
    assert correlate(align_face(resized, yunet.detect(resized)[0].landmarks), original) > 0.97


def test_landmarks_of_a_resized_and_shifted_face_stay(yunet: YuNet, portrait: np.ndarray) -> None:
    """Two aligned looks that take the best cell only move them by 1.5 % of the distance between the eyes."""
    rng, found = np.random.default_rng(0), []
    for zoom in (0.6, 0.75, 0.9, 1.1, 1.25, 1.5):
        transform = np.array([(zoom, 0, rng.uniform(0, 40)), (0, zoom, rng.uniform(0, 40))])
        side = round(300 * zoom) + 40
        sharp = portrait[:300, 80:380]
        photo = cv2.GaussianBlur(sharp, (0, 0), 0.5 / zoom) if zoom < 1 else sharp
        moved = cv2.warpAffine(photo, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
        found.append(move_points(yunet.detect(moved)[0].landmarks, cv2.invertAffineTransform(transform)))
    middle = np.mean(found, axis=0)
    distances = np.hypot(*(np.array(found) - middle).transpose(2, 0, 1))
    assert distances.mean() < 0.01 * np.hypot(*(middle[1] - middle[0]))


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_turned_face_keeps_its_place_beside_an_upright_one(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray, quarter: int
) -> None:
    faces = sort_faces(yunet.detect(np.hstack([portrait, np.rot90(portrait, quarter)])), "left to right")
    assert len(faces) == 2 and error(faces[0], landmarks) < 0.1
    back = turn(portrait, 90 * quarter)[1][:, :2]
    (x0, y0), (x1, y1) = faces[1].landmarks[:2]
    eyes = back @ (landmarks[1] - landmarks[0])
    assert np.dot(eyes, (x1 - x0, y1 - y0)) / np.hypot(*eyes) / np.hypot(x1 - x0, y1 - y0) > 0.97


def test_a_tiny_face_in_a_large_photo_is_found_in_tiles(
    yunet: YuNet, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    """The face is 0.45 % of the width: 9 px where the photo is reduced to 2048 px."""
    side, canvas = 84, np.full((2500, 4000, 3), 127, np.uint8)
    tiny = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    canvas[1600 : 1600 + side, 870 : 870 + side] = tiny  # across the edge of a tile
    (face,) = yunet.detect(canvas)
    assert error(face, scaled(landmarks, side / 512) + (870, 1600)) < 0.4


@pytest.mark.parametrize("size", [(4096, 3072), (4099, 3071), (2051, 1537), (1999, 1501)])
def test_a_large_photo_is_reduced_without_a_shift(size: tuple[int, int]) -> None:
    """A detector that marks the middle of the light gives it back in px of the photo."""
    middle = np.array(size) * (0.66, 0.34)
    columns, rows = (
        np.exp(-((np.arange(n) - m) ** 2) / 2 / 80**2) for n, m in zip(size, middle, strict=True)
    )
    photo = np.repeat((255 * np.outer(rows, columns)).round().astype(np.uint8)[..., None], 3, axis=2)

    def look(image: np.ndarray) -> list[Face]:
        light = image[..., 0].astype(float)
        y, x = (np.average(places, weights=light) for places in np.indices(light.shape))
        return [Face(np.array([x, y, 0, 0]), np.tile((x, y), (5, 1)), 1.0)]

    for (face,), _ in islice(search_faces(look, photo), 4):
        assert np.abs(face.landmarks - middle).max() < 0.1


def test_moved_box_keeps_its_size_at_any_roll_and_swaps_its_sides_at_a_quarter_turn() -> None:
    face = make_face(10, 20, 30, 50)
    quarter = face.moved(np.array([(0.0, -1, 0), (1, 0, 0)]))
    np.testing.assert_allclose(quarter.box, (-70, 10, 50, 30))
    half = 0.5**0.5
    assert np.prod(face.moved(np.array([(half, -half, 0), (half, half, 0)])).box[2:]) < 1.2 * 30 * 50


def test_repeated_detections_of_one_face_are_dropped() -> None:
    best, other = make_face(0, 0, 100, 100, 0.9), make_face(200, 0, 100, 100, 0.7)
    assert keep_distinct([make_face(10, 10, 100, 100, 0.8), other, best]) == [best, other]


def test_the_detectors_file_is_read_in_python(
    detector_file: Path, portrait: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, OpenCV cannot open a path with letters beyond the code page."""
    if "bufferModel" not in (cv2.FaceDetectorYN.create.__doc__ or ""):
        pytest.skip("OpenCV before 4.9 takes a path only.")
    path, create, given = tmp_path / "日本" / "ü.onnx", cv2.FaceDetectorYN.create, []
    path.parent.mkdir()
    path.symlink_to(detector_file)
    recorder = type("FaceDetectorYN", (), {"create": lambda *values: given.append(values) or create(*values)})
    recorder.create.__doc__ = create.__doc__
    monkeypatch.setattr(cv2, "FaceDetectorYN", recorder)
    assert len(YuNet(path).detect(portrait)) == 1
    assert bytes(given[0][1]) == detector_file.read_bytes()
    assert not [value for values in given for value in values if "日本" in str(value)]


def test_of_thousands_of_candidates_the_distinct_ones_are_kept() -> None:
    """As noise has: each candidate is kept, or overlaps a better one that is."""
    draws = np.random.default_rng(0)
    places, scores = draws.uniform((0, 0, 5, 5), (300, 300, 60, 60), (3000, 4)), draws.random(3000)
    candidates = [make_face(*place, score) for place, score in zip(places, scores, strict=True)]
    kept = keep_distinct(candidates)
    boxes = np.array([face.box for face in kept])
    assert [face.score for face in kept] == sorted((face.score for face in kept), reverse=True)
    assert all((box_overlaps(face.box, boxes) > 0.4).sum() == 1 for face in kept), "each only itself"
    for face in candidates:
        closest = (box_overlaps(face.box, boxes) > 0.4).nonzero()[0]
        assert max(kept[index].score for index in closest) >= face.score
    assert 100 < len(kept) < 2900


def test_overlaps_are_shares_of_the_union() -> None:
    boxes = np.array([(0, 0, 100, 100), (50, 0, 100, 100), (25, 25, 50, 50), (100, 0, 9, 9)], float)
    np.testing.assert_allclose(box_overlaps(boxes[0], boxes), (1, 1 / 3, 1 / 4, 0), atol=1e-9)
