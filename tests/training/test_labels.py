"""The scatter plot's labels, by the bounding boxes of the rendered texts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from face2diffusion.training.report.plots import draw_trade_off
from face2diffusion.training.report.published import METHODS
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

PUBLISHED = {row.method: (row.scores["CLIP"], row.scores["AdaFace"]) for row in METHODS}
NAMES = ("F2D", "reconstruction", "reconstruction-dsc", "masked", "no-expression", "arcface-msf", "a" * 40)


def boxes(figure: Figure) -> dict[str, Bbox]:
    """The labels' extents in px, by text and number."""
    renderer = figure.canvas.get_renderer()
    texts = figure.axes[0].texts
    return {f"{n} {text.get_text()}": Text.get_window_extent(text, renderer) for n, text in enumerate(texts)}


def measured(case: str) -> dict[str, tuple[float, float]]:
    chance = np.random.default_rng(0)
    where = {
        "apart": chance.uniform([0.15, 0.0], [0.3, 0.5], (len(NAMES), 2)),
        "one point": np.tile([0.2486, 0.3143], (len(NAMES), 1)),
        "at the edge": np.tile([0.35, 0.6], (len(NAMES), 1)),
        "close": chance.normal([0.25, 0.16], [0.002, 0.004], (len(NAMES), 2)),
    }[case]
    return dict(zip(NAMES, map(tuple, where.tolist()), strict=True))


@pytest.mark.parametrize("case", ["apart", "one point", "at the edge", "close"])
def test_labels_cover_neither_each_other_nor_points(case: str) -> None:
    figure = draw_trade_off(PUBLISHED, measured(case), "CLIP", "AdaFace")
    figure.draw_without_rendering()
    found = boxes(figure)
    assert len(found) == len(PUBLISHED) + len(NAMES)
    for one, other in combinations(found, 2):
        assert not found[one].overlaps(found[other]), f"{one} covers {other}"
    axes = figure.axes[0]
    for name, box in found.items():
        assert axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max), f"{name} leaves the axes"
        for point in (*PUBLISHED.values(), *measured(case).values()):
            assert not box.contains(*axes.transData.transform(point)), f"{name} covers {point}"


def test_labels_at_one_place_would_collide() -> None:
    """Guards the test above: with all labels at their points, the boxes do overlap."""
    figure = draw_trade_off(PUBLISHED, measured("one point"), "CLIP", "AdaFace")
    for text in figure.axes[0].texts:
        text.set_position((0, 0))
    assert any(one.overlaps(other) for one, other in combinations(boxes(figure).values(), 2))
