"""The paper in small, as a page with plots: its tables and figures on people and sentences that no stage of training has seen."""

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

from ....f2d.device import best_device
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
    NOTHING,
    TEXT,
    Scores,
    Value,
    Where,
    anywhere,
    asks_expression,
    asks_none,
    average,
)
from .claims import check_claims
from .depths import Depths, compare_depths, show_depths
from .evaluator_accuracy import evaluate_on_drawings
from .measure import OPENING, SHOWN, VARIANTS, Score, measure, photo_of, picture_path, prompt_of

SEEDS = (0, 1, 2)  # of the mappers
_BEST = ("cgdr", "reconstruction")  # of Fig. 7
_SIZES = (1, 2, 4, 8)  # N of Fig. 7
_JUDGED = 8  # how many times the people who are drawn the judges are tried on


@dataclass(frozen=True)
class _Column:
    """A column of Tables 3 to 5."""

    title: str
    value: Value
    where: Where = anywhere
    task: str = "prompt"
    person: bool = False  # whether pictures of "a person" have it too


_COLUMNS = (_Column("Identity", IDENTITY), _Column("Text", TEXT, person=True), _Column("hMean", HMEAN))
_EXPRESSIONS = (
    _Column("Expression asked for is seen", EXPRESSION, asks_expression, person=True),
    _Column("At rest where none is asked for", EXPRESSION, asks_none, person=True),
    _Column("Reference followed", TEXT, task="reference"),
)


def write_report(miniature: Miniature, seeds: Sequence[int] = SEEDS) -> Path:
    """Train what is missing, measure, and write `report/miniature.md` with its plots.

    Args:
        miniature: the recipe's folder.
        seeds: of the mappers, for every row.

    Returns:
        The page.

    Raises:
        InterruptedError: a signal stopped a training; the same call goes on.
        OSError: the folder cannot be written to.
    """
    scores = {
        name: {seed: measure(miniature, variant, seed) for seed in seeds}
        for name, variant in VARIANTS.items()
    }
    person = {
        0: scores["cgdr"].get(0) or measure(miniature, VARIANTS["cgdr"], 0)
    }  # "a person" is drawn beside seed 0
    folder = miniature.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    depths = compare_depths(miniature, folder)
    people, middle = miniature.config.report_people, _middle(scores["cgdr"][seeds[0]])
    blocks: list[Block] = [
        Text(_lead(miniature, seeds), "lead"),
        Heading("What held"),
        _what_held(scores, person, depths),
        Figure(
            "people.jpg",
            _pictures(
                miniature,
                scores,
                seeds[0],
                [("cgdr", who, "") for who in range(people)],
                "People whom no training has seen",
            ),
            "All of the people, drawn by CGDR, with the judges' scores.",
        ),
        Figure(
            "variants.jpg",
            _pictures(
                miniature,
                scores,
                seeds[0],
                [(name, middle, name) for name in VARIANTS],
                "One person, by all variants",
            ),
            "The person of the median identity (CGDR), a row for each variant.",
        ),
        Heading("The judges"),
        evaluate_on_drawings(miniature.verifier(), miniature.attributes(), _JUDGED * people),
        Heading("Encoders (Table 3)"),
        _table(
            {"ArcFace": scores["arcface"], "ArcFace w/ MSF": scores["arcface-msf"], "MSID": scores["cgdr"]}
        ),
        Heading("Identity by depth (Fig. 4)"),
        *show_depths(depths, folder),
        Heading("Expression guidance (Table 4)"),
        _table(
            {"without": scores["no-expression"], "with": scores["cgdr"]}, (*_COLUMNS, *_EXPRESSIONS), person
        ),
        Heading("Losses (Table 5)"),
        _table(
            {
                "Reconstruction": scores["reconstruction"],
                "Masked": scores["masked"],
                "Reconstruction w/ DSC": scores["reconstruction-dsc"],
                "CGDR": scores["cgdr"],
            }
        ),
        *_best_of(miniature, {name: scores[name] for name in _BEST}),
    ]
    for block in blocks:
        if isinstance(block, Figure):
            (folder / block.name).write_bytes(block.data)
    page = folder / "miniature.md"
    write_text(page, to_markdown("The paper in miniature", blocks))
    return page


def _pictures(
    miniature: Miniature,
    scores: dict[str, Scores],
    seed: int,
    rows: Sequence[tuple[str, int, str]],
    title: str,
) -> bytes:
    """Show people under some prompts, a row for each variant and person, with what it is called: a JPEG."""
    sheet = []
    for name, who, called in rows:
        found = {
            (score.task, score.prompt): score for score in reversed(scores[name][seed]) if score.who == who
        }  # the first of each
        panels = [Panel(photo_of(who), f"photo\n{called}")]
        for prompt in SHOWN:
            path = picture_path(miniature, name, seed, who, prompt)
            if path.exists():
                task, facts = ("plain", SceneAttributes()) if prompt < 0 else ("prompt", PROMPTS[prompt])
                score = found[task, prompt]
                scored = {"identity": score.identity} | ({"text": score.text} if prompt >= 0 else {})
                panels.append(
                    Panel(
                        load_photo(path), prompt_of(facts) if prompt >= 0 else describe(facts, "S*"), scored
                    )
                )
        sheet.append(panels)
    buffer = BytesIO()
    Image.fromarray(draw_sheet(sheet, title, f"mappers of seed {seed}")).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _middle(scores: Sequence[Score]) -> int:
    """Find the person of the median identity."""
    identities: dict[int, list[float]] = {}
    for score in scores:
        if score.task == "prompt":
            identities.setdefault(score.who, []).append(score.identity)
    return sorted(identities, key=lambda who: np.mean(identities[who]))[len(identities) // 2]


def describe_machine(device: str) -> str:
    """Say when and on what something is measured, on "cuda", "mps" or "cpu"."""
    name = {"cuda": torch.cuda.get_device_name, "cpu": lambda: f"{torch.get_num_threads()} CPU threads"}.get(
        device, lambda: device
    )()
    return f"{date.today()}, {name}, torch {torch.__version__}, Python {platform.python_version()}"


def _lead(miniature: Miniature, seeds: Sequence[int]) -> str:
    config = miniature.config
    return (
        f"{describe_machine(best_device())}: {config.report_people} people, one photo each, "
        f"{min(config.report_prompts, len(PROMPTS))} prompts, mappers of seed {', '.join(map(str, seeds))}. Made by `f2d-train miniature report`. No stage of "
        f"training has seen the people, nor the sentences: they begin with “{OPENING}”, as no caption does. Their words, and such scenes with "
        "other people, the base model knows, as Stable Diffusion knows chefs and the Eiffel Tower; the mappers are trained with “a photo of S*” alone. "
        "The judges of identity and of what is to be seen are trained apart, on other people, with another architecture. Identity is the judge's "
        "cosine between photo and picture; text is the share of what a prompt asks for that is seen; hMean is their harmonic mean for each "
        "picture, then averaged. This is a drawn world: it shows whether the method's parts do what the paper says of them, not how good the "
        "paper's model is."
    )


def _what_held(scores: dict[str, Scores], person: Scores, depths: Depths) -> Table:
    """Check the claims with all seeds together, and with each alone."""
    alone = [
        check_claims({name: {seed: found[seed]} for name, found in scores.items()}, person, depths)
        for seed in next(iter(scores.values()))
    ]
    rows = []
    for claim, *ones in zip(check_claims(scores, person, depths), *alone, strict=True):
        each = ", ".join(f"{one.value:.3f}" for one in ones if one.value is not None) or "–"
        rows.append(
            Row(
                (Cell(claim.text), Cell("yes" if claim.held else "no"), Cell(claim.measured), Cell(each)),
                "measured",
            )
        )
    return Table(
        ("Claim", "held", "measured", "each seed"),
        tuple(rows),
        words=True,
        caption="Measured: the mean over seeds; intervals: 95 %, bootstrap over people, differences paired by person. They leave out how much "
        "trainings differ: what each seed gives stands beside. A level holds where the mean reaches it, a difference where its whole interval does.",
    )


def _table(
    rows: dict[str, Scores], columns: Sequence[_Column] = _COLUMNS, person: Scores | None = None
) -> Table:
    """Make a table of rows by title, with the base model's "a person" below where its scores are given."""
    found = {
        title: [average(scores, one.task, one.value, one.where) for one in columns]
        for title, scores in rows.items()
    }
    ranks = [rank({title: means[i].value for title, means in found.items()}) for i in range(len(columns))]
    lines = [_row(title, means, [one.get(title, 0) for one in ranks]) for title, means in found.items()]
    if person is not None:
        means = [average(person, "class", one.value, one.where) if one.person else NOTHING for one in columns]
        lines.append(_row("“a person”, without a face", means, [0] * len(columns)))
    return Table(("", *(one.title for one in columns)), tuple(lines))


def _row(title: str, means: Sequence[Mean], ranks: Sequence[int]) -> Row:
    cells = [
        Cell(f"{mean.value:.3f}", place, f"{mean.low:.3f} to {mean.high:.3f}") if mean.pictures else Cell("–")
        for mean, place in zip(means, ranks, strict=True)
    ]
    return Row((Cell(title), *cells), "measured")


def _best_of(miniature: Miniature, scores: dict[str, Scores]) -> Iterator[Block]:
    """Make Fig. 7, where more than one picture was drawn for anything."""
    pairs = {(score.who, score.prompt) for score in _of_best(scores)}
    if not pairs:
        return
    curves = {name: _curve(found, pairs) for name, found in scores.items()}
    people, prompts = (len(set(column)) for column in zip(*pairs, strict=True))
    config, sizes = miniature.config, ", ".join(str(point.n) for point in curves[_BEST[0]])
    yield Heading("Best of N (Fig. 7)")
    yield Figure(
        "best-of-n.svg",
        plot_upper_bound(curves),
        f"hMean of the best of N pictures, N = {sizes}, by two of the variants, for {people} of the {config.report_people} people and {prompts} "
        f"of the {min(config.report_prompts, len(PROMPTS))} prompts, every second; bands are 95 % confidence intervals, bootstrap over these people.",
    )


def _of_best(scores: dict[str, Scores]) -> list[Score]:
    return [
        score
        for rows in scores.values()
        for found in rows.values()
        for score in found
        if score.task == "best"
    ]


def _curve(scores: Scores, pairs: set[tuple[int, int]]) -> list[BestOf]:
    values, people, prompts = [], [], []
    for seed, found in scores.items():
        for score in found:
            if score.task in ("best", "prompt") and (score.who, score.prompt) in pairs:
                values.append(score.hmean)
                people.append(score.who)
                prompts.append(1000 * seed + score.prompt)
    return upper_bound(np.array(values), np.array(people), np.array(prompts), _SIZES)
