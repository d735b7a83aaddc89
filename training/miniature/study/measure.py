"""Generates images of held-out people with one mapper and scores them with the evaluators.

Every image has a seed of its own, the same for all variants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ....f2d import miniature as shipped
from ....f2d.checkpoint import read
from ....f2d.demo import SETTINGS
from ....f2d.diffusion.pipeline import F2DPipeline
from ....f2d.encoder import FaceEncoder
from ....f2d.files import fingerprint
from ....f2d.identity import FaceExpression, FaceIdentity
from ....f2d.image import Photo, save_png
from ....f2d.miniature.evaluators import Attributes, Verifier
from ....f2d.miniature.prompts import EXPRESSIONS, PROMPTS, SceneAttributes, describe, text_accuracy
from ....f2d.prompt.injection import CLASS_WORDS
from ..recipe import Miniature, encoder_of
from ..world.samples import render_sample
from .held_out_data import OPENING, held_out_person, render_photo, write_prompt
from .scores import Score, Variant, measure_once

_BATCH = 32  # images
_REFERENCE_SAMPLES = 61_000_000  # first sample number of the expression references
_PLAIN_SEEDS = 4  # images of "a photo of S*" per person
SAVED_PROMPTS = (-1, 0, 4, 12, 20, 24, 31, 37)  # places in PROMPTS of the saved images; -1 = "a photo of S*"


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """An image to generate, with its encoded prompt."""

    task: str
    who: int
    prompt: int
    seed: int
    attributes: SceneAttributes  # requested
    text: str
    states: Tensor  # (1, 77, D)
    class_states: Tensor | None  # (1, 77, D), of the prompt with class words, for DSC


@dataclass(frozen=True, eq=False)
class Models:
    """The models that generate the images, and the evaluators that score them."""

    encoder: FaceEncoder
    pipeline: F2DPipeline
    verifier: Verifier
    attributes: Attributes
    narrow: Callable[[Tensor], Tensor] = lambda words: words  # to the width of the pipeline's text encoder
    widen: Callable[[Tensor], Tensor] = lambda words: words  # back to the width of the mapper

    @classmethod
    def from_recipe(cls, miniature: Miniature, variant: Variant, seed: int) -> Models:
        """Load a recipe's models, with the mapper of a variant and seed; trains what is missing."""
        mapper = miniature.mapper(variant.preset, seed)
        encoder = FaceEncoder.load(
            miniature.encoder(encoder_of(variant.preset)), mapper, miniature.expression()
        )
        return cls(encoder, F2DPipeline.load(miniature.base()), miniature.verifier(), miniature.attributes())

    @classmethod
    def from_package(cls) -> Models:
        """Load the shipped models."""
        return cls(
            shipped.load_encoder(),
            shipped.load_pipeline(),
            *shipped.load_evaluators(),
            narrow=shipped.narrow,
            widen=shipped.widen_words,
        )

    def set_subject(self, identity: FaceIdentity, expression: FaceExpression | None = None) -> None:
        """Make S* stand for one person in the prompts that are encoded next."""
        self.pipeline.subjects.clear()
        words = self.narrow(self.encoder.words(identity, expression))
        self.pipeline.add_subject(words, positional=self.encoder.mapper.config.positional)


@dataclass(frozen=True)
class EvaluationPlan:
    """How many images are generated."""

    people: int
    prompts: Sequence[int] = range(len(PROMPTS))  # places in PROMPTS
    plain: bool = True  # include the prompts with "a person"
    best_of: int = 1  # images per prompt, for every second prompt and a third of the people


def measure(miniature: Miniature, variant: Variant, seed: int) -> list[Score]:
    """Generate and score all images of one mapper, or read the scores of an earlier call.

    Args:
        miniature: the recipe's folder.
        variant: row of the tables.
        seed: of the mapper's training.

    Returns:
        A score per image.
    """
    config, file = miniature.config, miniature.folder / "scores" / f"{variant.name}-{seed}.json"
    plan = EvaluationPlan(
        config.report_people,
        range(min(config.report_prompts, len(PROMPTS))),
        plain=variant.name == "cgdr" and seed == 0,  # these images are the same for all mappers
        best_of=config.best_of if variant.name in ("cgdr", "reconstruction") else 1,
    )
    mapper = fingerprint(read(miniature.mapper(variant.preset, seed)).tensors)
    settings = {"mapper": mapper, "opening": OPENING, **asdict(plan), "prompts": list(plan.prompts)}

    def generate() -> dict[str, Any]:
        models, label = Models.from_recipe(miniature, variant, seed), f"{variant.name}-{seed}"
        save = partial(_save_image, miniature, variant.name, seed)
        scores = generate_and_score(models, plan, variant.subject_from, config.bf16, save, label)
        return {"scores": [asdict(score) for score in scores]}

    return [Score.from_json(entry) for entry in measure_once(file, settings, generate)["scores"]]


def image_path(miniature: Miniature, name: str, seed: int, who: int, prompt: int) -> Path:
    """Return the file of a saved image: of a variant and seed, of a person, for a prompt of SAVED_PROMPTS."""
    return miniature.folder / "scores" / f"{name}-{seed}" / f"{who}_{prompt}.png"


def _save_image(miniature: Miniature, name: str, seed: int, planned: PlannedImage, image: Photo) -> None:
    """Save the first image of each prompt of SAVED_PROMPTS."""
    first = (
        planned.task == "prompt" or planned.task == "plain" and planned.seed == _plain_seed(planned.who, 0)
    )
    if planned.prompt in SAVED_PROMPTS and first:
        save_png(image_path(miniature, name, seed, planned.who, planned.prompt), image)


def _ignore_image(planned: PlannedImage, image: Photo) -> None:
    pass


def generate_and_score(
    models: Models,
    plan: EvaluationPlan,
    subject_from: float = 0.0,
    bf16: bool = True,
    on_image: Callable[[PlannedImage, Photo], None] = _ignore_image,
    label: str = "",
    identities: Mapping[int, FaceIdentity] | None = None,
) -> list[Score]:
    """Generate images of held-out people and score them.

    Args:
        models: that generate and score.
        plan: how many images.
        subject_from: share of the denoising with the class words (DSC).
        bf16: autocast on a CPU; on a GPU the pipeline is in float16.
        on_image: called with each image.
        label: of the progress bar.
        identities: the people to generate, by place among the plan's; None = all, encoded from their photo.

    Returns:
        A score per image.
    """
    photos = [render_photo(who) for who in range(plan.people)]
    if identities is None:
        identities = {
            who: models.encoder.identify(photo, alignment="FFHQ") for who, photo in enumerate(photos)
        }
    images = list(_plan_images(models, plan, identities, bool(subject_from)))
    return score_images(models, images, photos, subject_from, bf16, on_image, label)


def score_images(
    models: Models,
    images: Sequence[PlannedImage],
    photos: Sequence[Photo],
    subject_from: float = 0.0,
    bf16: bool = True,
    on_image: Callable[[PlannedImage, Photo], None] = _ignore_image,
    label: str = "",
) -> list[Score]:
    """Generate planned images and score them.

    Args:
        models: that generate and score.
        images: what to generate.
        photos: one of each person, in the order of `PlannedImage.who`.
        subject_from: as in `generate_and_score`, as all that follows.
        bf16: autocast on a CPU.
        on_image: called with each image.
        label: of the progress bar.

    Returns:
        A score per image.
    """
    references = models.verifier.embed(photos)  # (people, F)
    scores: list[Score] = []
    for results in generate_images(models, images, subject_from, bf16, label):
        batch = images[len(scores) : len(scores) + len(results)]
        for planned, image in zip(batch, results, strict=True):
            on_image(planned, image)
        cosines = (models.verifier.embed(results) @ references.T).cpu().numpy()
        recognized = models.attributes.recognize(results)
        scores += [_score(*row) for row in zip(batch, cosines, recognized, strict=True)]
    return scores


def generate_images(
    models: Models,
    images: Sequence[PlannedImage],
    subject_from: float = 0.0,
    bf16: bool = True,
    label: str = "",
) -> Iterator[list[Photo]]:
    """Generate planned images in their order, batch by batch; arguments as for `score_images`."""
    settings = replace(SETTINGS, subject_from=subject_from)
    bf16 = bf16 and models.pipeline.diffusion.unet.dtype == torch.float32  # float16 on a GPU stays as it is
    for start in tqdm(
        range(0, len(images), _BATCH), desc=label, unit_scale=_BATCH, disable=None if label else True
    ):
        batch = images[start : start + _BATCH]
        states = torch.cat([planned.states for planned in batch])
        delayed = [planned.class_states for planned in batch if planned.class_states is not None]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            generated = models.pipeline.generate_encoded(
                [planned.text for planned in batch],
                states,
                [planned.seed for planned in batch],
                settings,
                torch.cat(delayed) if delayed else None,
                progress=False,
            )
        yield [result.image for result in generated]


def _score(planned: PlannedImage, cosines: np.ndarray, recognized: SceneAttributes) -> Score:
    expression = recognized.expression == planned.attributes.expression
    return Score(
        planned.task,
        planned.who,
        planned.prompt,
        planned.seed,
        tuple(round(float(x), 5) for x in cosines),
        float(expression) if planned.task == "reference" else text_accuracy(planned.attributes, recognized),
        expression,
    )


def _plan_images(
    models: Models, plan: EvaluationPlan, identities: Mapping[int, FaceIdentity], delayed: bool
) -> Iterator[PlannedImage]:
    """Yield all images of each person in turn, with their prompts encoded."""
    request = partial(plan_image, models.pipeline, delayed)
    for who, identity in identities.items():
        models.set_subject(identity)
        for number in range(_PLAIN_SEEDS):
            yield request("plain", who, -1, _plain_seed(who, number), SceneAttributes())
        for prompt in plan.prompts:
            attributes, seed = PROMPTS[prompt], prompt_seed(who, prompt)
            yield request("prompt", who, prompt, seed, attributes)
            if plan.plain:
                yield request("class", who, prompt, seed, attributes)
            if prompt % 2 == 0 and who < max(2, plan.people // 3):
                for number in range(1, plan.best_of):
                    yield request("best", who, prompt, prompt_seed(who, prompt, number), attributes)
        if models.encoder.mapper.config.exp_dim:
            for place, name in enumerate(EXPRESSIONS):
                models.set_subject(identity, _encode_reference(models.encoder, (who + 1) % plan.people, name))
                attributes, seed = SceneAttributes(expression=name), 2_000_000 + 100 * who + place
                yield request("reference", who, place, seed, attributes)


def plan_image(
    pipeline: F2DPipeline,
    delayed: bool,
    task: str,
    who: int,
    prompt: int,
    seed: int,
    attributes: SceneAttributes,
) -> PlannedImage:
    """Plan one image with the pipeline's subject; `delayed` adds the class prompt for DSC."""

    def write(subject: str) -> str:
        if task in ("plain", "reference"):
            return describe(SceneAttributes(), subject)
        return write_prompt(attributes, subject)

    text = write(CLASS_WORDS if task == "class" else "S*")
    class_states = pipeline.encode(write(CLASS_WORDS)) if delayed else None
    return PlannedImage(task, who, prompt, seed, attributes, text, pipeline.encode(text), class_states)


def prompt_seed(who: int, prompt: int, number: int = 0) -> int:
    """Return the seed of an image of a person and prompt, below 100 images each."""
    return 1_000_000 + 10_000 * who + 100 * prompt + number


def _plain_seed(who: int, number: int) -> int:
    return 1000 * who + number


def _encode_reference(encoder: FaceEncoder, who: int, name: str) -> FaceExpression:
    """Encode the expression of another person's photo."""
    number = _REFERENCE_SAMPLES + 100 * who + EXPRESSIONS.index(name)
    sample = render_sample(number, held_out_person(who), SceneAttributes(expression=name))
    return encoder.express(sample.rendering.image, alignment="FFHQ")
