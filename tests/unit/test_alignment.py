"""Alignment: the similarity that takes landmarks to ArcFace's template, and the crops cut with it."""

from __future__ import annotations

import numpy as np
import pytest
from face2diffusion.f2d.face.alignment import (
    ARCFACE_TEMPLATE,
    align_face,
    crop_aligned,
    five_landmarks,
    similarity_transform,
)
from face2diffusion.f2d.face.ffhq import crop_ffhq, ffhq_quad
from PIL import Image


def similarity(degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    a, b = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([(a, -b, shift[0]), (b, a, shift[1])])


def move(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return points @ transform[:, :2].T + transform[:, 2]


def draw_dots(points: np.ndarray, size: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return np.repeat(np.rint(255 * dots.clip(0, 1)).astype(np.uint8)[:, :, None], 3, axis=2)


def find_dot(picture: np.ndarray, near: np.ndarray, reach: int = 6) -> np.ndarray:
    x, y = np.rint(near).astype(int)
    part = picture[y - reach : y + reach + 1, x - reach : x + reach + 1, 0].astype(float)
    rows, columns = np.mgrid[y - reach : y + reach + 1, x - reach : x + reach + 1]
    return np.array([(part * columns).sum(), (part * rows).sum()]) / part.sum()


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [(0, 1, (0, 0)), (25, 3.5, (300, -40)), (-170, 0.2, (5, 900)), (90, 12, (-7, 7))],
)
def test_similarity_recovers_a_known_rotation_scale_and_shift(
    degrees: float, scale: float, shift: tuple[float, float]
) -> None:
    known = similarity(degrees, scale, shift)
    np.testing.assert_allclose(
        similarity_transform(ARCFACE_TEMPLATE, move(ARCFACE_TEMPLATE, known)), known, atol=1e-9
    )


def test_similarity_undoes_itself_with_the_points_exchanged() -> None:
    there = similarity_transform(ARCFACE_TEMPLATE, move(ARCFACE_TEMPLATE, similarity(33, 2, (10, 20))))
    back = similarity_transform(move(ARCFACE_TEMPLATE, there), ARCFACE_TEMPLATE)
    np.testing.assert_allclose(move(move(ARCFACE_TEMPLATE, there), back), ARCFACE_TEMPLATE, atol=1e-9)


def test_similarity_is_the_best_in_the_least_squares_sense(landmarks: np.ndarray) -> None:
    best = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    error = ((move(landmarks, best) - ARCFACE_TEMPLATE) ** 2).sum()
    for degrees, scale, shift in [
        (0.2, 1, (0, 0)),
        (0, 1.003, (0, 0)),
        (0, 1, (0.1, 0)),
        (0, 1, (0, -0.1)),
        (-0.2, 0.997, (0, 0)),
    ]:
        other = similarity(degrees, scale, shift)
        assert ((move(move(landmarks, best), other) - ARCFACE_TEMPLATE) ** 2).sum() > error


def test_similarity_never_mirrors() -> None:
    mirrored = ARCFACE_TEMPLATE * (-1, 1)
    transform = similarity_transform(mirrored, ARCFACE_TEMPLATE)
    assert np.linalg.det(transform[:, :2]) > 0


def test_landmarks_land_on_the_template() -> None:
    points = move(ARCFACE_TEMPLATE, similarity(20, 2.5, (150, 60)))
    crop = align_face(draw_dots(points, 512, radius=5), points)
    for target in ARCFACE_TEMPLATE:
        np.testing.assert_allclose(find_dot(crop, target), target, atol=0.1)


def test_a_second_alignment_changes_nothing(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    crop = align_face(portrait, landmarks)
    np.testing.assert_array_equal(align_face(crop, ARCFACE_TEMPLATE), crop)


def test_turned_photo_gives_the_same_crop(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    turned = np.rot90(portrait).copy()  # (x, y) goes to (y, 511 - x)
    points = np.stack([landmarks[:, 1], 511 - landmarks[:, 0]], axis=1)
    difference = np.abs(align_face(turned, points).astype(int) - align_face(portrait, landmarks))
    assert difference.max() <= 2 and difference.mean() < 0.2


def test_outside_of_the_photo_is_black(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    left, top = 205, 105  # px; cuts through the face
    crop = align_face(portrait[top:, left:] | 1, landmarks - (left, top))
    assert not crop[:20, :20].any()
    assert crop[80:, 80:].all()


def test_other_sizes_scale_the_template(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    large = align_face(portrait, landmarks, size=224)
    assert large.shape == (224, 224, 3)
    shrunk = large[::2, ::2].astype(int)  # template px 0, 1, ... lie at 0, 2, ... of the large crop
    assert np.abs(shrunk - align_face(portrait, landmarks)).max() <= 2


def test_five_landmarks_are_means_of_the_eyes_then_nose_tip_and_mouth_corners() -> None:
    points = np.arange(136, dtype=float).reshape(68, 2)
    expected = [
        points[[36, 37, 38, 39, 40, 41]].mean(0),
        points[[42, 43, 44, 45, 46, 47]].mean(0),
        points[30],
        points[48],
        points[54],
    ]
    np.testing.assert_array_equal(five_landmarks(points), expected)
    assert five_landmarks(ARCFACE_TEMPLATE) is ARCFACE_TEMPLATE


def test_ffhq_quad_of_an_upright_face() -> None:
    # Eyes 20 px apart, mouth 20 px below: half a side is 2 x 20 px, the center a tenth of the way to
    # the mouth.
    face = np.array([(40, 50), (60, 50), (50, 60), (43, 70), (57, 70)])
    np.testing.assert_allclose(ffhq_quad(face), [(10, 12), (10, 92), (90, 92), (90, 12)])


def test_ffhq_quad_of_a_long_face_follows_the_mouth() -> None:
    face = np.array([(40, 50), (60, 50), (50, 80), (43, 110), (57, 110)])
    assert np.ptp(ffhq_quad(face)[:, 0]) == pytest.approx(2 * 1.8 * 60)


def test_ffhq_quad_turns_with_the_face(landmarks: np.ndarray) -> None:
    turn = similarity(40, 1.7, (20, 30))
    np.testing.assert_allclose(ffhq_quad(move(landmarks, turn)), move(ffhq_quad(landmarks), turn), atol=1e-9)


def align_ffhq(photo: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """FFHQ's own cut, without its padding: Pillow counts from a pixel's edge, landmarks from its center."""
    quad = tuple((ffhq_quad(points) + 0.5).flatten())
    return np.asarray(
        Image.fromarray(photo).transform((size, size), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    )


@pytest.mark.parametrize("size", [96, 128, 256, 512])
def test_ffhq_picture_of_a_template_face_gives_the_arcface_crop(size: int) -> None:
    points = move(ARCFACE_TEMPLATE, similarity(-12, 3.0, (160, 220)))
    crop = crop_ffhq(align_ffhq(draw_dots(points, 640, radius=9), points, size))
    for target in ARCFACE_TEMPLATE:
        np.testing.assert_allclose(find_dot(crop, target), target, atol=0.15)


def test_ffhq_picture_of_a_real_face_gives_nearly_the_arcface_crop(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    picture = align_ffhq(draw_dots(landmarks, 512, radius=2.5), landmarks, 256)
    crop = crop_ffhq(picture)
    distances = [np.hypot(*(find_dot(crop, target, reach=10) - target)) for target in ARCFACE_TEMPLATE]
    assert np.mean(distances) < 5  # px; measured 4.2, of which ArcFace's own fit leaves 3.5
    assert crop_ffhq(align_ffhq(portrait, landmarks, 256)).shape == (112, 112, 3)


def test_crop_of_the_encoders_size_is_taken_as_it_is(portrait: np.ndarray) -> None:
    np.testing.assert_array_equal(crop_aligned(portrait[:112, :112]), portrait[:112, :112])


@pytest.mark.parametrize("side", [56, 128, 224, 448])
def test_crop_of_another_size_is_resized(portrait: np.ndarray, side: int) -> None:
    face = np.asarray(Image.fromarray(portrait[:448, :448]).resize((side, side), Image.Resampling.BOX))
    whole = np.asarray(Image.fromarray(portrait[:448, :448]).resize((112, 112), Image.Resampling.BOX)).astype(
        int
    )
    crop = crop_aligned(face)
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop - whole).mean() < 12
