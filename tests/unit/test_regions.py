"""Faces cut out of images and pasted back: places, masks, colors and unchanged pixels."""

from __future__ import annotations

import numpy as np
import pytest
from face2diffusion.f2d.face.detection import Face
from face2diffusion.f2d.face.regions import (
    FaceRegions,
    crop_faces,
    find_region,
    match_colors,
    paste_faces,
    region_mask,
    select_faces,
)
from skimage.data import astronaut

WIDTH, HEIGHT = 512, 512
CORNER, MIDDLE = (4, 2, 40, 50), (180, 60, 90, 120)  # x, y, width, height


def face(box: tuple[float, ...]) -> Face:
    x, y, width, height = box
    points = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    return Face(np.array(box, float), points * (width, height) + (x, y), 0.9)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two portraits, the second one mirrored."""
    photo = astronaut().astype(np.float32) / 255
    return np.stack([photo, photo[:, ::-1]])


def find(images: np.ndarray, *boxes: tuple[int, tuple[float, ...]], context: float = 2.0) -> FaceRegions:
    count, height, width = images.shape[:3]
    regions = tuple(find_region(face(box), number, width, height, context) for number, box in boxes)
    return FaceRegions(count, width, height, regions)


def test_a_region_is_a_square_around_the_face() -> None:
    region = find_region(face(MIDDLE), 0, WIDTH, HEIGHT, 2.0)
    assert (region.left, region.top, region.side) == (225 - 120, 0, 240)
    assert region.center == (0.5, 0.5)
    assert region.radii == pytest.approx((45 * 1.5 / 240, 60 * 1.5 / 240))


def test_a_region_at_the_border_moves_inside_and_keeps_its_side() -> None:
    region = find_region(face(CORNER), 0, WIDTH, HEIGHT, 3.0)
    assert (region.left, region.top, region.side) == (0, 0, 150)
    assert region.center == pytest.approx((24 / 150, 27 / 150)), "the mask stays on the face"


@pytest.mark.parametrize(("width", "height"), [(100, 400), (400, 100), (60, 60)])
def test_a_region_larger_than_the_image_reaches_beyond_it(width: int, height: int) -> None:
    image = np.random.default_rng(0).random((1, height, width, 3), np.float32)
    regions = find(image, (0, (10, 10, 40, 60)), context=4.0)
    crops, masks = crop_faces(image, regions, 240)
    assert crops.shape == (1, 240, 240, 3)
    np.testing.assert_array_equal(paste_faces(image, crops, regions, masks), image), "240 px: not resampled"


@pytest.mark.parametrize("size", [240, 512])
@pytest.mark.parametrize("match", [False, True])
@pytest.mark.parametrize("feather", [0, 32])
def test_unchanged_crops_give_back_the_image(
    images: np.ndarray, size: int, match: bool, feather: int
) -> None:
    regions = find(images, (0, MIDDLE), (0, CORNER), (1, MIDDLE))
    crops, masks = crop_faces(images, regions, size)
    pasted = paste_faces(images, crops, regions, masks, feather, match)
    assert np.abs(pasted - images).max() < 0.15
    assert np.abs(pasted - images).mean() < 1e-3
    outside = np.ones(images.shape[:3], bool)
    for region in regions:
        outside[region.image, region.top : region.top + region.side, region.left :][:, : region.side] = False
    assert 0.5 < outside.mean() < 0.95
    np.testing.assert_array_equal(pasted[outside], images[outside])


def test_pixels_where_the_mask_is_zero_keep_their_bits_and_the_face_is_replaced(images: np.ndarray) -> None:
    regions = find(images, (1, MIDDLE))
    red = np.ones((1, 240, 240, 3), np.float32) * (1, 0, 0)
    pasted = paste_faces(images, red.astype(np.float32), regions)
    (region,) = regions
    mask = np.zeros(images.shape[:3], np.float32)
    mask[1, region.top : region.top + 240, region.left : region.left + 240] = region_mask(region, 240)
    np.testing.assert_array_equal(pasted[mask == 0], images[mask == 0])
    np.testing.assert_allclose(pasted[mask == 1], np.tile([1, 0, 0], (int((mask == 1).sum()), 1)), atol=1e-6)
    assert ((mask > 0) & (mask < 1)).any(), "and the edge is soft"


def test_a_feathered_mask_leaves_no_seam_at_the_edge_of_the_crop(images: np.ndarray) -> None:
    regions = find(images, (0, MIDDLE))
    (region,) = regions
    whole = np.ones((240, 240), np.float32)
    gray = np.zeros_like(images)
    pasted = paste_faces(gray, np.ones((1, 240, 240, 3), np.float32), regions, whole, feather=40)
    row = pasted[0, region.top + 120, :, 0]
    assert row[region.left + 120] == pytest.approx(1)
    assert np.abs(np.diff(row)).max() < 0.05, "from 0 to 1 over 40 px"
    column = pasted[0, :, region.left + 120, 0]
    assert region.top == 0 and column[0] == pytest.approx(1), (
        "at the border of the image itself nothing fades"
    )


def test_each_image_gets_its_own_crops(images: np.ndarray) -> None:
    regions = find(images, (0, MIDDLE), (1, CORNER))
    crops = np.stack([np.full((64, 64, 3), value, np.float32) for value in (0.25, 0.75)])
    pasted = paste_faces(images, crops, regions)
    assert pasted[0, 120, 225] == pytest.approx([0.25] * 3)
    assert pasted[1, 27, 24] == pytest.approx([0.75] * 3)
    np.testing.assert_array_equal(pasted[1, 120, 225], images[1, 120, 225])


def test_color_matching_gives_the_mean_and_contrast_of_the_image_inside_the_mask(images: np.ndarray) -> None:
    regions = find(images, (0, MIDDLE))
    crops, masks = crop_faces(images, regions, 240)
    tinted = (crops * (0.8, 0.9, 0.7) + (0.1, 0.0, 0.2)).astype(np.float32)
    inside = np.s_[0, 60:180, 180:270]

    def error(match: bool) -> float:
        return float(
            np.abs(paste_faces(images, tinted, regions, masks, 0, match)[inside] - images[inside]).mean()
        )

    assert error(False) > 0.03
    assert error(True) < 0.01


def test_color_matching_stays_finite_on_flat_colors_and_empty_masks() -> None:
    flat, target = np.full((8, 8, 3), 0.5, np.float32), np.random.default_rng(0).random((8, 8, 3), np.float32)
    matched = match_colors(flat, target, np.ones((8, 8, 1), np.float32))
    np.testing.assert_allclose(matched.mean((0, 1)), target.mean((0, 1)), atol=1e-5)
    assert match_colors(flat, target, np.zeros((8, 8, 1), np.float32)) is flat


def test_faces_are_selected_in_their_order() -> None:
    faces = [face(CORNER), face((400, 10, 60, 60)), face(MIDDLE)]
    assert select_faces(faces, "all", "largest") == [faces[2], faces[1], faces[0]]
    assert select_faces(faces, "all", "left to right") == [faces[0], faces[2], faces[1]]
    assert select_faces(faces, "largest", "left to right") == [faces[2]]
    assert select_faces(faces, "index", "left to right", 1) == [faces[2]]
    assert select_faces(faces, "index", "largest", 3) == []


def test_without_a_face_the_image_is_unchanged_and_the_batch_is_not_empty(images: np.ndarray) -> None:
    regions = FaceRegions(2, WIDTH, HEIGHT, ())
    crops, masks = crop_faces(images, regions, 64)
    assert crops.shape == (1, 64, 64, 3) and not masks.any()
    assert regions.images_without() == [0, 1]
    np.testing.assert_array_equal(paste_faces(images, crops[:0], regions), images)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda images, crops, masks: (images[:1], crops, masks),
            "2 image.s. of 512x512 px, but these are 1",
        ),
        (lambda images, crops, masks: (images, crops[:1], masks), "1 crops for 2 faces"),
        (lambda images, crops, masks: (images, crops[:, :32], masks), "square; these have 64x32"),
        (lambda images, crops, masks: (images, crops, masks[:, :32]), "one per crop or one for all"),
        (lambda images, crops, masks: (images, crops, masks[[0, 1, 1]]), "one per crop or one for all"),
    ],
)
def test_what_does_not_belong_together_is_refused(images: np.ndarray, change, words: str) -> None:
    regions = find(images, (0, MIDDLE), (1, MIDDLE))
    images, crops, masks = change(images, *crop_faces(images, regions, 64))
    with pytest.raises(ValueError, match=words):
        paste_faces(images, crops, regions, masks)
