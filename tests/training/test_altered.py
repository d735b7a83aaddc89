"""Altered copies of photos."""

import numpy as np
import pytest
from face2diffusion.training.data.altered import Alteration

SIDE = 128


@pytest.fixture
def photo() -> np.ndarray:
    """An orange disc on gray, off the center."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = (x - 50) ** 2 + (y - 70) ** 2 < 30**2
    return np.where(disc[..., None], (230, 140, 60), (90, 100, 110)).astype(np.uint8)


def test_a_copy_depends_on_name_and_number_alone(photo):
    copies = [
        Alteration.draw(name, variant).change_photo(photo)
        for name, variant in (("a.png", 1), ("a.png", 1), ("a.png", 2), ("b.png", 1))
    ]
    assert all(copy.shape == photo.shape and copy.dtype == np.uint8 for copy in copies)
    assert np.array_equal(copies[0], copies[1])
    for other in copies[2:]:
        assert not np.array_equal(copies[0], other)


def test_no_alteration_changes_nothing(photo):
    nothing = Alteration(np.eye(2), 1.0, 1.0, np.ones(3))
    assert np.abs(nothing.change_photo(photo).astype(int) - photo).max() <= 1
    assert np.array_equal(nothing.change_map(photo[..., 0]), photo[..., 0])


def test_shape_and_colors_change_within_limits(photo):
    drawn = [Alteration.draw(f"{number}.png", 1) for number in range(200)]
    stretch = np.array([alteration.axes.diagonal() for alteration in drawn])
    assert 0.06 < np.abs(stretch - 1).max() <= 0.07
    skin = np.array([alteration.change_photo(photo)[70, 50] for alteration in drawn], float)
    assert 5 < skin.std(axis=0).max() < 25
    assert (skin[:, 0] > skin[:, 1]).all() and (skin[:, 1] > skin[:, 2]).all(), "no green faces"


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_a_map_is_changed_as_its_photo(photo, kind):
    alteration = Alteration.draw("a.png", 3)
    disc = photo[..., 0] > 150
    changed = alteration.change_map(np.where(disc, 70_000 if kind != np.uint8 else 7, 0).astype(kind))
    assert changed.dtype == kind and set(np.unique(changed)) == {0, 70_000 if kind != np.uint8 else 7}
    seen = alteration.change_photo(photo)[..., 0] > 150
    both, either = (seen & (changed > 0)).sum(), (seen | (changed > 0)).sum()
    assert both / either > 0.97
    assert not np.array_equal(changed > 0, disc)
