"""The tables of a report: the paper's printed rows, and the measured ones beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..evaluation.results import GMEAN, HMEAN, Results
from ..evaluation.scoring import METRICS
from .pages import Block, Cell, Figure, Heading, Kind, Row, Table, Text
from .plots import plot_trade_off
from .published import ABLATIONS, COSTS, LOCATION_ADAFACE, METHODS, OURS, MethodRow, preset_of
from .statistics import Mean, bootstrap_mean, rank

SCORES = (*METRICS, HMEAN, GMEAN)
NONE = "–"
_GROUPS = (("Identity-Fidelity ↑", 3), ("Text-Fidelity ↑", 3), ("Identity × Text ↑", 2))


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
        return cls(
            results, means, bootstrap_mean(results.column("AdaFace")[where], identities[where], draws=draws)
        )

    @property
    def name(self) -> str:
        """The method's."""
        return self.results.method

    def value(self, score: str) -> float:
        """A mean; NaN where there is none."""
        mean = self.means[score]
        return math.nan if mean is None else mean.value


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NONE


def _interval(mean: Mean | None) -> str:
    return f"{mean.low:.4f}–{mean.high:.4f}" if mean is not None and math.isfinite(mean.low) else ""


def mean_cell(mean: Mean | None, place: int = 0) -> Cell:
    """Write a mean with its place and interval."""
    return Cell(NONE if mean is None else _number(mean.value), place, _interval(mean))


def summary(measured: Sequence[Measured], differences: Sequence[str]) -> list[Block]:
    """Say what was measured, and what is wrong with it."""
    rows = []
    for one in measured:
        protocol, gaps = one.results.protocol, one.results.gaps
        expected = len(protocol.identities) * len(protocol.prompts) * protocol.images_per_prompt
        count = sum(len(gaps[name]) for name in ("missing", "broken"))
        cells = [
            Cell(one.name),
            Cell(f"{len(one.results.pictures)} of {expected}"),
            Cell(str(len(protocol.identities))),
        ]
        cells += [
            Cell(str(len(protocol.prompts))),
            Cell(str(count)),
            mean_cell(one.means[HMEAN]),
            mean_cell(one.means[GMEAN]),
        ]
        rows.append(Row(tuple(cells), "measured"))
    blocks: list[Block] = [
        Text(
            "Face personalization measured by the protocol of Face2Diffusion (Sec. 4.2): does a picture show the person of the input face, "
            "and does it show what the prompt says?",
            "lead",
        ),
        Table(
            ("Method", "pictures scored", "identities", "prompts", "missing or damaged", HMEAN, GMEAN),
            tuple(rows),
        ),
        Text(
            "hMean and gMean are the harmonic and the geometric mean of the six metrics, computed for each picture and then averaged; a picture "
            "with a zero, such as one without a face, counts as zero. Small figures are 95 % confidence intervals (bootstrap over identities). In all "
            "tables, plain rows are numbers that the paper prints; rows marked as measured come from the evaluations above."
        ),
    ]
    if differences:
        blocks.append(
            Text(f"These methods are not ranked against each other: {' '.join(differences)}", "warning")
        )
    for one in measured:
        if lacking := [name for name in METRICS if one.means[name] is None]:
            blocks.append(
                Text(f"{one.name} has no {', '.join(lacking)}, so it has neither hMean nor gMean.", "warning")
            )
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
    own = {
        name: rank({one.name: one.value(name) for one in measured}) if ranked and len(measured) > 1 else {}
        for name in SCORES
    }
    rows: list[Row] = []
    left = list(measured)

    def add(published: MethodRow) -> None:
        cells = [Cell(published.method, detail=published.note)]
        cells += [
            Cell(_number(published.scores[name]), printed[name].get(published.method, 0)) for name in SCORES
        ]
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
            "The first three of a column are marked: among the published rows of Table 1 as in the paper, and apart from them among the "
            "measured rows, since faces, frames and judges' weights differ."
        ),
        Table(("Method", *SCORES), tuple(rows), _GROUPS),
        Figure(
            "trade-off.svg",
            plot_trade_off(published_points, points),
            "Identity against text: published methods are circles, measured ones are filled.",
        ),
    ]


def _measured_row(one: Measured, places: Mapping[str, Mapping[str, int]]) -> Row:
    cells = [mean_cell(one.means[name], places[name].get(one.name, 0)) for name in SCORES]
    return Row((Cell(one.name, detail="measured"), *cells), "measured")


def costs(measured: Sequence[Measured], ranked: bool) -> list[Block]:
    """Table 2: FID, trained parameters and encoding time."""
    printed = {
        row.method: {"fid": row.fid, "parameters": row.parameters, "encoding_seconds": row.seconds}
        for row in COSTS
    }
    rows = _cost_rows(printed, {}, True, "published")
    machines = {one.name: (one.results.details.get("machine") or {}).get("device", "") for one in measured}
    details = {name: f"measured, {machine}" for name, machine in machines.items()}
    rows += _cost_rows(
        {one.name: one.results.costs for one in measured}, details, ranked and len(measured) > 1, "measured"
    )
    return [
        Heading("Table 2: FID and cost"),
        Text(
            "Published times are on an NVIDIA A100. The measured time is that of identity encoder and mapper for one aligned face; FID is "
            "there where real pictures were given."
        ),
        Table(("Method", "FID ↓", "trained parameters ↓", "encoding time ↓"), tuple(rows)),
    ]


def _cost_rows(
    found: Mapping[str, Mapping[str, float]], details: Mapping[str, str], ranked: bool, kind: Kind
) -> list[Row]:
    columns = []
    for what, write in (
        ("fid", "{:.2f}".format),
        ("parameters", _scientific),
        ("encoding_seconds", "{:.3g} s".format),
    ):
        values = {name: costs[what] for name, costs in found.items() if what in costs}
        places = rank(values, lower_is_better=True) if ranked else {}
        columns.append(
            {
                name: Cell(write(values[name]), places.get(name, 0)) if name in values else Cell(NONE)
                for name in found
            }
        )
    return [
        Row((Cell(name, detail=details.get(name, "")), *(column[name] for column in columns)), kind)
        for name in found
    ]


def _scientific(value: float) -> str:
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
            cells = (
                Cell(row.variant),
                Cell(_number(row.adaface)),
                Cell(_number(row.clip)),
                Cell(NONE),
                Cell(_number(row.printed_hmean)),
            )
            rows.append(Row(cells))
            rows += [
                Row(
                    (
                        Cell(one.name, detail="measured"),
                        *(mean_cell(one.means[name]) for name in ("AdaFace", "CLIP", HMEAN, GMEAN)),
                    ),
                    "measured",
                )
                for one in measured
                if preset_of(one.name) == row.preset
            ]
        blocks.append(
            Table(
                ("Variant", "AdaFace", "CLIP", HMEAN, GMEAN),
                tuple(rows),
                caption=f"Table {table.number}. {table.title}",
            )
        )
    return blocks


def locations(measured: Sequence[Measured]) -> list[Block]:
    """Sec. 5: identity on the ten prompts with famous locations."""
    names = {row.preset: row.variant for table in ABLATIONS for row in table.rows}
    rows = [Row((Cell(names[preset]), Cell(_number(value)))) for preset, value in LOCATION_ADAFACE.items()]
    rows += [
        Row((Cell(one.name, detail="measured"), mean_cell(one.at_locations)), "measured") for one in measured
    ]
    return [
        Heading("Section 5: famous locations"),
        Text(
            "AdaFace on the ten prompts that name famous locations, where Stable Diffusion tends to draw small faces."
        ),
        Table(("Method", "AdaFace"), tuple(rows)),
    ]
