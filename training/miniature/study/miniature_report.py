"""A page with the paper's tables and figures, measured on the miniature's held-out people and prompts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ....f2d.device import best_device, describe_device
from ....f2d.files import write_text
from ....f2d.image import load_photo
from ....f2d.miniature.prompts import PROMPTS, SceneAttributes, describe
from ....f2d.miniature.sheet import Panel, draw_sheet
from ...report.pages import Block, Cell, Figure, Heading, Row, Table, Text, to_markdown
from ...report.plots import plot_upper_bound
from ...report.statistics import BestOf, Mean, rank, upper_bound
from ..recipe import Miniature
from .averages import (
    EXPRESSION,
    HMEAN,
    IDENTITY,
    NO_MEAN,
    TEXT,
    Filter,
    Scores,
    Value,
    any_prompt,
    average,
    requests_expression,
    requests_no_expression,
)
from .claims import check_claims
from .depths import Depths, compare_depths, report_depths
from .evaluator_accuracy import measure_evaluators
from .held_out_data import OPENING, render_photo, write_prompt
from .measure import SAVED_PROMPTS, image_path, measure
from .scores import VARIANTS, Score

SEEDS = (0, 1, 2)  # of the mappers
_BEST = ("cgdr", "reconstruction")  # of Fig. 7
_SIZES = (1, 2, 4, 8)  # N of Fig. 7
_EVALUATOR_FACTOR = 8  # times the people of the report, for the evaluators' accuracy


@dataclass(frozen=True)
class _Column:
    """A column of Tables 3 to 5."""

    title: str
    value: Value
    where: Filter = any_prompt
    task: str = "prompt"
    person: bool = False  # whether it is defined for images of "a person"


_COLUMNS = (_Column("Identity", IDENTITY), _Column("Text", TEXT, person=True), _Column("hMean", HMEAN))
_EXPRESSIONS = (
    _Column("Requested expression shown", EXPRESSION, requests_expression, person=True),
    _Column("At rest if none is requested", EXPRESSION, requests_no_expression, person=True),
    _Column("Reference followed", TEXT, task="reference"),
)


def write_miniature_report(miniature: Miniature, seeds: Sequence[int] = SEEDS) -> Path:
    """Train what is missing, measure, and write `report/miniature.md` with its plots.

    Args:
        miniature: the recipe's folder.
        seeds: of the mappers, for every variant.

    Returns:
        The page.

    Raises:
        InterruptedError: a signal stopped a training; the same call resumes it.
        OSError: the folder cannot be written to.
    """
    scores = {
        name: {seed: measure(miniature, variant, seed) for seed in seeds}
        for name, variant in VARIANTS.items()
    }
    # Images of "a person" are generated with seed 0.
    person = {0: scores["cgdr"].get(0) or measure(miniature, VARIANTS["cgdr"], 0)}
    folder = miniature.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    depths = compare_depths(miniature, folder)
    people = _EVALUATOR_FACTOR * miniature.config.report_people
    blocks: list[Block] = [
        Text(_lead(miniature, seeds), "lead"),
        Heading("Claims"),
        _claims_table(scores, person, depths),
        *_image_figures(miniature, scores, seeds[0]),
        Heading("Evaluators"),
        measure_evaluators(miniature.verifier(), miniature.attributes(), people),
        *_paper_tables(scores, person, depths, folder),
        *_best_of(miniature, {name: scores[name] for name in _BEST}),
    ]
    for block in blocks:
        if isinstance(block, Figure):
            (folder / block.name).write_bytes(block.data)
    page = folder / "miniature.md"
    write_text(page, to_markdown("The paper on the miniature", blocks))
    return page


def _image_figures(miniature: Miniature, scores: dict[str, Scores], seed: int) -> Iterator[Figure]:
    """Show all people with the main variant, then the person of the median identity with all variants."""
    people, median = range(miniature.config.report_people), _median_person(scores["cgdr"][seed])
    rows = [("cgdr", who, "") for who in people]
    yield Figure(
        "people.jpg",
        _image_sheet(miniature, scores, seed, rows, "Held-out people"),
        "All held-out people, generated with CGDR, with the evaluators' scores.",
    )
    rows = [(name, median, name) for name in VARIANTS]
    yield Figure(
        "variants.jpg",
        _image_sheet(miniature, scores, seed, rows, "One person, all variants"),
        "The person of the median identity (CGDR), a row per variant.",
    )


def _image_sheet(
    miniature: Miniature,
    scores: dict[str, Scores],
    seed: int,
    rows: Sequence[tuple[str, int, str]],
    title: str,
) -> bytes:
    """Show people under some prompts, a row per (variant, person, label): a JPEG."""
    sheet = []
    for name, who, label in rows:
        # Reversed, so that the first score of each prompt remains.
        by_prompt = {
            (score.task, score.prompt): score for score in reversed(scores[name][seed]) if score.who == who
        }
        panels = [Panel(render_photo(who), f"photo\n{label}")]
        for prompt in SAVED_PROMPTS:
            path = image_path(miniature, name, seed, who, prompt)
            if path.exists():
                score = by_prompt["plain" if prompt < 0 else "prompt", prompt]
                panels.append(_panel(path, prompt, score))
        sheet.append(panels)
    buffer = BytesIO()
    Image.fromarray(draw_sheet(sheet, title, f"mappers of seed {seed}")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _panel(path: Path, prompt: int, score: Score) -> Panel:
    image = load_photo(path)
    if prompt < 0:
        return Panel(image, describe(SceneAttributes(), "S*"), {"identity": score.identity})
    return Panel(image, write_prompt(PROMPTS[prompt]), {"identity": score.identity, "text": score.text})


def _median_person(scores: Sequence[Score]) -> int:
    """Find the person of the median identity."""
    identities: dict[int, list[float]] = {}
    for score in scores:
        if score.task == "prompt":
            identities.setdefault(score.who, []).append(score.identity)
    return sorted(identities, key=lambda who: float(np.mean(identities[who])))[len(identities) // 2]


def describe_machine(device: str) -> str:
    """Return the date, the device ("cuda", "mps" or "cpu") and the versions of torch and Python."""
    name = describe_device(device)
    return f"{date.today()}, {name}, torch {torch.__version__}, Python {platform.python_version()}"


def _lead(miniature: Miniature, seeds: Sequence[int]) -> str:
    config = miniature.config
    return (
        f"{describe_machine(best_device())}: {config.report_people} held-out people, one photo each, "
        f"{min(config.report_prompts, len(PROMPTS))} prompts, mappers of seed {', '.join(map(str, seeds))}. "
        "Made by `f2d-train miniature report`. No stage of training has seen these people. The prompts start "
        f"with “{OPENING}”, which no training caption does; their words, and the scenes with other people, "
        "are in the base model's training set, as chefs and the Eiffel Tower are in Stable Diffusion's. The "
        "mappers are trained with “a photo of S*” alone. The evaluators are trained on other people, with "
        "another architecture. Identity is the cosine between photo and image; text is the share of the "
        "requested attributes that the image shows; hMean is their harmonic mean per image, then averaged. "
        "This is a synthetic dataset: it shows whether the method's parts do what the paper claims, not how "
        "good the paper's model is."
    )


def _claims_table(scores: dict[str, Scores], person: Scores, depths: Depths) -> Table:
    """Check the claims with all seeds together and with each alone."""
    single_seeds = [
        check_claims({name: {seed: by_seed[seed]} for name, by_seed in scores.items()}, person, depths)
        for seed in next(iter(scores.values()))
    ]
    rows = []
    for claim, *singles in zip(check_claims(scores, person, depths), *single_seeds, strict=True):
        each = ", ".join(f"{single.value:.3f}" for single in singles if single.value is not None) or "–"
        cells = (
            Cell(claim.text),
            Cell("yes" if claim.held else "no"),
            Cell(claim.measured),
            Cell(each),
        )
        rows.append(Row(cells, "measured"))
    return Table(
        ("Claim", "held", "measured", "each seed"),
        tuple(rows),
        words=True,
        caption="Measured: the mean over seeds. Intervals: 95 %, bootstrap over people, differences paired "
        "by person. They do not cover the variation between trainings, which the last column shows. A level "
        "holds if the mean reaches it, a difference if its whole interval does.",
    )


def _paper_tables(scores: dict[str, Scores], person: Scores, depths: Depths, folder: Path) -> Iterator[Block]:
    yield Heading("Encoders (Table 3)")
    yield _table(
        {"ArcFace": scores["arcface"], "ArcFace w/ MSF": scores["arcface-msf"], "MSID": scores["cgdr"]}
    )
    yield Heading("Identity by depth (Fig. 4)")
    yield from report_depths(depths, folder)
    yield Heading("Expression guidance (Table 4)")
    guidance = {"without": scores["no-expression"], "with": scores["cgdr"]}
    yield _table(guidance, (*_COLUMNS, *_EXPRESSIONS), person)
    yield Heading("Losses (Table 5)")
    yield _table(
        {
            "Reconstruction": scores["reconstruction"],
            "Masked": scores["masked"],
            "Reconstruction w/ DSC": scores["reconstruction-dsc"],
            "CGDR": scores["cgdr"],
        }
    )


def _table(
    rows: dict[str, Scores], columns: Sequence[_Column] = _COLUMNS, person: Scores | None = None
) -> Table:
    """Build a table of rows by title, with the base model's "a person" below if its scores are given."""
    means_by_row = {
        title: [average(scores, column.task, column.value, column.where) for column in columns]
        for title, scores in rows.items()
    }
    ranks = [
        rank({title: means[place].value for title, means in means_by_row.items()})
        for place in range(len(columns))
    ]
    lines = [
        _row(title, means, [ranking.get(title, 0) for ranking in ranks])
        for title, means in means_by_row.items()
    ]
    if person is not None:
        means = [
            average(person, "class", column.value, column.where) if column.person else NO_MEAN
            for column in columns
        ]
        lines.append(_row("“a person”, without a face", means, [0] * len(columns)))
    return Table(("", *(column.title for column in columns)), tuple(lines))


def _row(title: str, means: Sequence[Mean], ranks: Sequence[int]) -> Row:
    cells = [
        Cell(f"{mean.value:.3f}", place, f"{mean.low:.3f} to {mean.high:.3f}") if mean.samples else Cell("–")
        for mean, place in zip(means, ranks, strict=True)
    ]
    return Row((Cell(title), *cells), "measured")


def _best_of(miniature: Miniature, scores: dict[str, Scores]) -> Iterator[Block]:
    """Build Fig. 7, unless there is only one image per prompt."""
    pairs = {(score.who, score.prompt) for score in _further_seeds(scores)}
    if not pairs:
        return
    curves = {name: _best_of_curve(by_seed, pairs) for name, by_seed in scores.items()}
    people, prompts = (len(set(column)) for column in zip(*pairs, strict=True))
    config, sizes = miniature.config, ", ".join(str(point.n) for point in curves[_BEST[0]])
    yield Heading("Best of N (Fig. 7)")
    yield Figure(
        "best-of-n.svg",
        plot_upper_bound(curves),
        f"hMean of the best of N images, N = {sizes}, for two of the variants, {people} of the "
        f"{config.report_people} people and every second of the {min(config.report_prompts, len(PROMPTS))} "
        f"prompts ({prompts}); bands are 95 % confidence intervals, bootstrap over these people.",
    )


def _further_seeds(scores: dict[str, Scores]) -> Iterator[Score]:
    for by_seed in scores.values():
        for seed_scores in by_seed.values():
            yield from (score for score in seed_scores if score.task == "best")


def _best_of_curve(scores: Scores, pairs: set[tuple[int, int]]) -> list[BestOf]:
    values, people, prompts = [], [], []
    for seed, seed_scores in scores.items():
        for score in seed_scores:
            if score.task in ("best", "prompt") and (score.who, score.prompt) in pairs:
                values.append(score.hmean)
                people.append(score.who)
                prompts.append(1000 * seed + score.prompt)
    return upper_bound(np.array(values), np.array(people), np.array(prompts), _SIZES)
