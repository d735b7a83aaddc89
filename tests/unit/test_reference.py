"""The whole chain against a second, straight-line computation of the official one in plain libraries."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from face2diffusion.f2d import FaceEncoder
from face2diffusion.f2d.face.alignment import (
    align_expression,
    align_face,
    fit_expression_crop,
    similarity_transform,
)
from face2diffusion.f2d.identity import FaceExpression
from face2diffusion.f2d.image import to_unit
from PIL import Image
from torch import Tensor

State = dict[str, Tensor]

TEMPLATE = [
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
]
MEAN_FACE = [
    (-0.31148657, 0.29036078, 0.13377953),
    (0.30979887, 0.28972036, 0.13179526),
    (0.0032535, -0.04617932, 0.55244243),
    (-0.25216928, -0.38133916, 0.22405732),
    (0.2484662, -0.38128236, 0.22235769),
]
# Two photos whose numbers were measured with the authors' own programs.
POINTS = np.array([(142.84, 207.18), (222.02, 203.90), (159.24, 253.57), (146.59, 290.93), (227.52, 284.74)])
OTHER_POINTS = np.array(
    [(123.12, 117.58), (176.59, 122.09), (126.99, 144.68), (117.61, 183.43), (163.94, 186.41)]
)


# --- The reference ------------------------------------------------------------------------------------------


def reference_face(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    equations, values = [], []
    for (x, y), (u, v) in zip(points, TEMPLATE, strict=True):
        equations += [(x, -y, 1, 0), (y, x, 0, 1)]
        values += [u, v]
    a, b, right, down = np.linalg.lstsq(np.array(equations), np.array(values), rcond=None)[0]
    matrix = np.array([(a, -b, right), (b, a, down), (0, 0, 1)])
    return cv2.warpPerspective(
        photo, matrix, (112, 112), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )


def reference_v_id(state: State, face: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    state = {name: tensor.to(dtype) for name, tensor in state.items()}

    def affine(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    pixels = torch.from_numpy(face).to(dtype).permute(2, 0, 1)[None]
    x = F.conv2d((pixels / 255 - 0.5) / 0.5, *affine("patch_embed.proj"), stride=8)
    x = torch.cat([state["cls_token"], x.flatten(2).transpose(1, 2)], dim=1) + state["pos_embed"]
    levels = []
    for layer in range(12):
        block = f"blocks.{layer}."
        query, key, value = F.linear(
            F.layer_norm(x, (384,), *affine(f"{block}norm1"), 1e-6), *affine(f"{block}attn.qkv")
        ).chunk(3, dim=-1)
        query, key, value = (part.reshape(1, 197, 12, 32).transpose(1, 2) for part in (query, key, value))
        attention = (query @ key.transpose(-1, -2) / 32**0.5).softmax(dim=-1)
        x = x + F.linear(
            (attention @ value).transpose(1, 2).reshape(1, 197, 384), *affine(f"{block}attn.proj")
        )
        hidden = F.gelu(
            F.linear(F.layer_norm(x, (384,), *affine(f"{block}norm2"), 1e-6), *affine(f"{block}mlp.fc1")),
            approximate="none",
        )
        x = x + F.linear(hidden, *affine(f"{block}mlp.fc2"))
        if layer in (2, 5, 8, 11):
            norm = f"norms.layer_{layer}."
            token = (x[:, 0] - state[f"{norm}0.running_mean"]) / (state[f"{norm}0.running_var"] + 1e-5).sqrt()
            token = token * state[f"{norm}0.weight"] + state[f"{norm}0.bias"]
            levels.append(F.layer_norm(token, (384,), *affine(f"{norm}1"), 1e-5))
    return torch.cat(levels, dim=1)[0]


def reference_words(state: State, v_id: Tensor, v_exp: Tensor) -> Tensor:
    words = []
    for mlp in ("i2t_first", "i2t_last"):
        x = torch.cat([v_id, v_exp])
        for layer in ("layers.0.0", "layers.1.0"):
            x = state[f"{mlp}.{layer}.weight"] @ x + state[f"{mlp}.{layer}.bias"]
            x = torch.where(x > 0, x, 0.2 * x)
        words.append(state[f"{mlp}.fc_out.weight"] @ x + state[f"{mlp}.fc_out.bias"])
    return torch.stack(words)


def reference_crop(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    upwards = np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1)
    camera = np.linalg.pinv(np.column_stack([np.array(MEAN_FACE), np.ones(5)])) @ upwards
    scale = (np.linalg.norm(camera[:3, 0]) + np.linalg.norm(camera[:3, 1])) / 2
    k = 102 / scale
    w, h = int(width * k), int(height * k)
    left = int(w / 2 - 112 + (camera[3, 0] - width / 2) * k)
    up = int(h / 2 - 112 + (height / 2 - camera[3, 1]) * k)
    return np.asarray(
        Image.fromarray(photo).resize((w, h), Image.Resampling.BICUBIC).crop((left, up, left + 224, up + 224))
    )


def reference_v_exp(state: State, face: np.ndarray) -> Tensor:
    def normed(x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"backbone.{convolution}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(
            x, *(state[f"backbone.{norm}.{name}"] for name in names), training=False, eps=1e-5
        )

    x = torch.from_numpy(face.copy()).float().permute(2, 0, 1)[None] / 255
    x = F.max_pool2d(F.relu(normed(x, "conv1", "bn1", stride=2)), 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for index in range(blocks):
            block = f"layer{stage}.{index}."
            stride = 2 if stage > 1 and index == 0 else 1
            y = F.relu(normed(x, f"{block}conv1", f"{block}bn1"))
            y = F.relu(normed(y, f"{block}conv2", f"{block}bn2", stride))
            y = normed(y, f"{block}conv3", f"{block}bn3")
            x = F.relu(
                y + (normed(x, f"{block}downsample.0", f"{block}downsample.1", stride) if index == 0 else x)
            )
    x = F.adaptive_avg_pool2d(x, 1)
    coefficients = torch.cat(
        [
            F.conv2d(x, state[f"final_layers.{head}.weight"], state[f"final_layers.{head}.bias"])
            for head in range(7)
        ],
        1,
    )
    assert coefficients.shape == (1, 257, 1, 1)
    return coefficients.flatten()[80:144]


# --- The comparison -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def msid(official: Path) -> State:
    return torch.load(official / "msid.pt", weights_only=True)


@pytest.fixture(scope="module")
def mapper(official: Path) -> State:
    return torch.load(official / "mapping.pt", weights_only=True)


@pytest.fixture(scope="module")
def expression(official: Path) -> State:
    return torch.load(official / "epoch_20.pth", weights_only=True)["net_recon"]


def relative(value: Tensor, reference: Tensor) -> float:
    assert value.shape == reference.shape
    return float((value - reference).norm() / reference.norm())


def test_face_crop_has_the_official_pixels(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    difference = np.abs(align_face(portrait, landmarks).astype(int) - reference_face(portrait, landmarks))
    assert difference.max() <= 1, (
        f"Expected at most 1 level, got {difference.max()}"
    )  # measured: 0 with OpenCV 4.12 and 5.0


def test_identity_features_are_the_official_ones(
    encoder: FaceEncoder, msid: State, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    v_id = encoder.identify(portrait, landmarks=landmarks).v_id
    error = relative(v_id, reference_v_id(msid, reference_face(portrait, landmarks)))
    assert error < 1e-4, f"Expected v_id within 1e-4, got {error:.1e}"  # measured: 7e-7


def test_identity_features_are_exact_in_double_precision(
    encoder: FaceEncoder, msid: State, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    face = align_face(portrait, landmarks)
    pixels = torch.from_numpy(face).double().permute(2, 0, 1)[None]
    with torch.no_grad():
        v_id = copy.deepcopy(encoder.msid).double()((pixels / 255 - 0.5) / 0.5)[0]
    error = relative(v_id, reference_v_id(msid, face, torch.float64))
    assert error < 1e-9, f"Expected v_id within 1e-9, got {error:.1e}: an epsilon or a constant differs"


def test_words_are_the_official_ones(
    encoder: FaceEncoder, msid: State, mapper: State, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    words = encoder.words(encoder.identify(portrait, landmarks=landmarks))
    reference = reference_words(
        mapper, reference_v_id(msid, reference_face(portrait, landmarks)), mapper["null_exp"]
    )
    error = float((words - reference).abs().max())
    assert words.shape == (2, 768) and words.dtype == torch.float32
    assert error < 1e-4 and relative(words, reference) < 1e-4, (
        f"Expected S* within 1e-4, got {error:.1e}"
    )  # measured: 4e-8, relative 8e-7


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_words_with_an_expression_are_the_official_ones(
    encoder: FaceEncoder,
    msid: State,
    mapper: State,
    expression: State,
    portrait: np.ndarray,
    landmarks: np.ndarray,
    strength: float,
) -> None:
    words = encoder.words(
        encoder.identify(portrait, landmarks=landmarks),
        encoder.express(portrait, strength, landmarks=landmarks),
    )
    v_exp = reference_v_exp(expression, reference_crop(portrait, landmarks))
    mixed = (1 - strength) * mapper["null_exp"] + strength * v_exp
    reference = reference_words(mapper, reference_v_id(msid, reference_face(portrait, landmarks)), mixed)
    error = relative(words, reference)
    assert error < 1e-4, f"Expected S* within 1e-4 at strength {strength}, got {error:.1e}"  # measured: 2e-6


def test_expression_of_strength_zero_is_no_expression(
    encoder: FaceEncoder, portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    identity = encoder.identify(portrait, landmarks=landmarks)
    away = encoder.words(identity, FaceExpression(torch.ones(64), 0.0))
    assert torch.equal(away, encoder.words(identity))


def test_expression_features_are_columns_80_to_143(
    encoder: FaceEncoder, expression: State, portrait: np.ndarray
) -> None:
    face = portrait[:224, :224]
    with torch.no_grad():
        v_exp = encoder.expression(to_unit([face]))[0]
    error = relative(v_exp, reference_v_exp(expression, face))
    assert error < 1e-4, f"Expected v_exp within 1e-4, got {error:.1e}"  # measured: 0


# --- Golden numbers of the authors' programs ----------------------------------------------------------------


def test_similarity_has_the_measured_numbers() -> None:
    expected = [(0.42976757, -0.02231153, -15.643458), (0.02231153, 0.42976757, -38.717171)]
    np.testing.assert_allclose(similarity_transform(POINTS, np.array(TEMPLATE)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("points", "photo_size", "shift", "scale", "size", "corner"),
    [
        (POINTS, (423, 594), (196.61417, 355.06273), 139.845866, (308, 433), (31, 62)),
        (OTHER_POINTS, (321, 341), (154.64084, 188.46655), 101.973136, (321, 341), (42, 40)),
    ],
)
def test_expression_crop_has_the_measured_numbers(
    points: np.ndarray,
    photo_size: tuple[int, int],
    shift: tuple[float, float],
    scale: float,
    size: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    crop = fit_expression_crop(points, *photo_size)
    np.testing.assert_allclose(crop.shift, shift, atol=1e-3)
    assert crop.scale == pytest.approx(scale, abs=1e-4)
    assert (crop.width, crop.height) == size
    assert (crop.left, crop.top) == corner


def test_expression_crop_puts_the_landmarks_where_the_authors_do() -> None:
    crop = fit_expression_crop(POINTS, 423, 594)
    zoom = 102 / crop.scale
    x, y = POINTS[:, 0] * zoom - crop.left, 224 - 1 - (POINTS[:, 1] * zoom - crop.top)
    expected = [(73.041, 134.558), (130.793, 136.950), (85.003, 100.722), (75.776, 73.473), (134.805, 77.987)]
    np.testing.assert_allclose(
        np.stack([x, y], axis=1), expected, atol=0.75
    )  # the authors round the corner to whole px


@pytest.mark.parametrize(
    "move", [(0, 0), (-150, 0), (-190, -95), (200, 330)], ids=["inside", "left", "corner", "right"]
)
@pytest.mark.parametrize("zoom", [0.6, 1.0, 2.5])
def test_expression_crop_equals_resizing_the_whole_photo(
    portrait: np.ndarray, landmarks: np.ndarray, move: tuple[int, int], zoom: float
) -> None:
    center = landmarks.mean(0)
    points = (landmarks - center) * zoom + center + move
    difference = np.abs(align_expression(portrait, points).astype(int) - reference_crop(portrait, points))
    assert difference.max() <= 1, f"Expected at most 1 level, got {difference.max()}"
