"""What refining S* adds on held-out people: identity, text and references over steps, for 1, 3 and 5 photos.

out/refined/<photos>-<who>.json   one person's scores and words; a finished file is not measured again
out/refined/<photos>-couples.json how each person is told from the next, in one sentence
out/refined.svg, refined.md       the figure and the page, of the people measured so far
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....f2d.diffusion.denoising import PromptDenoiser
from ....f2d.face.cropping import locate_face
from ....f2d.face.identity_region import crop_identity
from ....f2d.files import write_bytes, write_text
from ....f2d.identity import FaceIdentity
from ....f2d.image import Photo
from ....f2d.miniature import SIZE
from ....f2d.miniature.prompts import PROMPTS
from ....f2d.word_refinement import RefinementConfig, make_target, refine_words
from ...config import MiniatureConfig
from ...report.pages import Block, Cell, Figure, Row, Table, Text, to_markdown
from ...report.plots import plot_refinement
from ...report.statistics import Mean, bootstrap_mean
from ..recipe import folder_of
from .averages import NO_MEAN, format_interval
from .held_out_data import render_photo
from .held_out_evaluation import generate_pairs
from .measure import EvaluationPlan, Models, generate_and_score
from .scores import measure_once

PHOTOS = (1, 3, 5)
MARKS = (0, 30, 60)  # steps after which images are generated
CONFIG = RefinementConfig(steps=MARKS[-1])
_EVERY = 3  # every third prompt of PROMPTS, to keep it affordable
_TASKS = {  # of `Score`: title, and the score's value
    "identity": ("Identity in prompts", "prompt", "identity"),
    "plain": ("Identity in “a photo of S*”", "plain", "identity"),
    "text": ("Text", "prompt", "text"),
    "reference": ("References followed", "reference", "text"),
}

_COUPLES = "Couples told apart"

Measured = dict[str, dict[str, float]]  # by step: the mean of each of _TASKS, "couples" and "seconds"
Words = dict[str, list[list[float]]]  # by step: shape (2, D), as narrow as the text encoder


def write_refinement_study(config: MiniatureConfig, log: Callable[[str], None]) -> Path:
    """Refine and measure held-out people, and write the page; the same command resumes.

    Args:
        config: with the folder and the number of people.
        log: called with each progress message.

    Returns:
        The page.

    Raises:
        ValueError: `config.out` is empty.
        OSError: the folder cannot be written to.
    """
    folder, models, page = folder_of(config), Models.from_package(), Path()
    denoiser, measured = PromptDenoiser.from_pipeline(models.pipeline.diffusion), {}
    for photos in PHOTOS:
        found = measure_people(models, denoiser, photos, config, log)
        measured[f"{photos} photo{'s' * (photos > 1)}"] = found
        page = _write_page(folder, measured, config)
        log(f"Page with {photos} photo(s) -> {page}")
    return page


def measure_people(
    models: Models, denoiser: PromptDenoiser, photos: int, config: MiniatureConfig, log: Callable[[str], None]
) -> list[Measured]:
    """Measure each person, and each beside the next, or read what an earlier call measured.

    Args:
        models: that generate and score.
        denoiser: of their pipeline.
        photos: of each person.
        config: for the folder, the number of people and precision.
        log: called before each measurement.

    Returns:
        Each person's scores.
    """
    folder, settings = folder_of(config) / "refined", _settings(config)

    def person(who: int) -> dict[str, Any]:
        log(f"Person {who + 1} of {config.report_people}, {photos} photo(s)")
        scores, words = measure_person(models, denoiser, who, photos, config)
        return {"scores": scores, "words": words}

    people = [
        measure_once(folder / f"{photos}-{who}.json", settings, partial(person, who))
        for who in range(config.report_people)
    ]

    def couples() -> dict[str, Any]:
        log(f"Couples, {photos} photo(s)")
        return {"scores": _tell_apart(models, photos, [one["words"] for one in people])}

    told = measure_once(folder / f"{photos}-couples.json", settings, couples)["scores"]
    return [
        {step: {**scores, "couples": told[step][who]} for step, scores in one["scores"].items()}
        for who, one in enumerate(people)
    ]


def measure_person(
    models: Models, denoiser: PromptDenoiser, who: int, photos: int, config: MiniatureConfig
) -> tuple[Measured, Words]:
    """Refine one person's words, and score images with the words after each of MARKS.

    Args:
        models: that generate and score.
        denoiser: of their pipeline.
        who: place among the held-out people.
        photos: how many.
        config: for the number of people and precision.

    Returns:
        By number of steps, the mean of each score and the seconds of processor time until then; the words.
    """
    pictures, plain = _encode(models, who, photos)
    crops = [crop_identity(locate_face(None, picture, "FFHQ"), SIZE) for picture in pictures]
    targets = [make_target(crop, models.pipeline.encode_photos) for crop in crops]
    start, begin = models.narrow(models.encoder.words(plain)), time.process_time()
    kept: dict[str, tuple[torch.Tensor, float]] = {"0": (start, 0.0)}

    def keep(step: int, loss: float, words: torch.Tensor) -> None:
        if step in MARKS:
            kept[str(step)] = words, time.process_time() - begin

    refine_words(denoiser, start, targets, CONFIG, keep)
    scores = {
        step: {**_score(models, _refined(models, plain, step, words), who, config), "seconds": seconds}
        for step, (words, seconds) in kept.items()
    }
    return scores, {step: words.tolist() for step, (words, _) in kept.items()}


def _refined(models: Models, plain: FaceIdentity, step: str, words: torch.Tensor) -> FaceIdentity:
    """Give an identity the words, shape (2, D), that it had after a step."""
    return models.encoder.refine(plain, models.widen(words)) if step != "0" else plain


def _encode(models: Models, who: int, photos: int) -> tuple[list[Photo], FaceIdentity]:
    """Render a person's photos, and encode them."""
    pictures = [render_photo(who, photo) for photo in range(photos)]
    return pictures, models.encoder.identify(*pictures, alignment="FFHQ")


def _tell_apart(models: Models, photos: int, words: Sequence[Words]) -> dict[str, list[float]]:
    """Generate each person beside the next: by step, each couple's share of halves that are told apart."""
    plain = [_encode(models, who, photos)[1] for who in range(len(words))]
    told = {}
    for step in map(str, MARKS):
        identities = [
            _refined(models, identity, step, torch.tensor(one[step]))
            for identity, one in zip(plain, words, strict=True)
        ]
        own, other = generate_pairs(models, len(plain), apart=False, identities=identities)
        told[step] = (own > other).float().mean(0).tolist()
    return told


def _score(models: Models, identity: FaceIdentity, who: int, config: MiniatureConfig) -> dict[str, float]:
    """Average the scores of one person's images."""
    plan = EvaluationPlan(config.report_people, range(0, len(PROMPTS), _EVERY), plain=False)
    scores = generate_and_score(models, plan, bf16=config.bf16, label="images", identities={who: identity})

    def mean(task: str, value: str) -> float:
        return float(np.mean([getattr(score, value) for score in scores if score.task == task]))

    return {name: mean(task, value) for name, (_, task, value) in _TASKS.items()}


def _settings(config: MiniatureConfig) -> dict[str, Any]:
    people, bf16 = config.report_people, config.bf16
    return {"people": people, "marks": list(MARKS), "every": _EVERY, "bf16": bf16, **asdict(CONFIG)}


def _write_page(folder: Path, measured: dict[str, list[Measured]], config: MiniatureConfig) -> Path:
    curves = {
        title: {
            line: [(step, _mean(found, step, name)) for step in MARKS] for line, found in measured.items()
        }
        for name, (title, *_) in _TASKS.items()
        if name in ("identity", "text")
    }
    picture = plot_refinement(curves)
    write_bytes(folder / "refined.svg", picture)
    blocks: list[Block] = [Text(_lead(config), "lead"), _table(measured)]
    blocks.append(Figure("refined.svg", picture, "Mean over people; bands: 95 %, bootstrap over people."))
    page = folder / "refined.md"
    write_text(page, to_markdown("Refining S* on held-out people", blocks))
    return page


def _mean(found: list[Measured], step: int, name: str) -> Mean:
    values = np.array([person[str(step)][name] for person in found])
    return bootstrap_mean(values, np.arange(len(values))) or NO_MEAN


def _table(measured: dict[str, list[Measured]]) -> Table:
    rows = []
    for line, found in measured.items():
        for step in MARKS:
            cells = [Cell(format_interval(_mean(found, step, name))) for name in (*_TASKS, "couples")]
            seconds = Cell(f"{_mean(found, step, 'seconds').value:.0f}")
            rows.append(Row((Cell(f"{line}, {step} steps"), *cells, seconds), "measured"))
    people = ", ".join(f"{len(found)} with {line}" for line, found in measured.items())
    return Table(
        ("", *(title for title, *_ in _TASKS.values()), _COUPLES, "Seconds"),
        tuple(rows),
        caption=f"People: {people}. Intervals: 95 %, bootstrap over people. Seconds: of one core.",
    )


def _lead(config: MiniatureConfig) -> str:
    prompts = len(range(0, len(PROMPTS), _EVERY))
    return (
        f"The shipped miniature on held-out people, {prompts} prompts each. The words of S* start where the "
        f"mapper puts them; then Adam with steps of {CONFIG.strength:g} % of their size minimizes CGDR on "
        f"batches of {CONFIG.batch}. Made by `f2d-train miniature refine`."
    )
