"""What refining S* adds on held-out people: identity, text and references over steps, for 1, 3 and 5 photos.

out/refined/<photos>-<who>.json   one person's scores; a finished file is not measured again
out/refined.svg, refined.md       the figure and the page, of the people measured so far
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....f2d.diffusion.denoising import PromptDenoiser
from ....f2d.face.cropping import locate_face
from ....f2d.face.identity_region import crop_identity
from ....f2d.files import write_bytes, write_text
from ....f2d.identity import FaceIdentity
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
from .measure import EvaluationPlan, Models, generate_and_score

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

Measured = dict[str, dict[str, float]]  # by step: the mean of each of _TASKS; "seconds" by step too


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
    denoiser = PromptDenoiser.from_pipeline(models.pipeline.diffusion)
    for photos in PHOTOS:
        for who in range(config.report_people):
            file = folder / "refined" / f"{photos}-{who}.json"
            if _read(file, config) is None:
                log(f"Person {who + 1} of {config.report_people}, {photos} photo(s)")
                content = {
                    "asked": _settings(config),
                    "scores": measure_person(models, denoiser, who, photos, config),
                }
                write_text(file, json.dumps(content))
        page = _write_page(folder, config)
        log(f"Page with {photos} photo(s) -> {page}")
    return page


def measure_person(
    models: Models, denoiser: PromptDenoiser, who: int, photos: int, config: MiniatureConfig
) -> Measured:
    """Refine one person's words, and score images with the words after each of MARKS.

    Args:
        models: that generate and score.
        denoiser: of their pipeline.
        who: place among the held-out people.
        photos: how many.
        config: for the number of people and precision.

    Returns:
        By number of steps, the mean of each score, and the seconds of processor time until then.
    """
    pictures = [render_photo(who, photo) for photo in range(photos)]
    plain = models.encoder.identify(*pictures, alignment="FFHQ")
    crops = [crop_identity(locate_face(None, picture, "FFHQ"), SIZE) for picture in pictures]
    targets = [make_target(crop, models.pipeline.encode_photos) for crop in crops]
    start, begin = models.narrow(models.encoder.words(plain)), time.process_time()
    kept: dict[int, tuple[FaceIdentity, float]] = {0: (plain, 0.0)}

    def keep(step: int, loss: float, words: torch.Tensor) -> None:
        if step in MARKS:
            refined = models.encoder.refine(plain, models.widen(words))
            kept[step] = refined, time.process_time() - begin

    refine_words(denoiser, start, targets, CONFIG, keep)
    return {
        str(step): {**_score(models, identity, who, config), "seconds": seconds}
        for step, (identity, seconds) in kept.items()
    }


def _score(models: Models, identity: FaceIdentity, who: int, config: MiniatureConfig) -> dict[str, float]:
    """Average the scores of one person's images."""
    plan = EvaluationPlan(config.report_people, range(0, len(PROMPTS), _EVERY), plain=False)
    scores = generate_and_score(models, plan, bf16=config.bf16, label="images", identities={who: identity})

    def mean(task: str, value: str) -> float:
        return float(np.mean([getattr(score, value) for score in scores if score.task == task]))

    return {name: mean(task, value) for name, (_, task, value) in _TASKS.items()}


def _settings(config: MiniatureConfig) -> dict[str, Any]:
    return {"marks": list(MARKS), "every": _EVERY, "bf16": config.bf16, **asdict(CONFIG)}


def _read(file: Path, config: MiniatureConfig) -> Measured | None:
    """Read a person's scores; None where there are none, or those of other settings."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content["scores"] if content.get("asked") == _settings(config) else None


def _write_page(folder: Path, config: MiniatureConfig) -> Path:
    measured: dict[str, list[Measured]] = {}
    for photos in PHOTOS:
        files = [folder / "refined" / f"{photos}-{who}.json" for who in range(config.report_people)]
        if found := [scores for file in files if (scores := _read(file, config)) is not None]:
            measured[f"{photos} photo{'s' * (photos > 1)}"] = found
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
            cells = [Cell(format_interval(_mean(found, step, name))) for name in _TASKS]
            seconds = Cell(f"{_mean(found, step, 'seconds').value:.0f}")
            rows.append(Row((Cell(f"{line}, {step} steps"), *cells, seconds), "measured"))
    people = ", ".join(f"{len(found)} with {line}" for line, found in measured.items())
    return Table(
        ("", *(title for title, *_ in _TASKS.values()), "Seconds"),
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
