"""The recognition networks against their computations written out, their public files, and their crops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from face2diffusion.f2d.face.alignment import (
    ARCFACE_TEMPLATE,
    align_face,
    inverse_similarity_transform,
    similarity_transform,
)
from face2diffusion.f2d.face.detection import Face, NoFaceError, face_from_landmarks, find_faces
from face2diffusion.f2d.networks.recognition import AdaFace, FaceNet, SphereFace, load_recognizer, recognizer
from support import recognition as published
from support.official import write_msid

GOLDEN = {  # tensors and parameters of the public files, heads over the training identities included
    "AdaFace IR-101": (917, 65_150_912),
    "AdaFace IR-50": (467, 43_585_600),
    "SphereFace": (63, 28_084_544),
    "FaceNet": (716, 27_910_327),
}
SIDES = {"AdaFace": (112, 112), "SphereFace": (112, 96), "FaceNet": (160, 160)}


def shapes_of(name: str) -> published.Shapes:
    kind, _, variant = name.partition(" ")
    return {
        "AdaFace": lambda: published.adaface_shapes(variant),
        "SphereFace": published.sphereface_shapes,
        "FaceNet": published.facenet_shapes,
    }[kind]()


@pytest.mark.parametrize("name", GOLDEN)
def test_networks_have_the_published_tensors(name: str) -> None:
    shapes = shapes_of(name)
    trained = {
        key: shape
        for key, shape in shapes.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert (len(shapes), sum(torch.Size(shape).numel() for shape in trained.values())) == GOLDEN[name]
    with torch.device("meta"):
        network = {"AdaFace": AdaFace, "SphereFace": SphereFace, "FaceNet": FaceNet}[name.split()[0]](
            *name.split()[1:]
        )
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert own == {key: shape for key, shape in shapes.items() if not key.startswith(("fc6.", "logits."))}


@pytest.fixture(scope="module")
def crops() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.integers(0, 256, (3, *sides, 3), dtype=np.uint8) for name, sides in SIDES.items()}


CASES: dict[
    str, tuple[Callable, Callable]
] = {  # what writes the file, and the features of BGR or RGB values from 0 to 255
    "AdaFace IR-50": (
        lambda path: published.write_adaface(path, "IR-50"),
        lambda state, rgb: published.adaface(state, (rgb.flip(1) / 255 - 0.5) / 0.5, "IR-50"),
    ),
    "AdaFace IR-101": (
        lambda path: published.write_adaface(path, "IR-101"),
        lambda state, rgb: published.adaface(state, (rgb.flip(1) / 255 - 0.5) / 0.5, "IR-101"),
    ),
    "SphereFace sphere20a": (
        published.write_sphereface,
        lambda state, rgb: published.sphereface(state, (rgb.flip(1) - 127.5) / 128),
    ),
    "FaceNet InceptionResnetV1": (
        published.write_facenet,
        lambda state, rgb: published.facenet(state, (rgb - 127.5) / 128),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_features_from_the_public_file_equal_the_computation_written_out(
    name: str, tmp_path: Path, crops: dict
) -> None:
    write, compute = CASES[name]
    file = write(tmp_path / "weights.pt")
    network = load_recognizer(file)
    assert f"{network.name} {network.variant}" == name
    state = torch.load(file, weights_only=True)
    state = {key.removeprefix("model."): value for key, value in state.get("state_dict", state).items()}
    pictures = crops[network.name][: 1 if name.endswith("101") else 2]
    with torch.no_grad():
        expected = compute(state, torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
    torch.testing.assert_close(
        network.embed(list(pictures)), expected, rtol=0, atol=1e-5 * expected.norm(dim=1).max().item()
    )


def test_many_faces_are_embedded_in_batches(monkeypatch: pytest.MonkeyPatch, crops: dict) -> None:
    network = SphereFace().eval()
    whole = network.embed(crops["SphereFace"])
    monkeypatch.setattr(recognizer, "pass_size", lambda device: 2)
    torch.testing.assert_close(network.embed(crops["SphereFace"]), whole)


# --- Crops --------------------------------------------------------------------------------------------------


def test_adaface_and_sphereface_are_aligned_as_in_their_repositories(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    """matlab_cp2tform fits template -> photo and inverts; the face is larger than by the direct fit."""
    face = Face(np.array([170.0, 60, 90, 110]), landmarks, 1.0)
    narrow = np.array(
        [(30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041)]
    )
    for network, template, width in (
        (AdaFace("IR-50"), ARCFACE_TEMPLATE, 112),
        (SphereFace(), narrow, 96),
    ):
        matrix = np.vstack([published.cp2tform(landmarks, template), (0, 0, 1)])
        expected = cv2.warpPerspective(portrait, matrix, (width, 112), flags=cv2.INTER_LINEAR)
        crop = network.crop(portrait, face)
        assert crop.shape == expected.shape
        assert np.abs(crop.astype(int) - expected).max() <= 1
    assert (
        np.abs(AdaFace("IR-50").crop(portrait, face).astype(int) - align_face(portrait, landmarks)).max() > 9
    )


def test_the_inverse_fit_equals_cp2tform(landmarks: np.ndarray) -> None:
    found = inverse_similarity_transform(landmarks, ARCFACE_TEMPLATE)
    np.testing.assert_allclose(found, published.cp2tform(landmarks, ARCFACE_TEMPLATE), rtol=1e-9)
    direct = similarity_transform(landmarks, ARCFACE_TEMPLATE)
    inverse_scale, scale = np.hypot(found[0, 0], found[1, 0]), np.hypot(direct[0, 0], direct[1, 0])
    assert 1.002 < inverse_scale / scale < 1.03
    exact = np.array([[0.6, -0.2, 7.0], [0.2, 0.6, -3.0]])
    moved = landmarks @ exact[:, :2].T + exact[:, 2]  # without a residual both fits are the same
    np.testing.assert_allclose(inverse_similarity_transform(landmarks, moved), exact, atol=1e-9)
    with pytest.raises(ValueError, match="coincide"):
        inverse_similarity_transform(np.full((5, 2), 9.0), ARCFACE_TEMPLATE)


def test_facenet_refuses_the_box_of_landmarks(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    points = np.repeat(landmarks, 14, axis=0)[:68]
    with pytest.raises(ValueError, match="FAN.*YuNet"):
        FaceNet().crop(portrait, face_from_landmarks(points))


def test_facenet_sees_the_box_without_rotation(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    crop = FaceNet().crop(portrait, Face(np.array([170.9, 60.2, 90.5, 110.0]), landmarks, 1.0))
    expected = cv2.resize(portrait[60:170, 170:261], (160, 160), interpolation=cv2.INTER_LINEAR)
    assert crop.shape == (160, 160, 3)
    assert np.abs(crop.astype(int) - expected).max() <= 1, "enlarging: Pillow and OpenCV agree"


def test_facenet_cuts_the_box_at_the_border_and_refuses_one_outside(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    network = FaceNet()
    beyond = network.crop(portrait, Face(np.array([-50.0, -20, 150, 120]), landmarks, 1.0))
    np.testing.assert_array_equal(
        beyond, network.crop(portrait, Face(np.array([0.0, 0, 100, 100]), landmarks, 1.0))
    )
    with pytest.raises(ValueError, match=r"outside the 512x512 px photo: its box is \[600"):
        network.crop(portrait, Face(np.array([600.0, 20, 50, 50]), landmarks, 1.0))


def test_faces_are_found_largest_first_and_none_is_no_error(
    portrait: np.ndarray, landmarks: np.ndarray
) -> None:
    small, large = (Face(np.array([0.0, 0, side, side]), landmarks, 0.9) for side in (20, 40))
    outside = Face(np.array([0.0, 0, 99, 99]), landmarks - 900, 0.9)
    assert find_faces(SimpleNamespace(detect=lambda photo, score: [small, outside, large]), portrait) == [
        large,
        small,
    ]

    def nothing(photo: np.ndarray, score: float) -> list[Face]:
        raise NoFaceError("none")

    assert find_faces(SimpleNamespace(detect=nothing), portrait) == []


# --- Files that are something else --------------------------------------------------------------------------


class Code:
    def __reduce__(self) -> tuple:
        return print, ("this was run",)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    file = published.write_sphereface(tmp_path / "sphere20a.pth")
    with pytest.raises(
        ValueError, match="sphere20a.pth' does not hold the weights of FaceNet: this is SphereFace's network"
    ):
        load_recognizer(file, "FaceNet")
    msid = write_msid(tmp_path / "msid.pt", patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    with pytest.raises(
        ValueError,
        match="msid.pt' does not hold the weights of AdaFace, SphereFace or FaceNet: this is an MSID encoder",
    ):
        load_recognizer(msid)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    state = {key: torch.tensor(0.0).expand(shape) for key, shape in published.adaface_shapes("IR-50").items()}
    del state["body.23.res_layer.4.weight"]
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "cut.ckpt")
    with pytest.raises(
        ValueError,
        match=r"does not fit AdaFace, which has 467 tensors: 1 missing \(body.23.res_layer.4.weight\)",
    ):
        load_recognizer(tmp_path / "cut.ckpt", "AdaFace")


def test_a_pickle_with_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(
        {"state_dict": {"model.input_layer.0.weight": torch.zeros(1)}, "hyper_parameters": Code()},
        tmp_path / "bad.ckpt",
    )
    with pytest.raises(ValueError, match="holds other objects than tensors, perhaps code, which was not run"):
        load_recognizer(tmp_path / "bad.ckpt")
    assert capsys.readouterr().out == ""


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_recognizer(tmp_path / "gone.ckpt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ValueError, match="has 0 bytes"):
        load_recognizer(tmp_path / "empty.pt")
