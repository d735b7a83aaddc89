"""The whole method without any download: held-out people of the miniature in scenes that prompts ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import miniature
from .diffusion.pipeline import F2DPipeline, GeneratedImage, GenerationConfig
from .diffusion.regions import Region
from .image import Photo, load_photo
from .miniature.evaluators import Attributes, Verifier, divide
from .miniature.prompts import LOCATIONS, SceneAttributes, describe, text_accuracy
from .miniature.sheet import Panel, draw_sheet
from .prompt.injection import CLASS_WORDS, PLACEHOLDER

if TYPE_CHECKING:
    from .encoder import FaceEncoder
    from .identity import FaceExpression, FaceIdentity

SETTINGS = GenerationConfig(
    width=miniature.SIZE, height=miniature.SIZE, steps=miniature.STEPS, cfg=miniature.CFG
)
WIDE = replace(SETTINGS, width=miniature.SIZE * 3 // 2)
_PEOPLE = 3  # the next portrait lends its expression
_SCENES = (
    SceneAttributes(),
    SceneAttributes(job="chef"),
    SceneAttributes(place=LOCATIONS[0]),
    SceneAttributes(expression="looking shocked"),
    SceneAttributes(job="pilot", place=LOCATIONS[8]),
)
_WITH_REFERENCE = SceneAttributes()  # the last image of a person, with the reference's expression
_PLACEHOLDERS = ("S1*", "S2*")
_TOGETHER = "a photo of S1* and S2*"
_PAIR_SCENE = f"a photo of {CLASS_WORDS} and {CLASS_WORDS}"
_BATCH = 16  # images


@dataclass(frozen=True, eq=False)
class _People:
    """The portraits, encoded."""

    photos: dict[str, Photo]  # all portraits by name
    names: list[str]  # the people who are generated
    reference: str  # name of the person whose expression is copied
    identities: dict[str, FaceIdentity]  # of `names`
    expression: FaceExpression  # of `reference`


def run_demo(log: Callable[[str], None], seed: int = 0) -> GeneratedImage:
    """Encode a few portraits, and generate these people from prompts, next to those prompts for "a person".

    Args:
        log: called with each progress message.
        seed: of the images.

    Returns:
        The labeled sheet, shape (H, W, 3), uint8, with identity and text scores under the images.

    Raises:
        ImportError: diffusers or transformers are missing.
    """
    log("The miniature: networks trained from nothing on a synthetic dataset. These people are held out.")
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    people = _encode_portraits(encoder)
    shape, width = people.photos[people.names[0]].shape, encoder.msid.config.feature_dim
    log(f"{_PEOPLE} portraits {shape} -> v_id ({width},) -> S* (2, 768)")
    prompts, states = _encode_prompts(pipeline, encoder, people)
    log(f"Generating {len(prompts)} images of {SETTINGS.width} px, {SETTINGS.steps} steps each")
    images = _generate(pipeline, prompts, states, seed)
    couples = list(zip(people.names, [*people.names[1:], people.names[0]], strict=True))
    log(f"Generating {2 * _PEOPLE} images of two people, {WIDE.width} px wide")
    words = [tuple(encoder.words(people.identities[name]) for name in couple) for couple in couples]
    apart, together = (generate_couples(pipeline, words, [seed] * _PEOPLE, apart) for apart in (True, False))
    verifier, attributes = miniature.load_evaluators()
    rows = [
        *_arrange(images, people, verifier, attributes),
        _couple_panels(apart, people.photos, couples, "a prompt and a region for each", verifier),
        _couple_panels(together, people.photos, couples, "both in one prompt", verifier),
    ]
    parameters = {
        "prompt": describe(SceneAttributes(), PLACEHOLDER),
        "seed": seed,
        "model": pipeline.name,
        "scores": [{"text asked": cell.text, **cell.scores} for row in rows for cell in row if cell.scores],
    }
    subtitle = "One photo of a held-out person -> two words S* -> any prompt. One seed for all images."
    return GeneratedImage(draw_sheet(rows, "Face2Diffusion on the miniature", subtitle), parameters)


def _encode_portraits(encoder: FaceEncoder) -> _People:
    photos = {name: load_photo(path) for name, path in miniature.portraits().items()}
    names, reference = list(photos)[:_PEOPLE], list(photos)[_PEOPLE]
    identities = {name: encoder.identify(photos[name], alignment="FFHQ") for name in names}
    return _People(photos, names, reference, identities, encoder.express(photos[reference], alignment="FFHQ"))


def _encode_prompts(
    pipeline: F2DPipeline, encoder: FaceEncoder, people: _People
) -> tuple[list[str], list[torch.Tensor]]:
    """Encode the prompts for "a person", then those for each person, the reference's expression last."""

    def set_subject(name: str, expression: FaceExpression | None) -> None:
        pipeline.subjects.clear()
        words = miniature.narrow(encoder.words(people.identities[name], expression))
        pipeline.add_subject(words, positional=encoder.mapper.config.positional)

    pipeline.subjects.clear()
    prompts = [describe(scene, CLASS_WORDS) for scene in _SCENES]
    states = [pipeline.encode(prompt) for prompt in prompts]
    for name in people.names:
        for scenes, expression in ((_SCENES, None), ([_WITH_REFERENCE], people.expression)):
            set_subject(name, expression)
            asked = [describe(scene, PLACEHOLDER) for scene in scenes]
            prompts += asked
            states += [pipeline.encode(prompt) for prompt in asked]
    return prompts, states


def _generate(
    pipeline: F2DPipeline, prompts: Sequence[str], states: Sequence[torch.Tensor], seed: int
) -> list[Photo]:
    images: list[Photo] = []
    for start in range(0, len(prompts), _BATCH):
        some, encoded = prompts[start : start + _BATCH], torch.cat(list(states[start : start + _BATCH]))
        generated = pipeline.generate_encoded(some, encoded, [seed] * len(some), SETTINGS, progress=False)
        images += [one.image for one in generated]
    return images


def generate_couples(
    pipeline: F2DPipeline, couples: Sequence[Sequence[torch.Tensor]], seeds: Sequence[int], apart: bool
) -> list[Photo]:
    """Generate images of two people side by side.

    Args:
        pipeline: the miniature's.
        couples: B, each of two people's words, left and right, of shape (2, 768), from its encoder.
        seeds: B.
        apart: each in a half of the image, with their own prompt, as in the workflow two_people; else both in
            one prompt.

    Returns:
        B images of shape (128, 192, 3), uint8.
    """

    def encode(prompt: str) -> torch.Tensor:
        states = []
        for couple in couples:
            pipeline.subjects.clear()
            for placeholder, words in zip(_PLACEHOLDERS, couple, strict=True):
                pipeline.add_subject(miniature.narrow(words), placeholder)
            states.append(pipeline.encode(prompt))
        return torch.cat(states)

    prompt = _PAIR_SCENE if apart else _TOGETHER
    left = (torch.arange(WIDE.width) < WIDE.width // 2).float().expand(WIDE.height, -1)
    sides = [(f"a photo of {name}", mask) for name, mask in zip(_PLACEHOLDERS, (left, 1 - left), strict=True)]
    regions = [Region(text, encode(text), mask) for text, mask in sides] if apart else []
    generated = pipeline.generate_encoded(
        [prompt] * len(seeds), encode(prompt), seeds, WIDE, progress=False, regions=regions
    )
    return [one.image for one in generated]


def _arrange(
    images: Sequence[Photo], people: _People, verifier: Verifier, attributes: Attributes
) -> list[list[Panel]]:
    """Arrange the images in rows, "a person" first, with the evaluators' scores."""
    scenes = (*_SCENES, _WITH_REFERENCE)
    seen, per_person = attributes.recognize(images), len(scenes)
    top = [
        Panel(image, describe(scene, CLASS_WORDS), _text_score(scene, found))
        for image, scene, found in zip(images, _SCENES, seen, strict=False)
    ]
    blank = Panel(np.full_like(images[0], 246), "the same prompts\nwithout a face")
    reference = Panel(people.photos[people.reference], "the expression reference of\nthe images below")
    rows = [[blank, *top, reference]]
    for row, name in enumerate(people.names):
        first = len(_SCENES) + row * per_person
        mine = images[first : first + per_person]
        features = verifier.embed([people.photos[name], *mine])
        identity = (features[1:] @ features[0]).clamp(min=0).tolist()
        texts = [describe(scene, PLACEHOLDER) for scene in scenes]
        texts[-1] += "\nwith the reference"
        rows.append(
            [
                Panel(people.photos[name], f"photo of {name}"),
                *(
                    Panel(image, text, {"identity": same, **_text_score(scene, found)})
                    for image, text, same, scene, found in zip(
                        mine, texts, identity, scenes, seen[first : first + per_person], strict=True
                    )
                ),
            ]
        )
    return rows


def _text_score(asked: SceneAttributes, seen: SceneAttributes) -> dict[str, float]:
    """Score what the prompt asks for; nothing where it asks for nothing."""
    return {} if asked == SceneAttributes() else {"text": text_accuracy(asked, seen)}


def _couple_panels(
    images: Sequence[Photo],
    photos: dict[str, Photo],
    couples: Sequence[tuple[str, str]],
    how: str,
    verifier: Verifier,
) -> list[Panel]:
    panels = []
    for image, (left, right) in zip(images, couples, strict=True):
        features = verifier.embed([photos[left], photos[right], *divide(image)])
        same = {
            side: max(float(features[i] @ features[i + 2]), 0) for i, side in enumerate(("left", "right"))
        }
        panels.append(Panel(image, f"{left} and {right}:\n{how}", same))
    return panels
