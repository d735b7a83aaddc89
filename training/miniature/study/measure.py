"""Draws held-out people with one mapper and has the judges look: the numbers behind the miniature's tables.

Every person is seen in one photo, in any pose, place and expression. Every picture has a seed of its own, the same for all variants.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ....f2d import miniature as shipped
from ....f2d.checkpoint import read
from ....f2d.demo import SETTINGS
from ....f2d.diffusion.pipeline import F2DPipeline
from ....f2d.encoder import FaceEncoder
from ....f2d.files import fingerprint, write_text
from ....f2d.identity import FaceExpression, FaceIdentity
from ....f2d.image import Photo, save_png
from ....f2d.miniature.evaluators import Attributes, Verifier
from ....f2d.miniature.prompts import EXPRESSIONS, PROMPTS, SceneAttributes, describe, text_accuracy
from ....f2d.prompt.injection import CLASS_WORDS
from ..recipe import Miniature, encoder_of
from ..world.samples import HELD_OUT, drawing, scene

OPENING = (
    "a close portrait of"  # of the prompts: all words are known, but no caption of any training begins so
)
_TUNED = 40  # of HELD_OUT: who was looked at while the recipe was tuned comes last
_BATCH = 32  # pictures
_PHOTOS_FROM, _REFERENCES_FROM = 60_000_000, 61_000_000  # numbers of the drawings
_PLAIN_SEEDS = 4  # pictures of "a photo of S*" for each person
SHOWN = (
    -1,
    0,
    4,
    12,
    20,
    24,
    31,
    37,
)  # places in PROMPTS of the pictures that are kept; -1 = "a photo of S*"


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
        return (
            2 * self.identity * self.text / (self.identity + self.text)
            if self.identity and self.text
            else 0.0
        )


@dataclass(frozen=True, eq=False)
class Job:
    """A picture to be drawn."""

    task: str
    who: int
    prompt: int
    seed: int
    facts: SceneAttributes
    text: str
    states: torch.Tensor  # (1, 77, D)
    delayed: torch.Tensor | None  # (1, 77, D)


@dataclass(frozen=True, eq=False)
class Tools:
    """What draws and what judges."""

    encoder: FaceEncoder
    pipeline: F2DPipeline
    verifier: Verifier
    attributes: Attributes
    narrow: Callable[[Tensor], Tensor] = lambda words: words  # makes the encoder's words fit the pipeline

    @classmethod
    def of(cls, miniature: Miniature, variant: Variant, seed: int) -> Tools:
        """Take a recipe's, with the mapper of a row."""
        mapper = miniature.mapper(variant.preset, seed)
        encoder = FaceEncoder.load(
            miniature.encoder(encoder_of(variant.preset)), mapper, miniature.expression()
        )
        return cls(encoder, F2DPipeline.load(miniature.base()), miniature.verifier(), miniature.attributes())

    @classmethod
    def of_shipped(cls) -> Tools:
        """Take what is shipped."""
        return cls(
            shipped.load_encoder(), shipped.load_pipeline(), *shipped.load_evaluators(), narrow=shipped.narrow
        )

    def know(self, identity: FaceIdentity, expression: FaceExpression | None = None) -> None:
        """Teach the pipeline one person as S*."""
        self.pipeline.subjects.clear()
        words = self.narrow(self.encoder.words(identity, expression))
        self.pipeline.add_subject(words, positional=self.encoder.mapper.config.positional)


@dataclass(frozen=True)
class Extent:
    """How much is drawn."""

    people: int
    prompts: Sequence[int] = range(len(PROMPTS))  # places in PROMPTS
    plain: bool = True  # the prompts with "a person" too
    best_of: int = 1  # pictures of a prompt, for every second prompt and a third of the people


def held_out(who: int) -> int:
    """Give the number of a held-out person, in the order in which they are drawn."""
    return HELD_OUT[(_TUNED + who) % len(HELD_OUT)]


def photo_of(who: int) -> Photo:
    """Photograph a held-out person, without a hat: shape (128, 128, 3), uint8."""
    _, facts = scene(_PHOTOS_FROM + who, held_out(who))
    return drawing(_PHOTOS_FROM + who, held_out(who), replace(facts, job="")).picture.image


def prompt_of(facts: SceneAttributes, subject: str = "S*") -> str:
    """Ask for something in a sentence that no training has seen."""
    return describe(facts, subject, OPENING)


def measure(miniature: Miniature, variant: Variant, seed: int) -> list[Score]:
    """Draw and judge everything for one mapper; what an earlier call has measured of the same mapper is read.

    Args:
        miniature: the recipe's folder.
        variant: which row.
        seed: of the mapper's training.

    Returns:
        A score for each picture.
    """
    config, file = miniature.config, miniature.folder / "scores" / f"{variant.name}-{seed}.json"
    extent = Extent(
        config.report_people,
        range(min(config.report_prompts, len(PROMPTS))),
        plain=variant.name == "cgdr" and seed == 0,  # no mapper has a part in them
        best_of=config.best_of if variant.name in ("cgdr", "reconstruction") else 1,
    )
    mapper = fingerprint(read(miniature.mapper(variant.preset, seed)).tensors)
    asked = {"mapper": mapper, "opening": OPENING, **asdict(extent), "prompts": list(extent.prompts)}
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if found.get("asked") != asked:

        def keep(job: Job, image: Photo) -> None:
            if job.prompt in SHOWN and (
                job.task == "prompt" or job.task == "plain" and job.seed == _plain_seed(job.who, 0)
            ):
                save_png(picture_path(miniature, variant.name, seed, job.who, job.prompt), image)

        scores = draw_and_judge(
            Tools.of(miniature, variant, seed),
            extent,
            variant.subject_from,
            config.bf16,
            keep,
            f"{variant.name}-{seed}",
        )
        found = {"asked": asked, "scores": [asdict(score) for score in scores]}
        write_text(file, json.dumps(found))
    return [Score(**{**entry, "cosines": tuple(entry["cosines"])}) for entry in found["scores"]]


def picture_path(miniature: Miniature, name: str, seed: int, who: int, prompt: int) -> Path:
    """Name the file of one of the kept pictures: of a variant and seed, of a person, for a prompt of `SHOWN`."""
    return miniature.folder / "scores" / f"{name}-{seed}" / f"{who}_{prompt}.png"


def draw_and_judge(
    tools: Tools,
    extent: Extent,
    subject_from: float = 0.0,
    bf16: bool = True,
    keep: Callable[[Job, Photo], None] = lambda job, image: None,
    label: str = "",
) -> list[Score]:
    """Draw held-out people and have the judges look.

    Args:
        tools: what draws and judges.
        extent: how much.
        subject_from: share of the denoising with the class words (DSC).
        bf16: whether a CPU draws in it; on a GPU the pipeline is in float16.
        keep: is given each picture.
        say: what the progress bar says.

    Returns:
        A score for each picture.
    """
    photos = [photo_of(who) for who in range(extent.people)]
    jobs = list(_plan(tools, extent, photos, bool(subject_from)))
    known = tools.verifier.embed(photos)  # (people, F)
    settings, scores = replace(SETTINGS, subject_from=subject_from), []
    for start in tqdm(range(0, len(jobs), _BATCH), desc=label, unit_scale=_BATCH):
        some = jobs[start : start + _BATCH]
        states = torch.cat([job.states for job in some])
        delayed = torch.cat([job.delayed for job in some]) if some[0].delayed is not None else None  # type: ignore[misc]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            drawn = tools.pipeline.generate_encoded(
                [job.text for job in some],
                states,
                [job.seed for job in some],
                settings,
                delayed,
                progress=False,
            )
        images = [picture.image for picture in drawn]
        for job, image in zip(some, images, strict=True):
            keep(job, image)
        cosines, seen = (
            (tools.verifier.embed(images) @ known.T).cpu().numpy(),
            tools.attributes.recognize(images),
        )
        scores += [_score(job, row, facts) for job, row, facts in zip(some, cosines, seen, strict=True)]
    return scores


def _score(job: Job, cosines: np.ndarray, seen: SceneAttributes) -> Score:
    right = seen.expression == job.facts.expression
    text = float(right) if job.task == "reference" else text_accuracy(job.facts, seen)
    return Score(
        job.task, job.who, job.prompt, job.seed, tuple(round(float(x), 5) for x in cosines), text, right
    )


def _plan(tools: Tools, extent: Extent, photos: Sequence[Photo], delay: bool) -> Iterator[Job]:
    """Yield what is to be drawn, encoded."""

    def job(
        task: str,
        who: int,
        prompt: int,
        number: int,
        facts: SceneAttributes,
        write_prompt: Callable[[str], str],
    ) -> Job:
        text = write_prompt(CLASS_WORDS if task == "class" else "S*")
        delayed = tools.pipeline.encode(write_prompt(CLASS_WORDS)) if delay else None
        return Job(task, who, prompt, number, facts, text, tools.pipeline.encode(text), delayed)

    def plainly(subject: str) -> str:
        return describe(SceneAttributes(), subject)

    for who, photo in enumerate(photos):
        identity = tools.encoder.identify(photo, alignment="FFHQ")
        tools.know(identity)
        for number in range(_PLAIN_SEEDS):
            yield job("plain", who, -1, _plain_seed(who, number), SceneAttributes(), plainly)
        for prompt in extent.prompts:
            facts, first = PROMPTS[prompt], 1_000_000 + 10_000 * who + 100 * prompt
            write_prompt = partial(prompt_of, facts)
            yield job("prompt", who, prompt, first, facts, write_prompt)
            if extent.plain:
                yield job("class", who, prompt, first, facts, write_prompt)
            if prompt % 2 == 0 and who < max(2, extent.people // 3):
                for number in range(1, extent.best_of):
                    yield job("best", who, prompt, first + number, facts, write_prompt)
        if tools.encoder.mapper.config.exp_dim:
            for place, name in enumerate(EXPRESSIONS):
                tools.know(identity, _reference(tools.encoder, (who + 1) % len(photos), name))
                yield job(
                    "reference",
                    who,
                    place,
                    2_000_000 + 100 * who + place,
                    SceneAttributes(expression=name),
                    plainly,
                )


def _plain_seed(who: int, number: int) -> int:
    return 1000 * who + number


def _reference(encoder: FaceEncoder, who: int, name: str) -> FaceExpression:
    """Read the expression off a photo of another person."""
    facts = SceneAttributes(expression=name)
    photo = drawing(
        _REFERENCES_FROM + 100 * who + EXPRESSIONS.index(name), held_out(who), facts
    ).picture.image
    return encoder.express(photo, alignment="FFHQ")
