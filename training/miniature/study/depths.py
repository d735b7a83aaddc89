"""Verification of held-out people by the encoders' depths (Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ....f2d.checkpoint import read
from ....f2d.networks.msid import load_msid
from ...data.face_datasets import open_faces
from ...msid.verification import Similarities, area_under_curve, compare, draw_histograms, sample_triplets
from ...report.pages import Block, Cell, Figure, Row, Table
from ...report.statistics import bootstrap
from ..recipe import MSF_DEPTHS, Miniature
from ..world.photo_folders import write_class_folders
from ..world.samples import HELD_OUT_PEOPLE

_PEOPLE_FACTOR = 8  # times the people of the report
_PHOTOS, _TRIPLETS = 8, 10  # per person
_ENCODERS = {"arcface": "ArcFace", "msid": "MSID"}
Depths = dict[str, dict[int, Similarities]]  # by encoder and depth


def compare_depths(miniature: Miniature, folder: Path) -> Depths:
    """Compare held-out people's faces at each depth, over several samplings of triplets.

    Args:
        miniature: the recipe's folder.
        folder: for the histograms.

    Returns:
        The cosines of both encoders.
    """
    people = HELD_OUT_PEOPLE[: max(_PEOPLE_FACTOR * miniature.config.report_people, 2)]
    faces = open_faces(
        write_class_folders(miniature.folder / f"held-out-{len(people)}", people, _PHOTOS), remap=True
    )
    triplets = np.concatenate([sample_triplets(faces.labels, seed) for seed in range(_TRIPLETS)])
    depths = {}
    for name, title in _ENCODERS.items():
        depths[name] = compare(load_msid(read(miniature.encoder(name)), MSF_DEPTHS), faces, triplets)
        draw_histograms(depths[name], folder / f"depths-{name}.png", title)
    return depths


def count_people(depths: Depths) -> int:
    """Count the people of the triplets."""
    return len(depths["msid"][MSF_DEPTHS[0]].positive) // _TRIPLETS


def depth_auc(similarities: Similarities) -> Callable[[np.ndarray], float]:
    """Return a depth's AUC as a function of which people's triplets count, of shape (I,)."""
    positive, negative = (
        array.reshape(_TRIPLETS, -1) for array in (similarities.positive, similarities.negative)
    )
    return lambda people: area_under_curve(positive[:, people].ravel(), negative[:, people].ravel())


def report_depths(depths: Depths, folder: Path) -> Iterator[Block]:
    """Build the page's table and figures.

    Args:
        depths: of `compare_depths`.
        folder: with the histograms.

    Yields:
        The blocks.
    """
    people = count_people(depths)
    rows = []
    for name, title in _ENCODERS.items():
        aucs = [
            bootstrap(depth_auc(similarities), people, limits=(0, 1))
            for similarities in depths[name].values()
        ]
        cells = [
            Cell(f"{100 * auc:.2f} %", detail=f"{100 * low:.2f} to {100 * high:.2f}")
            for auc, low, high in aucs
        ]
        rows.append(Row((Cell(title), *cells), "measured"))
    yield Table(
        ("AUC", *(f"depth {depth}" for depth in MSF_DEPTHS)),
        tuple(rows),
        caption=f"{people * _TRIPLETS} triplets of {people} held-out people; intervals: 95 %, bootstrap over "
        "people.",
    )
    for name, title in _ENCODERS.items():
        caption = f"Cosines of {title}'s features: anchor and positive, anchor and negative."
        yield Figure(f"depths-{name}.png", (folder / f"depths-{name}.png").read_bytes(), caption)
