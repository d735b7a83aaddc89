"""Draws held-out people with one mapper and has the judges look: the numbers behind the miniature's tables.

Every person is seen in one photo, in any pose, place and expression. Every picture has a seed of its own, the same for all variants.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ...f2d.checkpoint import atomic_file
from ...f2d.demo import SETTINGS
from ...f2d.encoder import FaceEncoder
from ...f2d.identity import FaceExpression
from ...f2d.image import Photo, save_png
from ...f2d.injection import CLASS_WORDS
from ...f2d.miniature.prompts import EXPRESSIONS, PROMPTS, Facts, describe, text_accuracy
from ...f2d.pipeline import F2DPipeline
from .album import HELD_OUT, drawing, scene
from .recipe import Miniature, encoder_of

_BATCH = 32  # pictures
_PHOTOS_FROM, _REFERENCES_FROM = 60_000_000, 61_000_000  # numbers of the drawings
_PLAIN_SEEDS = 4  # pictures of "a photo of S*" for each person
SHOWN = (-1, 0, 4, 12, 20, 24, 31, 37)  # places in PROMPTS of the pictures that are kept; -1 = "a photo of S*"


@dataclass(frozen=True)
class Variant:
    """A row of the tables."""

    name: str
    preset: str
    subject_from: float = 0.0  # DSC (Sec. E.2)


VARIANTS = {
    one.name: one
    for one in (
        Variant("cgdr", "cgdr"),
        Variant("reconstruction", "reconstruction"),
        Variant("masked", "masked"),
        Variant("reconstruction-dsc", "reconstruction", 0.2),
        Variant("no-expression", "no-expression"),
        Variant("arcface", "arcface"),
        Variant("arcface-msf", "arcface-msf"),
    )
}


@dataclass(frozen=True)
class Score:
    """One picture as the judges see it."""

    task: str  # "plain": a photo of S*; "prompt"; "class": the prompt with "a person"; "reference"; "best": more seeds of a prompt
    who: int  # place among the held-out people
    prompt: int  # place in PROMPTS, or of an expression for "reference"; -1 for "plain"
    seed: int
    cosines: tuple[float, ...]  # with the photo of each person
    text: float  # share of what is asked for that is seen; for "reference" whether the expression is the reference's
    expression: bool  # whether the expression is the one that is asked for, at rest where none is

    @property
    def identity(self) -> float:
        """Cosine between the photo and the picture, 0 where it is negative, as in the paper's identity metrics."""
        return max(self.cosines[self.who], 0.0)

    @property
    def hmean(self) -> float:
        """Harmonic mean of identity and text, 0 where one of them is."""
        return 2 * self.identity * self.text / (self.identity + self.text) if self.identity and self.text else 0.0


@dataclass(frozen=True, eq=False)
class _Job:
    task: str
    who: int
    prompt: int
    seed: int
    facts: Facts
    text: str
    states: torch.Tensor  # (1, 77, D)
    delayed: torch.Tensor | None  # (1, 77, D)


def photo_of(who: int) -> Photo:
    """Photograph a held-out person, without a hat: shape (128, 128, 3), uint8."""
    _, facts = scene(_PHOTOS_FROM + who, HELD_OUT.start + who)
    return drawing(_PHOTOS_FROM + who, HELD_OUT.start + who, replace(facts, job="")).picture.image


def measure(miniature: Miniature, variant: Variant, seed: int) -> list[Score]:
    """Draw and judge everything for one mapper; what an earlier call has measured is read.

    Args:
        miniature: the recipe's folder.
        variant: which row.
        seed: of the mapper's training.

    Returns:
        A score for each picture.
    """
    file = miniature.folder / "scores" / f"{variant.name}-{seed}.json"
    if not file.exists():
        scores = _measure(miniature, variant, seed)
        with atomic_file(file) as temporary:
            Path(temporary).write_text(json.dumps([asdict(score) for score in scores]), encoding="utf-8")
    return [Score(**{**entry, "cosines": tuple(entry["cosines"])}) for entry in json.loads(file.read_text(encoding="utf-8"))]


def picture_path(miniature: Miniature, name: str, seed: int, who: int, prompt: int) -> Path:
    """Name the file of one of the kept pictures: of a variant and seed, of a person, for a prompt of `SHOWN`."""
    return miniature.folder / "scores" / f"{name}-{seed}" / f"{who}_{prompt}.png"


def _measure(miniature: Miniature, variant: Variant, seed: int) -> list[Score]:
    config = miniature.config
    encoder = FaceEncoder.load(
        miniature.encoder(encoder_of(variant.preset)), miniature.mapper(variant.preset, seed), miniature.expression()
    )
    pipeline = F2DPipeline.load(miniature.base())
    photos = [photo_of(who) for who in range(config.report_people)]
    jobs = list(_plan(encoder, pipeline, photos, variant, seed, miniature))
    verifier, attributes = miniature.verifier(), miniature.attributes()
    known = verifier.embed(photos)  # (people, F)
    settings, scores = replace(SETTINGS, subject_from=variant.subject_from), []
    for start in tqdm(range(0, len(jobs), _BATCH), desc=f"{variant.name}-{seed}", unit_scale=_BATCH):
        some = jobs[start : start + _BATCH]
        states = torch.cat([job.states for job in some])
        delayed = torch.cat([job.delayed for job in some]) if some[0].delayed is not None else None  # type: ignore[misc]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):  # on a GPU the pipeline is in float16
            drawn = pipeline.draw([job.text for job in some], states, [job.seed for job in some], settings, delayed, progress=False)
        images = [picture.image for picture in drawn]
        for job, image in zip(some, images, strict=True):
            if job.prompt in SHOWN and (job.task == "prompt" or job.task == "plain" and job.seed == _plain_seed(job.who, 0)):
                save_png(picture_path(miniature, variant.name, seed, job.who, job.prompt), image)
        cosines, seen = (verifier.embed(images) @ known.T).cpu().numpy(), attributes.recognise(images)
        scores += [_score(job, row, facts) for job, row, facts in zip(some, cosines, seen, strict=True)]
    return scores


def _score(job: _Job, cosines: np.ndarray, seen: Facts) -> Score:
    right = seen.expression == job.facts.expression
    text = float(right) if job.task == "reference" else text_accuracy(job.facts, seen)
    return Score(job.task, job.who, job.prompt, job.seed, tuple(round(float(x), 5) for x in cosines), text, right)


def _plan(
    encoder: FaceEncoder, pipeline: F2DPipeline, photos: Sequence[Photo], variant: Variant, seed: int, miniature: Miniature
) -> Iterator[_Job]:
    """Yield what is to be drawn, encoded."""
    config, mapper = miniature.config, encoder.mapper.config

    def job(task: str, who: int, prompt: int, number: int, facts: Facts, said: Facts | None = None, subject: str = "S*") -> _Job:
        said = facts if said is None else said
        delayed = pipeline.encode(describe(said, CLASS_WORDS)) if variant.subject_from else None
        text = describe(said, subject)
        return _Job(task, who, prompt, number, facts, text, pipeline.encode(text), delayed)

    for who, photo in enumerate(photos):
        identity = encoder.identify(photo, alignment="FFHQ")
        pipeline.subjects.clear()
        pipeline.add_subject(encoder.words(identity), positional=mapper.positional)
        for number in range(_PLAIN_SEEDS):
            yield job("plain", who, -1, _plain_seed(who, number), Facts())
        for prompt, facts in enumerate(PROMPTS[: config.report_prompts]):
            first = 1_000_000 + 10_000 * who + 100 * prompt
            yield job("prompt", who, prompt, first, facts)
            if variant.name == "cgdr" and seed == 0:  # no mapper has a part in them
                yield job("class", who, prompt, first, facts, subject=CLASS_WORDS)
            if variant.name in ("cgdr", "reconstruction") and prompt % 2 == 0 and who < max(2, config.report_people // 3):
                for number in range(1, config.best_of):
                    yield job("best", who, prompt, first + number, facts)
        if mapper.exp_dim:
            for place, name in enumerate(EXPRESSIONS):
                pipeline.subjects.clear()
                expression = _reference(encoder, (who + 1) % len(photos), name)
                pipeline.add_subject(encoder.words(identity, expression), positional=mapper.positional)
                yield job("reference", who, place, 2_000_000 + 100 * who + place, Facts(expression=name), said=Facts())


def _plain_seed(who: int, number: int) -> int:
    return 1000 * who + number


def _reference(encoder: FaceEncoder, who: int, name: str) -> FaceExpression:
    """Read the expression off a photo of another person."""
    facts = Facts(expression=name)
    photo = drawing(_REFERENCES_FROM + 100 * who + EXPRESSIONS.index(name), HELD_OUT.start + who, facts).picture.image
    return encoder.express(photo, alignment="FFHQ")
