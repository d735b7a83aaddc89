"""The figures of a report: Fig. 7, Fig. 4 and image grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ReportConfig
from ..evaluation.protocol import Slot
from ..evaluation.results import HMEAN, Results
from ..msid.verification import area_under_curve
from .pages import Block, Cell, Figure, Heading, Row, Table, Text
from .plots import plot_image_grid, plot_upper_bound
from .published import VERIFICATION_AUC
from .statistics import BEST_OF, bootstrap, upper_bound
from .tables import NONE, Measured, mean_cell

_GRID_SEED = 0


def report_upper_bound(measured: Sequence[Measured], draws: int) -> list[Block]:
    """Build Fig. 7: the best of N images."""
    curves, pairs = {}, {}
    for method in measured:
        results = method.results
        if points := upper_bound(results.column(HMEAN), results.identities, results.prompts, draws=draws):
            curves[method.name] = points
            pairs[method.name] = len(results.protocol.identities) * len(results.protocol.prompts)
    if not curves:
        return []
    sizes = [n for n in BEST_OF if any(point.n == n for points in curves.values() for point in points)]
    rows = []
    for name, points in curves.items():
        means = {point.n: point.mean for point in points}
        cells = (mean_cell(means.get(n), pairs[name]) for n in sizes)
        rows.append(Row((Cell(name), *cells), "measured"))
    return [
        Heading("Figure 7: upper bound"),
        Text(
            "The best hMean among N images of each {face, prompt}, averaged over all of them. With more than "
            "N images, it is the mean over all choices of N. A method's N all use the same pairs: those with "
            "as many images as its largest N, which at least half of the pairs have. Generate "
            f"{BEST_OF[-1]} images per prompt for the complete curve."
        ),
        Figure(
            "upper-bound.svg",
            plot_upper_bound(curves),
            "Figure 7. Upper bound of hMean; bands are 95 % confidence intervals.",
        ),
        Table(("Method", *(f"N = {n}" for n in sizes)), tuple(rows)),
    ]


def report_verification(encoders: Sequence[tuple[dict[str, Any], bytes]]) -> list[Block]:
    """Build Fig. 4: face verification by depth.

    Args:
        encoders: the JSON of `verification.report` and the histograms (PNG, may be empty) of each encoder.

    Returns:
        The blocks; none without an encoder.
    """
    if not encoders:
        return []
    rows = [
        Row((Cell(encoder), Cell(str(depth)), Cell(f"{auc:.2f}"), Cell(NONE)))
        for encoder, depths in VERIFICATION_AUC.items()
        for depth, auc in depths.items()
    ]
    figures = []
    for number, (result, histograms) in enumerate(encoders):
        name = str(result.get("encoder", "encoder"))
        rows += [
            Row(
                (
                    Cell(name, detail="measured"),
                    Cell(str(depth["depth"])),
                    Cell(f"{100 * depth['auc']:.2f}", detail=_auc_interval(depth)),
                    Cell(str(result["triplets"])),
                ),
                "measured",
            )
            for depth in result["depths"]
        ]
        if histograms:
            figures.append(
                Figure(
                    f"verification-{number}.png",
                    histograms,
                    f"Figure 4. Identity similarity by depth: {name}, {result['triplets']} triplets.",
                )
            )
    return [
        Heading("Figure 4: identity encoders"),
        Text(
            "The probability that a photo of the same person is more similar than one of another person. "
            "Small figures are 95 % confidence intervals, bootstrap over the triplets, one per identity."
        ),
        Table(("Encoder", "depth", "AUC, %", "triplets"), tuple(rows)),
        *figures,
    ]


def _auc_interval(depth: dict[str, Any]) -> str:
    """Bootstrap an AUC over the triplets; "" in files of older versions, which lack the cosines."""
    positive, negative = (np.array(depth.get(name, ())) for name in ("positive", "negative"))
    if len(positive) < 2:
        return ""
    _, low, high = bootstrap(
        lambda chosen: area_under_curve(positive[chosen], negative[chosen]), len(positive), limits=(0, 1)
    )
    return f"{100 * low:.2f}–{100 * high:.2f}"


def report_image_grids(results: Sequence[Results], config: ReportConfig) -> list[Block]:
    """Show images of the methods side by side: the first identities and seed 0, not a selection.

    Args:
        results: of the methods.
        config: with the number of identities, and the prompts.

    Returns:
        A figure per identity, as far as the images are on this machine.
    """
    shared = [name for name in results[0].protocol.identities if all(name in one.faces for one in results)]
    prompts = _grid_prompts(results, config)
    figures: list[Block] = []
    for identity in shared[: config.grid_identities]:
        rows = {
            one.method: [_image_path(one, Slot(identity, prompt, _GRID_SEED)) for prompt in prompts]
            for one in results
        }
        face = _find_face(results, identity)
        if face is not None and any(path is not None for row in rows.values() for path in row):
            rules = results[0].protocol.rules
            titles = [rules.prompts[prompt].removeprefix(rules.opening) for prompt in prompts]
            grid = plot_image_grid(face, titles, rows)
            caption = f'{identity}, seed {_GRID_SEED}; "A photo of S*" is omitted from the prompts.'
            figures.append(Figure(f"images-{len(figures)}.jpg", grid, caption))
    if figures:
        note = "The first identities by name and the first seed, not selected by appearance."
        return [Heading("Images"), Text(note), *figures]
    note = "The images are not on this machine, or none is shared; the tables do not need them."
    return [Heading("Images"), Text(note)] if shared else []


def _grid_prompts(results: Sequence[Results], config: ReportConfig) -> list[int]:
    """Return the configured prompts that all methods have, else the first method's first ones."""
    shared = [
        prompt for prompt in config.grid_prompts if all(prompt in one.protocol.prompts for one in results)
    ]
    return shared or list(results[0].protocol.prompts[: len(config.grid_prompts)])


def _find_face(results: Sequence[Results], identity: str) -> Path | None:
    paths = (_resolve(one, one.folders.get(f"face:{identity}", "")) for one in results)
    return next((path for path in paths if path.is_file()), None)


def _resolve(results: Results, name: str) -> Path:
    return Path(results.path).parent / name


def _image_path(results: Results, slot: Slot) -> Path | None:
    path = _resolve(results, results.folders.get("images", "")) / slot.name
    return path if path.is_file() else None
