"""Pictures of every kind become (H, W, 3) uint8 and go back unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import from_comfy, load_photo, save_png, to_comfy, to_signed, to_unit
from PIL import Image


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_comfy_round_trip_is_exact(picture: np.ndarray) -> None:
    images = to_comfy([picture, 255 - picture])
    assert images.shape == (2, 24, 32, 3) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    back = from_comfy(images)
    np.testing.assert_array_equal(back, [picture, 255 - picture])


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(from_comfy(to_comfy([levels]))[0], levels)


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparent_images_become_rgb(channels: int) -> None:
    images = torch.rand(1, 20, 20, channels)
    (photo,) = from_comfy(images)
    assert photo.shape == (20, 20, 3)
    expected = (images[0, :, :, :3].expand(-1, -1, 3) * 255).round()
    np.testing.assert_array_equal(photo, expected)


def test_values_outside_of_the_range_are_clipped_as_comfyui_does() -> None:
    (photo,) = from_comfy(torch.tensor([-0.5, 0.5, 1.7]).repeat(1, 16, 16, 1))
    np.testing.assert_array_equal(photo[0, 0], [0, 128, 255])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_precision_are_taken(dtype: torch.dtype) -> None:
    (photo,) = from_comfy(torch.full((1, 16, 16, 3), 0.5, dtype=dtype))
    assert (photo == 128).all()


def test_unit_tensor_has_channels_first_and_values_from_0_to_1(picture: np.ndarray) -> None:
    batch = to_unit([picture])
    assert batch.shape == (1, 3, 24, 32)
    torch.testing.assert_close(batch[0, 2, 5, 7].item(), picture[5, 7, 2] / 255)


def test_signed_tensor_has_values_from_minus_1_to_1() -> None:
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    batch = to_signed([black, white])
    assert (batch[0] == -1).all() and (batch[1] == 1).all()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_lossless_files_are_read_exactly(picture: np.ndarray, tmp_path: Path, suffix: str) -> None:
    Image.fromarray(picture).save(
        tmp_path / f"photo{suffix}", **({"lossless": True} if suffix == ".webp" else {})
    )
    np.testing.assert_array_equal(load_photo(tmp_path / f"photo{suffix}"), picture)
    np.testing.assert_array_equal(load_photo(str(tmp_path / f"photo{suffix}")), picture)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "RGB": lambda picture: picture,
    "gray": lambda picture: picture[:, :, 0],
    "gray with a channel": lambda picture: picture[:, :, :1],
    "RGBA": lambda picture: np.dstack([picture, picture[:, :, 0]]),
    "float": lambda picture: picture / np.float32(255),
    "double": lambda picture: picture / 255,
    "16 bits": lambda picture: picture.astype(np.uint16) * 257,
    "16 bits, gray": lambda picture: picture[:, :, 0].astype(np.uint16) * 257,
    "not contiguous": lambda picture: picture[:, ::-1][:, ::-1],
    "float with rounding errors": lambda picture: (picture / 255) * 1.0000001,
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_every_kind_become_rgb(picture: np.ndarray, kind: str) -> None:
    array = KINDS[kind](picture)
    photo = load_photo(array)
    gray = array.ndim == 2 or array.shape[2] == 1
    assert photo.dtype == np.uint8 and photo.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(photo, picture[:, :, [0, 0, 0]] if gray else picture)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1", "YCbCr"])
def test_pil_images_of_every_mode_become_rgb(picture: np.ndarray, mode: str) -> None:
    image = Image.fromarray(picture).convert(mode)
    np.testing.assert_array_equal(load_photo(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_gray_images_become_rgb(picture: np.ndarray, mode: str, tmp_path: Path) -> None:
    gray = picture[:, :, 0]
    array = {
        "I;16": gray.astype(np.uint16) * 257,
        "I": gray.astype(np.int32) * 257,
        "F": gray / np.float32(255),
    }[mode]
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(tmp_path / "deep.tiff")
    np.testing.assert_array_equal(load_photo(tmp_path / "deep.tiff"), np.stack([gray] * 3, axis=2))


def test_transparency_is_dropped_not_blended(picture: np.ndarray) -> None:
    transparent = np.dstack([picture, np.zeros_like(picture[:, :, 0])])
    np.testing.assert_array_equal(load_photo(Image.fromarray(transparent)), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "PIL image"])
def test_photo_is_turned_as_its_exif_entry_says(
    picture: np.ndarray, orientation: int, as_file: bool, tmp_path: Path
) -> None:
    stored = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture), 7: picture[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(picture, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    source = tmp_path / "turned.png" if as_file else Image.open(tmp_path / "turned.png")
    np.testing.assert_array_equal(load_photo(source), picture)


def test_pil_image_is_not_changed(picture: np.ndarray) -> None:
    image = Image.fromarray(picture)
    image.getexif()[0x0112] = 3
    load_photo(image)
    np.testing.assert_array_equal(np.asarray(image), picture)


def test_photo_of_100_megapixels_is_read(tmp_path: Path) -> None:
    Image.new("1", (10000, 10000), 1).save(tmp_path / "large.png")
    photo = load_photo(tmp_path / "large.png")
    assert photo.shape == (10000, 10000, 3) and photo[-1, -1].tolist() == [255, 255, 255]


def test_png_keeps_pixels_and_text(picture: np.ndarray, tmp_path: Path) -> None:
    save_png(
        tmp_path / "new" / "picture.png",
        picture,
        {"parameters": "A photo of S* in a café", "face2diffusion": json.dumps({"seed": 1})},
    )
    with Image.open(tmp_path / "new" / "picture.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
        assert image.text["parameters"] == "A photo of S* in a café"
        assert json.loads(image.text["face2diffusion"]) == {"seed": 1}
