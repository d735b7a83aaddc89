"""The tables of a report: the paper's printed rows with the measured ones beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.benchmarks import LOCATIONS, PAPER, Benchmark
from ..evaluation.results import GMEAN, HMEAN, Results
from .comparison import Difference, rank_by_differences
from .pages import Block, Cell, Figure, Heading, Kind, Row, Table, Text
from .plots import plot_trade_off
from .published import ABLATIONS, COSTS, LOCATION_ADAFACE, METHODS, OURS, preset_of
from .statistics import Mean, bootstrap_mean, rank

_PUBLISHED = (*PAPER.metrics, HMEAN, GMEAN)
Comparisons = Mapping[str, Sequence[Difference]]  # of `compare_pairs`, by score
NONE = "–"
_RANKED = 3  # the lowest marked rank
_PLAIN_ROWS = (
    " Plain rows are the paper's printed numbers; rows marked as measured are the evaluations above."
)
_PUBLISHED_TIMES = "Published times are on an NVIDIA A100. "
_UNKNOWN = "null"  # JSON for a value that a file lacks
_OTHERS = "Measured, not in the paper"
_COSTS = ("fid", "parameters", "encoding_seconds")


@dataclass(frozen=True, eq=False)
class Measured:
    """A method's results with the means that the tables print."""

    results: Results
    means: dict[str, Mean | None]  # by name in Results.scores
    at_locations: Mean | None  # AdaFace on the prompts of Sec. 5

    @classmethod
    def of(cls, results: Results, draws: int) -> Measured:
        """Average one method's scores, with `draws` draws of the bootstrap."""
        identities = results.identities

        def average(name: str, chosen: np.ndarray | slice = slice(None)) -> Mean | None:
            values = results.column(name)[chosen]
            return bootstrap_mean(values, identities[chosen], draws=draws, limits=(0, 1))

        at_locations = average("AdaFace", results.at_locations) if results.of_paper else None
        return cls(results, {name: average(name) for name in results.scores}, at_locations)

    @property
    def name(self) -> str:
        """The method's name."""
        return self.results.method

    @property
    def expected(self) -> int:
        """Number of images in the protocol."""
        protocol = self.results.protocol
        return len(protocol.identities) * len(protocol.prompts) * protocol.images_per_prompt

    def cell(self, score: str, place: int = 0) -> Cell:
        """Format a mean with its rank, interval and coverage."""
        return mean_cell(self.means[score], self.expected, place)

    def value(self, score: str) -> float:
        """Return a mean; NaN if there is none."""
        mean = self.means[score]
        return math.nan if mean is None else mean.value


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NONE


def _interval(mean: Mean | None) -> str:
    return f"{mean.low:.4f}–{mean.high:.4f}" if mean is not None and math.isfinite(mean.low) else ""


def mean_cell(mean: Mean | None, expected: int, place: int = 0) -> Cell:
    """Format a mean with its rank and interval, and with its number of images if some are missing."""
    if mean is None:
        return Cell(NONE)
    coverage = f"{mean.samples} of {expected}" if mean.samples < expected else ""
    return Cell(_number(mean.value), place, ", ".join(filter(None, (_interval(mean), coverage))))


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
            f"Face personalization measured {_setting(measured[0].results)}: does an image show the person "
            "of the input face, and does it show what the prompt describes?",
            "lead",
        ),
        Table(
            ("Method", "images scored", "identities", "prompts", "missing or damaged", HMEAN, GMEAN),
            tuple(_summary_row(method) for method in measured),
        ),
        Text(
            f"hMean and gMean are the harmonic and the geometric mean of "
            f"{', '.join(measured[0].results.protocol.rules.metrics)}, computed per image and then averaged; "
            "an image with a zero, such as one without a face, counts as zero. Small figures are 95 % "
            "confidence intervals (bootstrap over identities, widened for few identities), and the number of "
            "images if some are missing." + (_PLAIN_ROWS if measured[0].results.of_paper else "")
        ),
    ]
    if differences:
        blocks.append(Text(f"These methods are not ranked together: {' '.join(differences)}", "warning"))
    blocks += [
        Text(warning, "warning") for warning in map(_incomplete_metrics, measured) if warning is not None
    ]
    return blocks


def _setting(results: Results) -> str:
    """Name the protocol."""
    if results.of_paper:
        return "by the protocol of Face2Diffusion (Sec. 4.2)"
    return "on the miniature, with its own prompts and evaluators"


def _summary_row(method: Measured) -> Row:
    protocol, gaps = method.results.protocol, method.results.gaps
    cells = (
        Cell(method.name),
        Cell(f"{len(method.results.images)} of {method.expected}"),
        Cell(str(len(protocol.identities))),
        Cell(str(len(protocol.prompts))),
        Cell(str(sum(len(gaps[name]) for name in ("missing", "broken")))),
        method.cell(HMEAN),
        method.cell(GMEAN),
    )
    return Row(cells, "measured")


def _incomplete_metrics(method: Measured) -> str | None:
    """Explain which images have no hMean and gMean; None if all have them."""
    if absent := [name for name in method.results.protocol.rules.metrics if method.means[name] is None]:
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


def warn_of_gaps(comparisons: Comparisons) -> list[Block]:
    """Warn of pairs that are not compared, since their gaps are many or uneven."""
    refused: dict[tuple[str, str], list[str]] = {}
    for score, differences in comparisons.items():
        for one in differences:
            if one.refused:
                refused.setdefault((one.describe(), one.first), []).append(score)
    return [
        Text(
            f"{gaps}. They are not ranked against each other in {', '.join(scores)}, since missing images "
            "may "
            "be the bad ones. Generate the missing images.",
            "warning",
        )
        for (gaps, _), scores in refused.items()
    ]


def _groups(benchmark: Benchmark) -> tuple[tuple[str, int], ...]:
    """Return the titles over the columns of all scores."""
    identity, text = len(benchmark.identity_metrics), len(benchmark.text_metrics)
    return ("Identity-Fidelity ↑", identity), ("Text-Fidelity ↑", text), ("Identity × Text ↑", 2)


def report_differences(comparisons: Comparisons, benchmark: Benchmark = PAPER) -> list[Block]:
    """Build the paired differences between methods; no block for a single method."""
    pairs: dict[str, dict[str, Difference]] = {}
    for score, differences in comparisons.items():
        for one in differences:
            pairs.setdefault(f"{one.first} − {one.second}", {})[score] = one
    if not pairs:
        return []
    rows = [
        Row((Cell(pair), *(_difference_cell(found.get(score)) for score in comparisons)), "measured")
        for pair, found in pairs.items()
    ]
    claims = sum(one.mean is not None for found in pairs.values() for one in found.values())
    return [
        Heading("Differences between methods"),
        Text(
            "First minus second method, paired by face, prompt and seed, on the images that both have. A "
            "star marks the differences whose 95 % interval excludes 0; ranks follow from these. Of "
            f"{claims} differences, about {0.05 * claims:.1f} would have a star by chance if all methods "
            "were equal."
        ),
        Table(("Methods", *comparisons), tuple(rows), _groups(benchmark)),
    ]


def _difference_cell(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell(NONE)
    mean, shared = difference.mean, f"{difference.shared} of {difference.expected}"
    if mean is None:
        return Cell("refused", detail=shared)
    coverage = shared if difference.shared < difference.expected else ""
    interval = f"{mean.low:+.3f}, {mean.high:+.3f}" if math.isfinite(mean.low) else ""
    star = "*" if mean.sign else ""
    return Cell(f"{mean.value:+.4f}{star}", detail=", ".join(filter(None, (interval, coverage))))


def compare_methods(measured: Sequence[Measured], comparisons: Comparisons) -> list[Block]:
    """Build Tables 1 and 6: the published rows, each with the measurements of the same method below."""
    benchmark = measured[0].results.protocol.rules
    published = benchmark is PAPER
    own = {name: rank_by_differences(differences) for name, differences in comparisons.items()}
    rows = _method_rows(measured, own) if published else (_measured_row(method, own) for method in measured)
    marked = "The best three of each column are marked"
    if published:
        marked += (
            ": among the published rows of Table 1 as in the paper, and separately among the measured rows, "
            "since faces, frames and evaluator weights differ"
        )
    return [
        Heading("Tables 1 and 6: comparison of methods" if published else "Comparison of methods"),
        Text(
            f"{marked}. A measured row's rank is 1 plus the number of methods that are better by the paired "
            "differences below; a row that differs from no other has none."
        ),
        Table(("Method", *comparisons), tuple(rows), _groups(benchmark)),
        *_report_trade_off(measured, benchmark),
    ]


def _report_trade_off(measured: Sequence[Measured], benchmark: Benchmark) -> list[Block]:
    """Plot identity against text; no block if there is nothing to plot."""
    x, y = benchmark.text_metrics[0], benchmark.identity_metrics[0]
    points = {method.name: (method.value(x), method.value(y)) for method in measured}
    known = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    if benchmark is PAPER:
        printed = {row.method: (row.scores[x], row.scores[y]) for row in METHODS}
        plot = plot_trade_off(printed, known, f"{x} (text)", f"{y} (identity)")
        caption = "Identity against text: published methods are open circles, measured ones are filled."
    else:
        plot, caption = plot_trade_off({}, known, x, y), "Identity against text."
    return [Figure("trade-off.svg", plot, caption)] if known or benchmark is PAPER else []


def _method_rows(measured: Sequence[Measured], own: Mapping[str, Mapping[str, int]]) -> Iterator[Row]:
    table_1 = [row for row in METHODS if row.table == 1]
    printed = {name: rank({row.method: row.scores[name] for row in table_1}) for name in _PUBLISHED}
    sections = {
        "Subject-driven (published, Table 1)": [row for row in table_1 if row.family == "Subject-driven"],
        "Subject-agnostic (published, Table 1)": [row for row in table_1 if row.family == "Subject-agnostic"],
        "More recent methods (published, Table 6)": [row for row in METHODS if row.table == 6],
    }
    remaining = list(measured)
    for title, published in sections.items():
        yield Row((Cell(title),))
        for row in published:
            ranks = {name: printed[name].get(row.method, 0) for name in _PUBLISHED}
            cells = (Cell(_number(row.scores[name]), ranks[name]) for name in _PUBLISHED)
            yield Row((Cell(row.method, detail=row.note), *cells))
            for method in [method for method in remaining if _same_method(row.method, method.name)]:
                remaining.remove(method)
                yield _measured_row(method, own)
    variants = [method for method in remaining if preset_of(method.name)]
    others = [method for method in remaining if not preset_of(method.name)]
    for title, methods in (("Measured, variants of Tables 3 to 5", variants), (_OTHERS, others)):
        if methods:
            yield Row((Cell(title),))
            yield from (_measured_row(method, own) for method in methods)


def _measured_row(method: Measured, places: Mapping[str, Mapping[str, int]]) -> Row:
    ranks = {name: ranks.get(method.name, 0) for name, ranks in places.items()}
    cells = [method.cell(name, place if place <= _RANKED else 0) for name, place in ranks.items()]
    return Row((Cell(method.name, detail="measured"), *cells), "measured")


def compare_costs(measured: Sequence[Measured]) -> list[Block]:
    """Build Table 2: FID, trained parameters and encoding time."""
    rows: list[Row] = []
    of_paper = measured[0].results.of_paper
    if of_paper:
        printed = {
            row.method: {"fid": row.fid, "parameters": row.parameters, "encoding_seconds": row.seconds}
            for row in COSTS
        }
        rows += _cost_rows(printed, {}, _COSTS, "published")
    rows += _cost_rows(
        {method.name: method.results.costs for method in measured},
        {method.name: f"measured, {_machine(method.results) or 'an unknown machine'}" for method in measured},
        _comparable_costs(measured),
        "measured",
    )
    return [
        Heading("Table 2: FID and cost" if of_paper else "FID and cost"),
        Text(
            f"{_PUBLISHED_TIMES if of_paper else ''}The measured time is that of identity encoder and mapper "
            "for one aligned face, or the one given for methods that train for each person; FID is shown if "
            "real images were given. Measured times are ranked if they are of one machine, and FIDs if they "
            "are of the same real images and numbers of images."
        ),
        Table(("Method", "FID ↓", "trained parameters ↓", "encoding time ↓"), tuple(rows)),
        *_report_fid(measured),
    ]


def _machine(results: Results) -> str | None:
    return (results.details.get("machine") or {}).get("device")


def _comparable_costs(measured: Sequence[Measured]) -> list[str]:
    """List the costs that can be ranked: times of one machine, FIDs that depend on the same."""

    def conditions(cost: str, of: Callable[[Results], Any]) -> set[str]:
        """Collect what a cost depends on, over the methods that have it."""
        results = [method.results for method in measured if cost in method.results.costs]
        return {json.dumps(of(one), sort_keys=True) for one in results}

    fids = conditions("fid", lambda results: results.details.get("fid"))
    machines = conditions("encoding_seconds", _machine)
    alike = {
        "fid": len(fids) == 1 and fids != {_UNKNOWN},  # older files do not name their real images
        "parameters": True,
        "encoding_seconds": len(machines) == 1 and machines != {_UNKNOWN},
    }
    return [name for name in _COSTS if alike[name]]


def _report_fid(measured: Sequence[Measured]) -> list[Block]:
    """Describe the images of each FID."""
    methods: dict[str, list[str]] = {}
    for method in measured:
        if found := method.results.details.get("fid"):
            methods.setdefault(_describe_fid(found), []).append(method.name)
    return [Text(f"FID of {', '.join(names)}: {images}.") for images, names in methods.items()]


def _describe_fid(found: Mapping[str, Any]) -> str:
    words = ", ".join(found["words"])
    captions = f" whose caption has one of the words {words}" if words else ""
    return (
        f"{found['generated']} generated images against {found['real']} real ones{captions} (SHA-256 "
        f"{found['real_sha256'][:16]}...), {found['size']} px, {found['network']}"
    )


def _cost_rows(
    costs: Mapping[str, Mapping[str, float]], details: Mapping[str, str], ranked: Sequence[str], kind: Kind
) -> list[Row]:
    columns = []
    for name, write in zip(_COSTS, ("{:.2f}".format, _scientific, "{:.3g} s".format), strict=True):
        values = {method: own[name] for method, own in costs.items() if name in own}
        ranks = rank(values, lower_is_better=True) if name in ranked else {}
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
                        *map(method.cell, ("AdaFace", "CLIP", HMEAN, GMEAN)),
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
        Row((Cell(method.name, detail="measured"), _location_cell(method)), "measured") for method in measured
    ]
    return [
        Heading("Section 5: famous locations"),
        Text(
            "AdaFace on the ten prompts that name famous locations, where Stable Diffusion tends to generate "
            "small faces."
        ),
        Table(("Method", "AdaFace"), tuple(rows)),
    ]


def _location_cell(method: Measured) -> Cell:
    protocol = method.results.protocol
    at_locations = len(set(protocol.prompts) & set(LOCATIONS))
    return mean_cell(
        method.at_locations, len(protocol.identities) * at_locations * protocol.images_per_prompt
    )
