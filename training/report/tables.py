"""The tables of a report: the paper's printed rows with the measured ones beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..evaluation.metrics import METRICS
from ..evaluation.results import GMEAN, HMEAN, Results
from .pages import Block, Cell, Figure, Heading, Kind, Row, Table, Text
from .plots import plot_trade_off
from .published import ABLATIONS, COSTS, LOCATION_ADAFACE, METHODS, OURS, preset_of
from .statistics import Mean, bootstrap_mean, rank

SCORES = (*METRICS, HMEAN, GMEAN)
NONE = "–"
_GROUPS = (("Identity-Fidelity ↑", 3), ("Text-Fidelity ↑", 3), ("Identity × Text ↑", 2))


@dataclass(frozen=True, eq=False)
class Measured:
    """A method's results with the means that the tables print."""

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
        """The method's name."""
        return self.results.method

    def value(self, score: str) -> float:
        """Return a mean; NaN if there is none."""
        mean = self.means[score]
        return math.nan if mean is None else mean.value


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NONE


def _interval(mean: Mean | None) -> str:
    return f"{mean.low:.4f}–{mean.high:.4f}" if mean is not None and math.isfinite(mean.low) else ""


def mean_cell(mean: Mean | None, place: int = 0) -> Cell:
    """Format a mean with its rank and interval."""
    return Cell(NONE if mean is None else _number(mean.value), place, _interval(mean))


def summarize(measured: Sequence[Measured], differences: Sequence[str]) -> list[Block]:
    """Build the first section: what was measured, and warnings about it.

    Args:
        measured: the methods.
        differences: why they cannot be ranked together.

    Returns:
        The blocks.
    """
    blocks: list[Block] = [
        Text(
            "Face personalization measured by the protocol of Face2Diffusion (Sec. 4.2): does an image show "
            "the person of the input face, and does it show what the prompt describes?",
            "lead",
        ),
        Table(
            ("Method", "images scored", "identities", "prompts", "missing or damaged", HMEAN, GMEAN),
            tuple(_summary_row(method) for method in measured),
        ),
        Text(
            "hMean and gMean are the harmonic and the geometric mean of the six metrics, computed per image "
            "and then averaged; an image with a zero, such as one without a face, counts as zero. Small "
            "figures are 95 % confidence intervals (bootstrap over identities). In all tables, plain rows "
            "are the paper's printed numbers; rows marked as measured are the evaluations above."
        ),
    ]
    if differences:
        blocks.append(Text(f"These methods are not ranked together: {' '.join(differences)}", "warning"))
    blocks += [
        Text(warning, "warning") for warning in map(_incomplete_metrics, measured) if warning is not None
    ]
    return blocks


def _summary_row(method: Measured) -> Row:
    protocol, gaps = method.results.protocol, method.results.gaps
    expected = len(protocol.identities) * len(protocol.prompts) * protocol.images_per_prompt
    cells = (
        Cell(method.name),
        Cell(f"{len(method.results.images)} of {expected}"),
        Cell(str(len(protocol.identities))),
        Cell(str(len(protocol.prompts))),
        Cell(str(sum(len(gaps[name]) for name in ("missing", "broken")))),
        mean_cell(method.means[HMEAN]),
        mean_cell(method.means[GMEAN]),
    )
    return Row(cells, "measured")


def _incomplete_metrics(method: Measured) -> str | None:
    """Explain which images have no hMean and gMean; None if all have them."""
    if absent := [name for name in METRICS if method.means[name] is None]:
        return f"{method.name} has no {', '.join(absent)}, so it has neither hMean nor gMean."
    hmean, total = method.means[HMEAN], len(method.results.images)
    scored = hmean.samples if hmean else 0
    if scored == total:
        return None
    return (
        f"{total - scored} image(s) of {method.name} lack a metric (dCLIP if base/0.png is missing) and are "
        "excluded from hMean and gMean."
    )


def _same_method(published: str, measured: str) -> bool:
    key = "".join(published.lower().split())
    return key == "".join(measured.lower().replace("-", "").replace("_", "").split()) or (
        published == OURS and preset_of(measured) == preset_of(OURS)
    )


def compare_methods(measured: Sequence[Measured], ranked: bool) -> list[Block]:
    """Build Tables 1 and 6: the published rows, each with the measurements of the same method below."""
    points = {method.name: (method.value("CLIP"), method.value("AdaFace")) for method in measured}
    return [
        Heading("Tables 1 and 6: comparison of methods"),
        Text(
            "The best three of each column are marked: among the published rows of Table 1 as in the paper, "
            "and separately among the measured rows, since faces, frames and evaluator weights differ."
        ),
        Table(("Method", *SCORES), tuple(_method_rows(measured, ranked)), _GROUPS),
        Figure(
            "trade-off.svg",
            plot_trade_off(
                {row.method: (row.scores["CLIP"], row.scores["AdaFace"]) for row in METHODS},
                {name: point for name, point in points.items() if all(map(math.isfinite, point))},
            ),
            "Identity against text: published methods are open circles, measured ones are filled.",
        ),
    ]


def _method_rows(measured: Sequence[Measured], ranked: bool) -> Iterator[Row]:
    table_1 = [row for row in METHODS if row.table == 1]
    printed = {name: rank({row.method: row.scores[name] for row in table_1}) for name in SCORES}
    own: dict[str, dict[str, int]] = {name: {} for name in SCORES}
    if ranked and len(measured) > 1:
        own = {name: rank({method.name: method.value(name) for method in measured}) for name in SCORES}
    sections = {
        "Subject-driven (published, Table 1)": [row for row in table_1 if row.family == "Subject-driven"],
        "Subject-agnostic (published, Table 1)": [row for row in table_1 if row.family == "Subject-agnostic"],
        "More recent methods (published, Table 6)": [row for row in METHODS if row.table == 6],
    }
    remaining = list(measured)
    for title, published in sections.items():
        yield Row((Cell(title),))
        for row in published:
            ranks = {name: printed[name].get(row.method, 0) for name in SCORES}
            cells = (Cell(_number(row.scores[name]), ranks[name]) for name in SCORES)
            yield Row((Cell(row.method, detail=row.note), *cells))
            for method in [method for method in remaining if _same_method(row.method, method.name)]:
                remaining.remove(method)
                yield _measured_row(method, own)
    if remaining:
        yield Row((Cell("Measured, not in the paper"),))
        yield from (_measured_row(method, own) for method in remaining)


def _measured_row(method: Measured, places: Mapping[str, Mapping[str, int]]) -> Row:
    cells = [mean_cell(method.means[name], places[name].get(method.name, 0)) for name in SCORES]
    return Row((Cell(method.name, detail="measured"), *cells), "measured")


def compare_costs(measured: Sequence[Measured], ranked: bool) -> list[Block]:
    """Build Table 2: FID, trained parameters and encoding time."""
    printed = {
        row.method: {"fid": row.fid, "parameters": row.parameters, "encoding_seconds": row.seconds}
        for row in COSTS
    }
    rows = _cost_rows(printed, {}, True, "published")
    machines = {
        method.name: (method.results.details.get("machine") or {}).get("device", "") for method in measured
    }
    details = {name: f"measured, {machine}" for name, machine in machines.items()}
    rows += _cost_rows(
        {method.name: method.results.costs for method in measured},
        details,
        ranked and len(measured) > 1,
        "measured",
    )
    return [
        Heading("Table 2: FID and cost"),
        Text(
            "Published times are on an NVIDIA A100. The measured time is that of identity encoder and mapper "
            "for one aligned face; FID is shown if real images were given."
        ),
        Table(("Method", "FID ↓", "trained parameters ↓", "encoding time ↓"), tuple(rows)),
    ]


def _cost_rows(
    costs: Mapping[str, Mapping[str, float]], details: Mapping[str, str], ranked: bool, kind: Kind
) -> list[Row]:
    columns = []
    for name, write in (
        ("fid", "{:.2f}".format),
        ("parameters", _scientific),
        ("encoding_seconds", "{:.3g} s".format),
    ):
        values = {method: own[name] for method, own in costs.items() if name in own}
        ranks = rank(values, lower_is_better=True) if ranked else {}
        cells = {method: Cell(write(value), ranks.get(method, 0)) for method, value in values.items()}
        columns.append({method: cells.get(method, Cell(NONE)) for method in costs})
    return [
        Row((Cell(method, detail=details.get(method, "")), *(column[method] for column in columns)), kind)
        for method in costs
    ]


def _scientific(value: float) -> str:
    if value < 10_000:
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(digit)] for digit in str(int(exponent)))}"


def compare_ablations(measured: Sequence[Measured]) -> list[Block]:
    """Build Tables 3 to 5, with the measured methods that are named after a preset."""
    blocks: list[Block] = [
        Heading("Tables 3 to 5: ablations"),
        Text(
            "The paper titles the last column hMean, yet its value for the full model, 0.2252, is what Table "
            "1 calls gMean (its hMean is 0.1749); the printed values are therefore listed under gMean, and "
            "measured rows show both."
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
                        Cell(method.name, detail="measured"),
                        *(mean_cell(method.means[name]) for name in ("AdaFace", "CLIP", HMEAN, GMEAN)),
                    ),
                    "measured",
                )
                for method in measured
                if preset_of(method.name) == row.preset
            ]
        blocks.append(
            Table(
                ("Variant", "AdaFace", "CLIP", HMEAN, GMEAN),
                tuple(rows),
                caption=f"Table {table.number}. {table.title}",
            )
        )
    return blocks


def compare_locations(measured: Sequence[Measured]) -> list[Block]:
    """Build Sec. 5: identity on the ten prompts with famous locations."""
    names = {row.preset: row.variant for table in ABLATIONS for row in table.rows}
    rows = [Row((Cell(names[preset]), Cell(_number(value)))) for preset, value in LOCATION_ADAFACE.items()]
    rows += [
        Row((Cell(method.name, detail="measured"), mean_cell(method.at_locations)), "measured")
        for method in measured
    ]
    return [
        Heading("Section 5: famous locations"),
        Text(
            "AdaFace on the ten prompts that name famous locations, where Stable Diffusion tends to generate "
            "small faces."
        ),
        Table(("Method", "AdaFace"), tuple(rows)),
    ]
