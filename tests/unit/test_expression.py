"""The expression branch: its own crop, the official names, and how far an expression is followed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d import FaceEncoder, FaceExpression
from face2diffusion.f2d.checkpoint import read
from face2diffusion.f2d.face.alignment import (
    ARCFACE_TEMPLATE,
    EXPRESSION_SIZE,
    align_expression,
    expression_landmarks,
    fit_expression_crop,
    move_points,
)
from face2diffusion.f2d.face.cropping import locate_face
from face2diffusion.f2d.face.detection import Face
from face2diffusion.f2d.face.ffhq import ffhq_landmarks
from face2diffusion.f2d.options import FaceChoice


class FixedDetector:
    """Finds the one face it was given."""

    def __init__(self, face: Face) -> None:
        self.face = face

    def detect(self, photo: np.ndarray, min_score: float = 0.6) -> list[Face]:
        return [self.face]


def place(crop, points: np.ndarray, width: int) -> np.ndarray:
    return points * (crop.width / width) - (crop.left, crop.top)


def test_official_file_has_the_official_names_and_parameters(encoder: FaceEncoder, official: Path) -> None:
    tensors = read(official / "epoch_20.pth").tensors
    assert len(tensors) == 332
    assert sum(parameter.numel() for parameter in encoder.expression.parameters()) == 24_034_625
    assert {name: tensor.shape for name, tensor in encoder.expression.state_dict().items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


def test_loaded_network_is_frozen_and_in_evaluation_mode(encoder: FaceEncoder) -> None:
    assert not encoder.expression.training
    assert not any(parameter.requires_grad for parameter in encoder.expression.parameters())


def test_batch_of_two_equals_two_batches_of_one(encoder: FaceEncoder, portrait: np.ndarray) -> None:
    faces = [portrait[:224, :224], portrait[100:324, 100:324]]
    both = encoder.embed_expression(faces)
    assert both.shape == (2, 64)
    torch.testing.assert_close(
        both, torch.cat([encoder.embed_expression([face]) for face in faces]), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(both[0], both[1], rtol=1e-2)


def test_five_landmarks_take_the_eyes_from_their_corners() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    expected = [points[[36, 39]].mean(0), points[[42, 45]].mean(0), points[30], points[48], points[54]]
    np.testing.assert_allclose(expression_landmarks(points), expected)


def test_68_landmarks_of_a_detector_are_used_for_the_expression(
    encoder: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    points = np.repeat(landmarks.mean(0)[None], 68, axis=0)
    points[[36, 39]], points[[42, 45]], points[30], points[48], points[54] = landmarks
    face = Face(np.array([150.0, 60, 100, 120]), landmarks + 9, 0.9, points)  # its five are elsewhere
    crop = (
        FaceEncoder(encoder.msid, encoder.mapper, encoder.expression, FixedDetector(face))
        .crop_expression(portrait)
        .crop
    )
    np.testing.assert_array_equal(crop, align_expression(portrait, landmarks))


def test_face_has_the_same_size_in_the_crop_whatever_the_photos(landmarks: np.ndarray) -> None:
    small, large = fit_expression_crop(landmarks, 512, 512), fit_expression_crop(landmarks * 4, 2048, 2048)
    np.testing.assert_allclose(place(small, landmarks, 512), place(large, landmarks * 4, 2048), atol=1.5)


def test_face_lies_in_the_middle_of_the_crop(landmarks: np.ndarray) -> None:
    points = place(fit_expression_crop(landmarks, 512, 512), landmarks, 512)
    assert (points > 0.2 * EXPRESSION_SIZE).all() and (points < 0.8 * EXPRESSION_SIZE).all()
    assert points.mean(0) == pytest.approx([112, 112], abs=15)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_lying_face_gives_the_crop_of_the_upright_one(
    portrait: np.ndarray, landmarks: np.ndarray, quarters: int
) -> None:
    turned, points = np.rot90(portrait, quarters), landmarks
    for _ in range(quarters):
        points = np.column_stack([points[:, 1], len(portrait) - 1 - points[:, 0]])
    face = locate_face(None, turned, choice=FaceChoice(landmarks=points))
    np.testing.assert_array_equal(face.align_expression(), align_expression(portrait, landmarks))
    assert (align_expression(turned, points) != face.align_expression()).mean() > 0.5


@pytest.mark.parametrize("roll", [-40, 40])
def test_a_leaning_face_keeps_its_roll_in_the_crop(
    portrait: np.ndarray, landmarks: np.ndarray, roll: float
) -> None:
    points = move_points(landmarks, cv2.getRotationMatrix2D(tuple(landmarks.mean(0)), roll, 1))
    face = locate_face(None, portrait, choice=FaceChoice(landmarks=points))
    np.testing.assert_array_equal(face.align_expression(), align_expression(portrait, points))


def test_outside_of_the_photo_is_black(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    crop = align_expression(portrait[60:, 150:] | 1, landmarks - (150, 60))
    assert not crop[:5].any() and not crop[:, :5].any()
    assert crop[112, 112].all()


def test_crop_of_a_large_photo_resizes_only_what_it_needs(landmarks: np.ndarray) -> None:
    photo = np.zeros((6000, 8000, 3), np.uint8)
    points = landmarks * 0.1 + (7000, 5000)  # the whole photo, resized, would have 2,300 megapixels
    assert align_expression(photo, points).shape == (224, 224, 3)


def test_strength_moves_from_no_expression_to_the_whole(
    encoder: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    identity = encoder.identify(portrait, landmarks=landmarks)
    v_exp = encoder.express(portrait, landmarks=landmarks).v_exp
    plain = encoder.words(identity)
    distances = [
        float((encoder.words(identity, FaceExpression(v_exp, strength)) - plain).norm())
        for strength in (0, 0.25, 0.5, 1, 2)
    ]
    assert distances[0] == 0
    assert distances == sorted(distances) and len(set(distances)) == 5


def test_full_strength_is_the_mappers_own_answer(
    encoder: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    identity = encoder.identify(portrait, landmarks=landmarks)
    expression = encoder.express(portrait, landmarks=landmarks)
    with torch.no_grad():
        expected = encoder.mapper(identity.v_id[None], expression.v_exp[None])[0]
    assert torch.equal(encoder.words(identity, expression), expected)


def test_aligned_pictures_need_no_detector(encoder: FaceEncoder, portrait: np.ndarray) -> None:
    square = portrait[:200, 120:320]
    found = encoder.crop_expression(square, "FFHQ")
    assert found.faces == ()
    np.testing.assert_array_equal(
        found.crop, encoder.crop_expression(square, choice=FaceChoice(landmarks=ffhq_landmarks(200))).crop
    )
    template = ARCFACE_TEMPLATE * (200 / 112)
    np.testing.assert_array_equal(
        encoder.crop_expression(square, "112 px").crop,
        encoder.crop_expression(square, choice=FaceChoice(landmarks=template)).crop,
    )
    with pytest.raises(ValueError, match="square; this one has 512x100 px"):
        encoder.crop_expression(portrait[:100], "FFHQ")
    with pytest.raises(ValueError, match="'ffhq'.*one of detect, FFHQ, 112 px"):
        encoder.crop_expression(square, "ffhq")
