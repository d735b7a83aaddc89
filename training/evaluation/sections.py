"""The sections of a report: each makes the blocks of one of the paper's tables or figures from the measured results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .pages import Block, Cell, Figure, Heading, Row, Table, Text
from .plots import plot_trade_off, plot_upper_bound
from .published import ABLATIONS, COSTS, LOCATION_ADAFACE, METHODS, OURS, VERIFICATION_AUC, MethodRow, preset_of
from .results import GMEAN, HMEAN, Results
from .scoring import METRICS
from .statistics import BEST_OF, Mean, bootstrap_mean, rank, upper_bound

SCORES = (*METRICS, HMEAN, GMEAN)
_NONE = "–"
_GROUPS = (("Identity-Fidelity ↑", 3), ("Text-Fidelity ↑", 3), ("Identity × Text ↑", 2))
_LISTED = 12  # gaps that are named


@dataclass(frozen=True, eq=False)
class Measured:
    """Results with the means that the tables print."""

    results: Results
    means: dict[str, Mean | None]  # by name in SCORES
    at_locations: Mean | None  # AdaFace on the prompts of Sec. 5

    @classmethod
    def of(cls, results: Results, draws: int) -> Measured:
        """Average one method's scores, with `draws` draws of the bootstrap."""
        identities, where = results.identities, results.at_locations
        means = {name: bootstrap_mean(results.column(name), identities, draws=draws) for name in SCORES}
        return cls(results, means, bootstrap_mean(results.column("AdaFace")[where], identities[where], draws=draws))

    @property
    def name(self) -> str:
        """The method's."""
        return self.results.method

    def value(self, score: str) -> float:
        """A mean; NaN where there is none."""
        mean = self.means[score]
        return math.nan if mean is None else mean.value


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else _NONE


def _interval(mean: Mean | None) -> str:
    return f"{mean.low:.4f}–{mean.high:.4f}" if mean is not None and math.isfinite(mean.low) else ""


def _cell(mean: Mean | None, place: int = 0) -> Cell:
    return Cell(_NONE if mean is None else _number(mean.value), place, _interval(mean))


def summary(measured: Sequence[Measured], differences: Sequence[str]) -> list[Block]:
    """Say what was measured, and what is wrong with it."""
    rows = []
    for one in measured:
        protocol, gaps = one.results.protocol, one.results.gaps
        expected = len(protocol.identities) * len(protocol.prompts) * protocol.images_per_prompt
        count = sum(len(gaps[name]) for name in ("missing", "broken"))
        cells = [Cell(one.name), Cell(f"{len(one.results.pictures)} of {expected}"), Cell(str(len(protocol.identities)))]
        cells += [Cell(str(len(protocol.prompts))), Cell(str(count)), _cell(one.means[HMEAN]), _cell(one.means[GMEAN])]
        rows.append(Row(tuple(cells), "measured"))
    blocks: list[Block] = [
        Text(
            "Face personalization measured by the protocol of Face2Diffusion (Sec. 4.2): does a picture show the person of the input face, "
            "and does it show what the prompt says?",
            "lead",
        ),
        Table(("Method", "pictures scored", "identities", "prompts", "gaps", HMEAN, GMEAN), tuple(rows)),
        Text(
            "hMean and gMean are the harmonic and the geometric mean of the six metrics, computed for each picture and then averaged; a picture "
            "with a zero, such as one without a face, counts as zero. Small figures are 95 % confidence intervals (bootstrap over identities)."
        ),
    ]
    if differences:
        blocks.append(Text(f"These methods are not ranked against each other: {' '.join(differences)}", "warning"))
    for one in measured:
        if lacking := [name for name in METRICS if one.means[name] is None]:
            blocks.append(Text(f"{one.name} has no {', '.join(lacking)}, so it has neither hMean nor gMean.", "warning"))
        elif (whole := one.means[HMEAN]) is None or whole.pictures < len(one.results.pictures):
            pictures = len(one.results.pictures) - (whole.pictures if whole else 0)
            blocks.append(
                Text(
                    f"{pictures} picture(s) of {one.name} lack a metric (dCLIP where base/0.png is missing) and are left out of hMean and gMean.",
                    "warning",
                )
            )
    return blocks


def _same_method(published: str, measured: str) -> bool:
    key = "".join(published.lower().split())
    return key == "".join(measured.lower().replace("-", "").replace("_", "").split()) or (
        published == OURS and preset_of(measured) == preset_of(OURS)
    )


def comparison(measured: Sequence[Measured], ranked: bool) -> list[Block]:
    """Tables 1 and 6: every published row, with what was measured of the same method below it."""
    table_1 = [row for row in METHODS if row.table == 1]
    printed = {name: rank({row.method: row.scores[name] for row in table_1}) for name in SCORES}
    own = {name: rank({one.name: one.value(name) for one in measured}) if ranked and len(measured) > 1 else {} for name in SCORES}
    rows: list[Row] = []
    left = list(measured)

    def add(published: MethodRow) -> None:
        cells = [Cell(published.method, detail=published.note)]
        cells += [Cell(_number(published.scores[name]), printed[name].get(published.method, 0)) for name in SCORES]
        rows.append(Row(tuple(cells)))
        for one in [one for one in left if _same_method(published.method, one.name)]:
            left.remove(one)
            rows.append(_measured_row(one, own))

    for title, family in (("Subject-driven", "Subject-driven"), ("Subject-agnostic", "Subject-agnostic")):
        rows.append(Row((Cell(f"{title} (published, Table 1)"),)))
        for row in table_1:
            if row.family == family:
                add(row)
    rows.append(Row((Cell("More recent methods (published, Table 6)"),)))
    for row in METHODS:
        if row.table == 6:
            add(row)
    if left:
        rows.append(Row((Cell("Measured, not in the paper"),)))
        rows += [_measured_row(one, own) for one in left]
    published_points = {row.method: (row.scores["CLIP"], row.scores["AdaFace"]) for row in METHODS}
    points = {one.name: (one.value("CLIP"), one.value("AdaFace")) for one in measured}
    points = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    return [
        Heading("Tables 1 and 6: comparison of methods"),
        Text(
            "Grey rows are the numbers that the paper prints; blue rows were measured here. The first three of a column are marked: among the "
            "published rows of Table 1 as in the paper, among the measured rows apart, since faces, frames and judges' weights differ."
        ),
        Table(("Method", *SCORES), tuple(rows), _GROUPS),
        Figure(
            "trade-off.svg",
            plot_trade_off(published_points, points),
            "Identity against text: published methods are circles, measured ones are filled.",
        ),
    ]


def _measured_row(one: Measured, places: Mapping[str, Mapping[str, int]]) -> Row:
    cells = [_cell(one.means[name], places[name].get(one.name, 0)) for name in SCORES]
    return Row((Cell(one.name, detail="measured"), *cells), "measured")


def costs(measured: Sequence[Measured], ranked: bool) -> list[Block]:
    """Table 2: FID, trained parameters and encoding time."""
    rows = [Row((Cell(row.method), Cell(f"{row.fid:.2f}"), Cell(_scientific(row.parameters)), Cell(f"{row.seconds:g} s"))) for row in COSTS]
    values = {
        name: {one.name: one.results.costs.get(name, math.nan) for one in measured} for name in ("fid", "parameters", "encoding_seconds")
    }
    places = {name: rank(found, lower_is_better=True) if ranked and len(measured) > 1 else {} for name, found in values.items()}
    for one in measured:
        fid, parameters, seconds = (values[name][one.name] for name in values)
        texts = (_number(fid, 2), _scientific(parameters), f"{seconds:.2g} s" if math.isfinite(seconds) else _NONE)
        cells = [Cell(text, places[name].get(one.name, 0)) for text, name in zip(texts, values, strict=True)]
        machine = (one.results.details.get("machine") or {}).get("device", "")
        rows.append(Row((Cell(one.name, detail=f"measured, {machine}"), *cells), "measured"))
    return [
        Heading("Table 2: FID and cost"),
        Text(
            "Published times are on an NVIDIA A100. The measured time is that of identity encoder and mapper for one aligned face; FID is "
            "there where real pictures were given."
        ),
        Table(("Method", "FID ↓", "trained parameters ↓", "encoding time ↓"), tuple(rows)),
    ]


def _scientific(value: float) -> str:
    if not math.isfinite(value):
        return _NONE
    if value < 10_000:
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(digit)] for digit in str(int(exponent)))}"


def ablations(measured: Sequence[Measured]) -> list[Block]:
    """Tables 3 to 5, with measured methods that carry a preset's name."""
    blocks: list[Block] = [
        Heading("Tables 3 to 5: ablations"),
        Text(
            "The paper heads the last column hMean, yet its value for the full model, 0.2252, is what Table 1 calls gMean (its hMean is "
            "0.1749); so the printed values stand under gMean here, and measured rows show both."
        ),
    ]
    for table in ABLATIONS:
        rows = []
        for row in table.rows:
            cells = (Cell(row.variant), Cell(_number(row.adaface)), Cell(_number(row.clip)), Cell(_NONE), Cell(_number(row.printed_hmean)))
            rows.append(Row(cells))
            rows += [
                Row(
                    (Cell(one.name, detail="measured"), *(_cell(one.means[name]) for name in ("AdaFace", "CLIP", HMEAN, GMEAN))), "measured"
                )
                for one in measured
                if preset_of(one.name) == row.preset
            ]
        blocks.append(Table(("Variant", "AdaFace", "CLIP", HMEAN, GMEAN), tuple(rows), caption=f"Table {table.number}. {table.title}"))
    return blocks


def locations(measured: Sequence[Measured]) -> list[Block]:
    """Sec. 5: identity on the ten prompts with famous locations."""
    names = {row.preset: row.variant for table in ABLATIONS for row in table.rows}
    rows = [Row((Cell(names[preset]), Cell(_number(value)))) for preset, value in LOCATION_ADAFACE.items()]
    rows += [Row((Cell(one.name, detail="measured"), _cell(one.at_locations)), "measured") for one in measured]
    return [
        Heading("Section 5: famous locations"),
        Text("AdaFace on the ten prompts that name famous locations, where Stable Diffusion tends to draw small faces."),
        Table(("Method", "AdaFace"), tuple(rows)),
    ]


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
        rows.append(Row((Cell(name), *(_cell(found.get(n)) for n in sizes)), "measured"))
    return [
        Heading("Figure 7: upper bound"),
        Text(
            "The best hMean among N pictures of each {face, prompt}, averaged over all of them. Where there are more than N pictures, it is "
            f"the mean over all choices of N. Draw {BEST_OF[-1]} pictures a prompt for the whole curve."
        ),
        Figure("upper-bound.svg", plot_upper_bound(curves), "Figure 7. Upper bound of hMean; bands are 95 % confidence intervals."),
        Table(("Method", *(f"N = {n}" for n in sizes)), tuple(rows)),
    ]


def verification(found: Sequence[tuple[dict[str, Any], bytes]]) -> list[Block]:
    """Fig. 4: how well encoders tell people apart at each depth; `found` has each encoder's JSON and histograms (PNG, may be empty)."""
    if not found:
        return []
    rows = [
        Row((Cell(encoder), Cell(str(depth)), Cell(f"{auc:.2f}"), Cell(_NONE)))
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
                    f"verification-{number}.png", picture, f"Figure 4. Identity similarity by depth: {name}, {result['triplets']} triplets."
                )
            )
    return [Heading("Figure 4: identity encoders"), Table(("Encoder", "depth", "AUC, %", "triplets"), tuple(rows)), *figures]


def gaps(measured: Sequence[Measured]) -> list[Block]:
    """What is missing; nothing where nothing is."""
    blocks: list[Block] = []
    for one in measured:
        for what, meaning in (
            ("missing", "pictures that are not there"),
            ("broken", "pictures that cannot be used"),
            ("unexpected", "pictures that the protocol does not know, not scored"),
            ("skipped", "faces without a usable photo, left out"),
        ):
            if listed := one.results.gaps[what]:
                named = [f"{name} ({listed[name]})" if isinstance(listed, dict) else str(name) for name in list(listed)[:_LISTED]]
                more = f", and {len(listed) - _LISTED} more in the JSON" if len(listed) > _LISTED else ""
                blocks.append(Text(f"{one.name}: {len(listed)} {meaning}: {', '.join(named)}{more}."))
    return [Heading("Gaps"), *blocks] if blocks else []


def methods(measured: Sequence[Measured]) -> list[Block]:
    """How it was measured: judges, protocol, machines."""
    blocks: list[Block] = [Heading("How it was measured")]
    judges: list[dict[str, str]] = []
    for one in measured:
        if one.results.scorer not in judges:
            judges.append(one.results.scorer)
            rows = [Row((Cell(name), Cell(text))) for name, text in one.results.scorer.items()]
            blocks.append(
                Table(
                    ("Judge", "weights"),
                    tuple(rows),
                    caption=f"Judges of {', '.join(o.name for o in measured if o.results.scorer == judges[-1])}",
                )
            )
    for one in measured:
        protocol, generation, machine = (
            one.results.protocol,
            one.results.details.get("generation"),
            one.results.details.get("machine") or {},
        )
        settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in (generation or {}).items() if value not in ("", None))
        blocks.append(
            Text(
                f"{one.name}: {len(protocol.identities)} identities × {len(protocol.prompts)} prompts of Table 7 × {protocol.images_per_prompt} "
                f"pictures of {protocol.size} px. Scored on {machine.get('device', 'an unknown machine')} with torch {machine.get('torch', '?')}. "
                + (f"Drawn by this project: {settings}." if generation else "Drawn elsewhere.")
            )
        )
    return blocks
