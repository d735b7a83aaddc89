"""Every change of an image's layout or value range: from files, arrays and ComfyUI to a network's input."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 16  # px; nothing smaller can hold a face
MAX_SIDE = 32766  # px; OpenCV cannot warp from a larger image

_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # of a PNG; Pillow refuses more than 1 MB in one
_XMP = b"XML:com.adobe.xmp"  # the one text about pixels: it may hold the orientation
_BRANDS = {  # what a file of this kind has as its major brand, and what opens it
    b"heic": "pillow-heif",
    b"heix": "pillow-heif",
    b"hevc": "pillow-heif",
    b"heim": "pillow-heif",
    b"mif1": "pillow-heif",
    b"msf1": "pillow-heif",
    b"avif": "pillow-avif-plugin",
    b"avis": "pillow-avif-plugin",
}
# Suffixes of photos. What Pillow cannot open of these is reported, never passed over in silence.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".jp2", ".avif", ".heic", ".heif"),
)

Photo = np.ndarray  # (H, W, 3) uint8, RGB


def load_photo(source: str | os.PathLike | np.ndarray | Image.Image) -> Photo:
    """Read an image from a file, an array or a PIL image, with the values that ComfyUI's Load Image gives.

    EXIF rotation is applied, an alpha channel is dropped, gray becomes RGB, 16 bits become 8, and the first
    frame of an animation is taken.

    Args:
        source: path of an image; or array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or
            uint16 in full range or float in [0, 1]; or PIL image.

    Returns:
        shape (H, W, 3), uint8, RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file or array is not an image that can be used.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(ImageOps.exif_transpose(source), "The image")
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"A photo of type {type(source).__name__} cannot be read; it must be a path, an array or a PIL "
            "image. Convert it first."
        )
    return _read_photo(os.fspath(source))


def _read_photo(path: str) -> Photo:
    if not os.path.exists(path):
        raise FileNotFoundError(f"The photo '{path}' does not exist. Check the path.")
    if os.path.isdir(path):
        raise ValueError(f"'{path}' is a folder, not a photo. Name one file in it.")
    if os.path.getsize(path) == 0:
        raise ValueError(f"The photo '{path}' has 0 bytes. Copy or download it again.")
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with _open(file) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
    except UnidentifiedImageError as error:
        raise ValueError(f"'{path}' {_unknown_format(path)}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ValueError(f"'{path}' has more than {limit} megapixels. Scale the image down.") from error
    except PermissionError as error:
        raise ValueError(
            f"'{path}' cannot be read for lack of permission. Change its permissions."
        ) from error
    except Exception as error:  # a damaged file may raise anything, by its format
        raise ValueError(f"'{path}' is damaged or truncated ({error}). Copy or download it again.") from error
    return _from_pil(image, f"'{path}'")


def _open(file: BinaryIO) -> Image.Image:
    head = file.read(12)
    file.seek(0)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return Image.open(_without_text(file))
    if head[4:8] == b"ftyp" and _BRANDS.get(head[8:]) == "pillow-heif":
        with contextlib.suppress(ImportError):
            from pillow_heif import register_heif_opener

            register_heif_opener()
    return Image.open(file)


def _without_text(png: BinaryIO) -> BinaryIO:
    """Copy a PNG without the texts and profile, which ComfyUI fills with workflows of any size."""
    content = png.read()
    kept, place = [content[:8]], 8
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        chunk = content[place : place + 12 + length]
        if kind not in _TEXT_CHUNKS or chunk.startswith(_XMP, 8):
            kept.append(chunk)
        place += 12 + length
    return io.BytesIO(b"".join(kept))


def _unknown_format(path: str) -> str:
    """Describe a file that Pillow cannot open, and what to do."""
    with open(path, "rb") as file:
        head = file.read(12)
    package = _BRANDS.get(head[8:]) if head[4:8] == b"ftyp" else None
    if package:
        kind = "a HEIC" if package == "pillow-heif" else "an AVIF"
        return (
            f"is {kind} image, which needs another package. Run `pip install {package}`, or save it as JPEG."
        )
    return "is not an image that Pillow can open (PNG, JPEG, WebP, ...). Save it as PNG or JPEG."


def _from_pil(image: Image.Image, name: str) -> Photo:
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow may open as 32-bit
        deep = np.asarray(image, dtype=np.float32) / np.float32(65535)
        return _from_array(deep.clip(0, 1), name)
    if image.mode == "F":
        return _from_array(_from_float(np.asarray(image)), name)
    return _from_array(np.asarray(image.convert("RGB")), name)


def _from_float(gray: np.ndarray) -> np.ndarray:
    """Scale gray floats of a file, (H, W), to [0, 1]; values above 1 mean a range of [0, 255]."""
    return gray if not gray.max() > 1 else gray.clip(0, 255) / np.float32(255)


def _from_array(array: np.ndarray, name: str = "The image") -> Photo:
    if array.ndim == 2:
        array = array[:, :, None]
    _check_shape(array, name)
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(65535)
    if np.issubdtype(array.dtype, np.floating):
        array = _round(array, name)
    if array.dtype != np.uint8:
        raise ValueError(
            f"{name} has values of type {array.dtype}; they must be uint8, uint16 or float in [0, 1]. "
            "Convert it first."
        )
    return np.ascontiguousarray(np.broadcast_to(array[:, :, :3], (*array.shape[:2], 3)))


def _check_shape(array: np.ndarray, name: str) -> None:
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"{name} has the shape {array.shape}; it must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Put "
            "the channels last."
        )
    height, width = array.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} px; each side needs at least {MIN_SIDE} px. Use a larger photo."
        )
    if max(height, width) > MAX_SIDE:
        raise ValueError(
            f"{name} has {width}x{height} px; a side may have at most {MAX_SIDE} px. "
            "Scale it down or crop it."
        )


def _round(array: np.ndarray, name: str) -> np.ndarray:
    """Convert floats in [0, 1] to uint8."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are NaN or infinity. Check the step that made it.")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise ValueError(
            f"{name} has float values in [{array.min():g}, {array.max():g}]; they must be in [0, 1]. "
            "Divide values up to 255 by 255."
        )
    return np.rint(array.clip(0, 1) * 255).astype(np.uint8)


def check_comfy(images: torch.Tensor) -> torch.Tensor:
    """Check ComfyUI's IMAGE, and bring it to three channels without rounding.

    Args:
        images: shape (B, H, W, C) with C = 1, 3 or 4, float; values outside [0, 1] are clipped, as ComfyUI's
            SaveImage does.

    Returns:
        shape (B, H, W, 3), float32 in [0, 1].

    Raises:
        ValueError: not an IMAGE, an empty batch, or NaN values.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        got = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"An IMAGE has the shape (B, H, W, 3); this is {got}. Connect an IMAGE output.")
    if images.shape[0] == 0:
        raise ValueError("The IMAGE is an empty batch. Check the node that made it.")
    images = images.detach().float()
    if not images.isfinite().all():
        raise ValueError("The IMAGE has values that are NaN or infinity. Check the node that made it.")
    return images[..., :3].clamp(0, 1).expand(-1, -1, -1, 3)


def from_comfy(images: torch.Tensor) -> list[Photo]:
    """Split ComfyUI's IMAGE into photos.

    Args:
        images: shape (B, H, W, C) with C = 1, 3 or 4, float; values outside [0, 1] are clipped.

    Returns:
        B images of shape (H, W, 3), uint8, RGB.

    Raises:
        ValueError: as for `check_comfy`, or a side under 16 px.
    """
    return [_from_array(image.cpu().numpy()) for image in check_comfy(images)]


def to_comfy(images: Sequence[Photo] | torch.Tensor) -> torch.Tensor:
    """Stack images of one size, each (H, W, 3) uint8, to ComfyUI's IMAGE: shape (B, H, W, 3), in [0, 1].

    This and the next two also take images that are a tensor of shape (B, H, W, 3), uint8, on any device.
    """
    stack = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.stack(images))
    return stack.float() / 255


def to_unit(images: Sequence[Photo] | torch.Tensor) -> torch.Tensor:
    """Stack images of one size, each (H, W, 3) uint8, to shape (B, 3, H, W), float32 in [0, 1]."""
    return to_comfy(images).permute(0, 3, 1, 2).contiguous()


def to_signed(images: Sequence[Photo] | torch.Tensor) -> torch.Tensor:
    """Stack images of one size, each (H, W, 3) uint8, to shape (B, 3, H, W), float32 in [-1, 1]."""
    return (to_unit(images) - 0.5) / 0.5


def mirror(photo: Photo) -> Photo:
    """Flip an image of shape (H, W, 3), uint8, horizontally."""
    return np.ascontiguousarray(photo[:, ::-1])


def save_png(path: str | os.PathLike, image: Photo, text: dict[str, Any] | None = None) -> None:
    """Write an image atomically as PNG.

    Args:
        path: where to; folders are made.
        image: shape (H, W, 3), uint8, RGB.
        text: entries for the PNG's text chunks; values are written as `str(value)`.
    """
    from PIL.PngImagePlugin import PngInfo

    from .files import atomic_file

    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, str(value))
    with atomic_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=info)


def make_grid(images: Sequence[Photo], gap: int = 8) -> Photo:
    """Arrange images of one size in a grid that is as square as possible.

    Args:
        images: each of shape (H, W, 3), uint8.
        gap: white space between them, px.

    Returns:
        shape (rows * (H + gap) - gap, columns * (W + gap) - gap, 3), uint8.
    """
    height, width = images[0].shape[:2]
    columns = int(np.ceil(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        grid[y : y + height, x : x + width] = image
    return grid
