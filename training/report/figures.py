"""The figures of a report: Fig. 7, Fig. 4 and grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import ReportConfig
from ..evaluation.protocol import PROMPTS, Slot
from ..evaluation.results import HMEAN, Results
from .pages import Block, Cell, Figure, Heading, Row, Table, Text
from .plots import draw_grid, plot_upper_bound
from .published import VERIFICATION_AUC
from .statistics import BEST_OF, upper_bound
from .tables import NONE, Measured, mean_cell

_PREFIX = "A photo of S* "
_GRID_SEED = 0


def best_of(measured: Sequence[Measured], draws: int) -> list[Block]:
    """Fig. 7: what the best of N pictures is worth."""
    curves = {}
    for one in measured:
        results = one.results
        if points := upper_bound(results.column(HMEAN), results.identities, results.prompts, draws=draws):
            curves[one.name] = points
    if not curves:
        return []
    sizes = [n for n in BEST_OF if any(point.n == n for points in curves.values() for point in points)]
    rows = []
    for name, points in curves.items():
        found = {point.n: point.mean for point in points}
        rows.append(Row((Cell(name), *(mean_cell(found.get(n)) for n in sizes)), "measured"))
    return [
        Heading("Figure 7: upper bound"),
        Text(
            "The best hMean among N pictures of each {face, prompt}, averaged over all of them. Where there are more than N pictures, it is "
            f"the mean over all choices of N; pairs with fewer are left out. Draw {BEST_OF[-1]} pictures a prompt for the whole curve."
        ),
        Figure(
            "upper-bound.svg",
            plot_upper_bound(curves),
            "Figure 7. Upper bound of hMean; bands are 95 % confidence intervals.",
        ),
        Table(("Method", *(f"N = {n}" for n in sizes)), tuple(rows)),
    ]


def verification(found: Sequence[tuple[dict[str, Any], bytes]]) -> list[Block]:
    """Fig. 4: how well encoders tell people apart at each depth; `found` has each encoder's JSON and histograms (PNG, may be empty)."""
    if not found:
        return []
    rows = [
        Row((Cell(encoder), Cell(str(depth)), Cell(f"{auc:.2f}"), Cell(NONE)))
        for encoder, depths in VERIFICATION_AUC.items()
        for depth, auc in depths.items()
    ]
    figures = []
    for number, (result, picture) in enumerate(found):
        name = str(result.get("encoder", "encoder"))
        rows += [
            Row(
                (
                    Cell(name, detail="measured"),
                    Cell(str(depth["depth"])),
                    Cell(f"{100 * depth['auc']:.2f}"),
                    Cell(str(result["triplets"])),
                ),
                "measured",
            )
            for depth in result["depths"]
        ]
        if picture:
            figures.append(
                Figure(
                    f"verification-{number}.png",
                    picture,
                    f"Figure 4. Identity similarity by depth: {name}, {result['triplets']} triplets.",
                )
            )
    return [
        Heading("Figure 4: identity encoders"),
        Table(("Encoder", "depth", "AUC, %", "triplets"), tuple(rows)),
        *figures,
    ]


def grids(results: Sequence[Results], config: ReportConfig) -> list[Block]:
    """Set pictures of the methods side by side; always those of the first identities and seed 0, not the best ones.

    Args:
        results: of the methods.
        config: says how many identities, and which prompts.

    Returns:
        A figure for each identity, as far as the pictures are still there.
    """
    shared = [name for name in results[0].protocol.identities if all(name in one.faces for one in results)]
    drawn = [
        prompt for prompt in config.grid_prompts if all(prompt in one.protocol.prompts for one in results)
    ]
    drawn = drawn or list(results[0].protocol.prompts[: len(config.grid_prompts)])
    figures: list[Block] = []
    for identity in shared[: config.grid_identities]:
        rows = {
            one.method: [_picture(one, Slot(identity, prompt, _GRID_SEED)) for prompt in drawn]
            for one in results
        }
        face = next(
            (
                path
                for one in results
                if (path := _resolve(one, one.folders.get(f"face:{identity}", ""))).is_file()
            ),
            None,
        )
        if face is not None and any(path is not None for row in rows.values() for path in row):
            sheet = draw_grid(face, [PROMPTS[prompt].removeprefix(_PREFIX) for prompt in drawn], rows)
            figures.append(
                Figure(
                    f"pictures-{len(figures)}.jpg",
                    sheet,
                    f'{identity}, seed {_GRID_SEED}; "A photo of S*" is left out of the prompts.',
                )
            )
    if not figures:
        return (
            [
                Heading("Pictures"),
                Text("The pictures are not on this machine, or none is shared; the tables do not need them."),
            ]
            if shared
            else []
        )
    return [
        Heading("Pictures"),
        Text("The first identities by name and the first seed: not chosen by their looks."),
        *figures,
    ]


def _resolve(results: Results, name: str) -> Path:
    return Path(results.path).parent / name


def _picture(results: Results, slot: Slot) -> Path | None:
    path = _resolve(results, results.folders.get("images", "")) / slot.name
    return path if path.is_file() else None
