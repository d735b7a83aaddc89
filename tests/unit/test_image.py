"""Pictures of every kind become (H, W, 3) uint8 and go back unchanged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from face2diffusion.f2d.image import from_comfy, load_photo, save_png, to_comfy, to_signed, to_unit
from PIL import Image, ImageOps, PngImagePlugin, features


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


# --- As ComfyUI's Load Image reads files ---


def load_image(path: Path) -> np.ndarray:
    """The first frame as Load Image gives it: float in [0, 1] from 8 bits, transparency dropped."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode == "I":
        image = image.point(lambda value: value * (1 / 255))
    return np.array(image.convert("RGB")).astype(np.float32) / 255


def animation(picture: np.ndarray) -> dict:
    return {"save_all": True, "append_images": [Image.fromarray(255 - picture)]}


FORMATS: dict[str, Callable[[np.ndarray, Path], None]] = {
    **{
        f"{mode}.{suffix}": lambda picture, path, mode=mode: Image.fromarray(picture).convert(mode).save(path)
        for mode, suffixes in {
            "RGB": "png jpg jfif jpe webp bmp tif gif jp2 ppm tga ico",
            "RGBA": "png webp tif gif jp2 tga",
            "L": "png jpg tif gif jp2 bmp",
            "LA": "png tif",
            "1": "png tif bmp",
            "P": "png gif bmp tif",
            "CMYK": "jpg tif",
            "YCbCr": "jpg tif",
        }.items()
        for suffix in suffixes.split()
    },
    "animation.gif": lambda picture, path: Image.fromarray(picture).save(path, **animation(picture)),
    "animation.png": lambda picture, path: Image.fromarray(picture).save(path, **animation(picture)),
    "animation.webp": lambda picture, path: Image.fromarray(picture).save(path, **animation(picture)),
    "pages.tif": lambda picture, path: Image.fromarray(picture).save(path, **animation(picture)),
    "32 bits.tif": lambda picture, path: Image.fromarray(picture[:, :, 0].astype(np.int32) * 400).save(path),
    "32-bit floats.tif": lambda picture, path: Image.fromarray(picture[:, :, 0] * np.float32(1.2)).save(path),
    "negative floats.tif": lambda picture, path: Image.fromarray(picture[:, :, 0] * np.float32(2) - 100).save(
        path
    ),
}
if features.check("avif"):
    FORMATS["RGB.avif"] = lambda picture, path: Image.fromarray(picture).save(path)


@pytest.mark.parametrize("name", FORMATS)
def test_files_have_the_values_that_load_image_gives(picture: np.ndarray, tmp_path: Path, name: str) -> None:
    FORMATS[name](picture, tmp_path / name)
    expected = (load_image(tmp_path / name) * 255).astype(int)
    levels = 2 if name == "32 bits.tif" else 1  # it divides 16-bit values by 255, we by 257
    assert np.abs(load_photo(tmp_path / name).astype(int) - expected).max() <= levels


def test_32_bit_values_beyond_16_bits_are_white(tmp_path: Path) -> None:
    """Not refused, as if they were the floats of a step before."""
    Image.fromarray(np.full((20, 20), 2_000_000, np.int32)).save(tmp_path / "deep.tif")
    assert (load_photo(tmp_path / "deep.tif") == 255).all()


@pytest.mark.parametrize("kind", ["text", "compressed text", "international text", "after the pixels"])
def test_png_with_a_workflow_of_any_size_is_read(picture: np.ndarray, tmp_path: Path, kind: str) -> None:
    text = PngImagePlugin.PngInfo()
    workflow = "x" * (PngImagePlugin.MAX_TEXT_MEMORY + 1)
    if kind == "text":
        text.add_text("workflow", workflow)
    elif kind == "compressed text":
        text.add_text("workflow", workflow, zip=True)
    elif kind == "international text":
        text.add_itxt("workflow", workflow, zip=True)
    else:
        text.add(b"tEXt", b"workflow\0" + workflow.encode(), after_idat=True)
    file = tmp_path / "workflow.png"
    Image.fromarray(picture).save(file, pnginfo=text)
    with pytest.raises(ValueError, match="large|MAX_TEXT"), Image.open(file) as image:
        image.load()
    np.testing.assert_array_equal(load_photo(file), picture)


def test_orientation_in_the_xmp_text_of_a_png_is_kept(picture: np.ndarray, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    Image.fromarray(picture[::-1, ::-1].copy()).save(tmp_path / "turned.png", pnginfo=text)
    np.testing.assert_array_equal(load_photo(tmp_path / "turned.png"), picture)


@pytest.mark.parametrize(
    ("brand", "advice"),
    [(b"heic", "pip install pillow-heif"), (b"mif1", "pip install pillow-heif")]
    + ([] if features.check("avif") else [(b"avif", "pip install pillow-avif-plugin")]),
)
def test_photo_of_a_phone_names_the_package_to_install(tmp_path: Path, brand: bytes, advice: str) -> None:
    content = b"\x00\x00\x00\x18ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(99)
    (tmp_path / "photo.heic").write_bytes(content)
    with pytest.raises(ValueError, match=f"photo.heic' is .* image, which needs another package.*{advice}"):
        load_photo(tmp_path / "photo.heic")


def test_package_for_phones_is_used_where_it_is_installed(
    picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for pillow-heif, which registers a format with Pillow as the real one does."""

    def register() -> None:
        Image.register_open(
            "F2D-HEIF", lambda file, name: Image.fromarray(picture), lambda head: b"heic" in head
        )

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    (tmp_path / "photo.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(99))
    try:
        np.testing.assert_array_equal(load_photo(tmp_path / "photo.heic"), picture)
    finally:
        Image.OPEN.pop("F2D-HEIF", None)
        Image.ID.remove("F2D-HEIF")


def test_reading_leaves_pillows_limits_alone(picture: np.ndarray, tmp_path: Path) -> None:
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS
    Image.fromarray(picture).save(tmp_path / "a.png")
    load_photo(tmp_path / "a.png")
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, Image.MAX_IMAGE_PIXELS)
