"""Faces cut out of images as squares, edited elsewhere, and pasted back.

image (H, W, 3) and a detected face
  -> find_region   FaceRegion: a square around the face, with context
  -> crop_region   (size, size, 3)   what a diffusion model edits
  -> region_mask   (size, size)      the face in it, with a soft edge
  -> paste_region  (H, W, 3)         the edited crop in its place

Images here are float32 in [0, 1]: an image that passes through keeps its bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ..options import Faces, Order
from .detection import Face, sort_faces

_MIN_SIDE = 16  # px
_SOFT_EDGE = 0.25  # of the ellipse's radius
_SPREAD_RANGE = 0.5, 2.0  # how far color matching may change the contrast


@dataclass(frozen=True)
class FaceRegion:
    """The square around one face; it may reach beyond the image."""

    image: int  # index in the batch
    left: int  # px
    top: int  # px
    side: int  # px
    center: tuple[float, float]  # of the face, as shares of the side
    radii: tuple[float, float]  # of the ellipse that masks the face, as shares of the side


@dataclass(frozen=True)
class FaceRegions:
    """The regions of all crops of a batch, in the crops' order, and the batch that they belong to."""

    count: int  # images in the batch
    width: int  # px
    height: int  # px
    regions: tuple[FaceRegion, ...]

    def __len__(self) -> int:
        return len(self.regions)

    def __iter__(self) -> Iterator[FaceRegion]:
        return iter(self.regions)

    def images_without(self) -> list[int]:
        """List the images of the batch that have no region."""
        return sorted(set(range(self.count)) - {region.image for region in self})


def select_faces(faces: Sequence[Face], which: Faces, order: Order, index: int = 0) -> list[Face]:
    """Select faces of one image.

    Args:
        faces: boxes of shape (4,).
        which: "all", "largest", or "index" for the one at `index`.
        order: how the faces are counted.
        index: from 0.

    Returns:
        The selected faces in their order; empty if there is none.
    """
    if which == "largest":
        return sort_faces(faces)[:1]
    ordered = sort_faces(faces, order)
    return ordered[index : index + 1] if which == "index" else ordered


def find_region(face: Face, image: int, width: int, height: int, context: float) -> FaceRegion:
    """Place a square around a face.

    Args:
        face: box of shape (4,), px.
        image: its index in the batch.
        width: of the image, px.
        height: of the image, px.
        context: side of the square over the longer side of the box, at least 1.

    Returns:
        A square that lies inside the image if it fits; otherwise it is centered along the axis that is too
        short.
    """
    box = np.asarray(face.box, np.float64)
    center, side = box[:2] + box[2:] / 2, max(round(context * float(box[2:].max())), _MIN_SIDE)
    left, top = (_place(middle, side, length) for middle, length in zip(center, (width, height), strict=True))
    radii = box[2:] / 2 * (1 + context) / 2 / side
    x, y = (center - (left, top)) / side
    return FaceRegion(image, left, top, side, (float(x), float(y)), (float(radii[0]), float(radii[1])))


def _place(middle: float, side: int, length: int) -> int:
    if side > length:
        return (length - side) // 2
    return min(max(round(middle - side / 2), 0), length - side)


def crop_faces(images: np.ndarray, regions: FaceRegions, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop all regions from a batch.

    Args:
        images: shape (B, H, W, 3), float32 in [0, 1].
        regions: N of them.
        size: side of the crops, px.

    Returns:
        Crops of shape (N, size, size, 3) and masks of shape (N, size, size), float32 in [0, 1]. Without any
        region: the middle of the first image with a mask of zeros, because a sampler fails on an empty batch.
    """
    if not regions:
        side = min(regions.width, regions.height)
        corner = (regions.width - side) // 2, (regions.height - side) // 2
        middle = FaceRegion(0, *corner, side, (0.5, 0.5), (0.5, 0.5))
        return crop_region(images[0], middle, size)[None], np.zeros((1, size, size), np.float32)
    crops = [crop_region(images[region.image], region, size) for region in regions]
    return np.stack(crops), np.stack([region_mask(region, size) for region in regions])


def paste_faces(
    images: np.ndarray,
    crops: np.ndarray,
    regions: FaceRegions,
    masks: np.ndarray | None = None,
    feather: int = 0,
    match: bool = False,
) -> np.ndarray:
    """Paste edited crops into the batch that they come from.

    Args:
        images: shape (B, H, W, 3), float32 in [0, 1].
        crops: shape (N, S, S, 3), float32 in [0, 1].
        regions: N of them.
        masks: shape (N, M, M), (1, M, M) or (M, M), float32 in [0, 1]; by default those of `region_mask`.
        feather: width of the soft edge, px of the mask.
        match: whether crops get the colors of what they replace.

    Returns:
        shape (B, H, W, 3), float32; bit-identical to `images` where all masks are 0. Of faces that overlap,
        the first one lies on top.

    Raises:
        ValueError: the batch is not the one that was cropped, or crops or masks do not fit the regions.
    """
    _check_paste(images, crops, regions)
    if not regions:
        return images
    if masks is None:
        masks = np.stack([region_mask(region, crops.shape[1]) for region in regions])
    masks = _check_masks(masks, len(regions))
    pasted = images.copy()
    for crop, mask, region in reversed(list(zip(crops, masks, regions, strict=True))):
        paste_region(pasted[region.image], crop, mask, region, feather, match)
    return pasted


def _check_paste(images: np.ndarray, crops: np.ndarray, regions: FaceRegions) -> None:
    wanted = regions.count, regions.height, regions.width
    if images.shape[:3] != wanted:
        raise ValueError(
            f"The faces were cropped from {wanted[0]} image(s) of {wanted[2]}x{wanted[1]} px, but these are "
            f"{images.shape[0]} of {images.shape[2]}x{images.shape[1]} px. Connect the image of Crop Faces."
        )
    if len(crops) != len(regions):
        raise ValueError(
            f"There are {len(crops)} crops for {len(regions)} faces. "
            "Connect one edited crop per face, in the order of Crop Faces."
        )
    if crops.shape[1] != crops.shape[2]:
        raise ValueError(
            f"Face crops are square; these have {crops.shape[2]}x{crops.shape[1]} px. "
            "Connect the edited crops of Crop Faces."
        )


def _check_masks(masks: np.ndarray, count: int) -> np.ndarray:
    """Resize masks to shape (count, M, M), float32 in [0, 1]."""
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or len(masks) not in (1, count):
        raise ValueError(
            f"The masks have the shape {masks.shape}; {count} crop(s) need square masks, one per crop or one "
            "for all. Connect the masks of Crop Faces."
        )
    masks = np.nan_to_num(masks.astype(np.float32)).clip(0, 1)
    return np.broadcast_to(masks, (count, *masks.shape[1:]))


def crop_region(image: np.ndarray, region: FaceRegion, size: int) -> np.ndarray:
    """Crop a region from an image of shape (H, W, 3), float32.

    Args:
        image: the image with the face.
        region: where.
        size: side of the crop, px.

    Returns:
        shape (size, size, 3), float32 in [0, 1]; beyond the image, its border is repeated.
    """
    height, width = image.shape[:2]
    rows, columns = (
        np.arange(start, start + region.side).clip(0, length - 1)
        for start, length in ((region.top, height), (region.left, width))
    )
    return _resize(image[rows[:, None], columns], size)


def region_mask(region: FaceRegion, size: int) -> np.ndarray:
    """Mask the face in its crop: an ellipse with a soft edge, shape (size, size), float32 in [0, 1]."""
    points = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = ((points - middle) / radius for middle, radius in zip(region.center, region.radii, strict=True))
    distance = np.hypot(x[None, :], y[:, None])
    return ((1 - distance) / _SOFT_EDGE + 0.5).clip(0, 1)


def paste_region(
    image: np.ndarray, crop: np.ndarray, mask: np.ndarray, region: FaceRegion, feather: int, match: bool
) -> None:
    """Paste an edited crop into an image in place; pixels where the mask is 0 keep their bits.

    Args:
        image: shape (H, W, 3), float32 in [0, 1].
        crop: shape (S, S, 3), float32 in [0, 1].
        mask: shape (M, M), float32 in [0, 1]: 1 where the crop replaces the image.
        region: where the crop belongs.
        feather: width of the soft edge, px of the mask.
        match: whether the crop gets the colors of the image.
    """
    height, width = image.shape[:2]
    top, left = max(region.top, 0), max(region.left, 0)
    bottom, right = min(region.top + region.side, height), min(region.left + region.side, width)
    inside = np.s_[top - region.top : bottom - region.top, left - region.left : right - region.left]
    patch, place = _resize(crop, region.side)[inside], image[top:bottom, left:right]
    edges = (
        region.top > 0,
        region.left > 0,
        region.top + region.side < height,
        region.left + region.side < width,
    )
    weight = _resize_mask(_feather(mask, feather, edges), region.side)[inside][..., None]
    if match:
        patch = match_colors(patch, place, weight)
    place += weight * (patch - place)


def match_colors(image: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Match the mean and standard deviation of an image to those of another, per channel.

    Args:
        image: shape (H, W, 3), float32 in [0, 1].
        target: shape (H, W, 3), float32 in [0, 1].
        weight: shape (H, W, 1), at least 0: how much a pixel counts.

    Returns:
        shape (H, W, 3), float32 in [0, 1]; the image itself where all weights are 0.
    """
    total = float(weight.sum())
    if total <= 0:
        return image
    (mean, spread), (wanted, wanted_spread) = (
        _weighted_moments(pixels, weight / total) for pixels in (image, target)
    )
    contrast = (wanted_spread / np.maximum(spread, 1e-3)).clip(*_SPREAD_RANGE)
    return ((image - mean) * contrast + wanted).clip(0, 1).astype(np.float32)


def _weighted_moments(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = (image * weight).sum(axis=(0, 1), dtype=np.float64)
    return mean, np.sqrt(((image - mean) ** 2 * weight).sum(axis=(0, 1)))


def _feather(mask: np.ndarray, feather: int, edges: tuple[bool, bool, bool, bool]) -> np.ndarray:
    """Blur a mask of shape (M, M), and let it fall to 0 at those edges that lie inside the image.

    `edges` are top, left, bottom and right; at the image's own border nothing needs to blend.
    """
    if not feather:
        return mask
    size = len(mask)
    blurred = cv2.GaussianBlur(mask, (0, 0), feather / 4, borderType=cv2.BORDER_REPLICATE)
    rise = ((np.arange(size, dtype=np.float32) + 0.5) / feather).clip(0, 1)
    flat = np.ones(size, np.float32)
    top, left, bottom, right = (rise if edge else flat for edge in edges)
    return blurred.clip(0, 1) * np.minimum(top, bottom[::-1])[:, None] * np.minimum(left, right[::-1])


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resample an image of shape (S, S, 3), float32, to another side with Lanczos; values stay in [0, 1]."""
    if len(image) == size:
        return image
    channels = [_resample(image[..., channel], size, Image.Resampling.LANCZOS) for channel in range(3)]
    return np.stack(channels, axis=2).clip(0, 1)


def _resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resample a mask of shape (S, S), float32, without ringing: what is far from the mask stays 0."""
    return mask if len(mask) == size else _resample(mask, size, Image.Resampling.BILINEAR)


def _resample(channel: np.ndarray, size: int, method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize((size, size), method))
