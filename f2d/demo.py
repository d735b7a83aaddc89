"""The whole method without any download: people of the miniature, whom nothing has seen in training, in scenes that a prompt asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from . import miniature
from .diffusion.pipeline import F2DPipeline, GenerationConfig, Picture, Region
from .image import Photo, load_photo
from .miniature.evaluators import Attributes, Verifier, divide
from .miniature.prompts import LOCATIONS, SceneAttributes, describe, text_accuracy
from .miniature.sheet import Panel, draw_sheet
from .prompt.injection import CLASS_WORDS

SETTINGS = GenerationConfig(
    width=miniature.SIZE, height=miniature.SIZE, steps=miniature.STEPS, cfg=miniature.CFG
)
WIDE = replace(SETTINGS, width=miniature.SIZE * 3 // 2)
_PEOPLE = 3  # the next portrait lends its expression
_ASKED = (
    SceneAttributes(),
    SceneAttributes(job="chef"),
    SceneAttributes(job="king"),
    SceneAttributes(place=LOCATIONS[0]),
    SceneAttributes(place=LOCATIONS[5]),
    SceneAttributes(expression="looking shocked"),
    SceneAttributes(job="pilot", place=LOCATIONS[8]),
)
_PLACEHOLDERS = ("S1*", "S2*")
_TOGETHER = "a photo of S1* and S2*"
_SCENE = f"a photo of {CLASS_WORDS} and {CLASS_WORDS}"
_BATCH = 16  # pictures


def run_demo(log: Callable[[str], None], seed: int = 0) -> Picture:
    """Encode portraits of a few people, and draw them from prompts next to the same prompts for "a person".

    Args:
        log: called with each progress message.
        seed: of the pictures.

    Returns:
        The labeled sheet, shape (H, W, 3), uint8, with identity and text scores under the pictures.

    Raises:
        ImportError: diffusers or transformers are missing.
    """
    log(
        "The miniature: a small drawn world, trained from nothing. None of these people was seen in training."
    )
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    photos = {name: load_photo(path) for name, path in miniature.portraits().items()}
    people, reference = list(photos)[:_PEOPLE], list(photos)[_PEOPLE]
    identities = {name: encoder.identify(photos[name], alignment="FFHQ") for name in people}
    expression = encoder.express(photos[reference], alignment="FFHQ")
    log(
        f"{len(people)} portraits {photos[people[0]].shape} -> v_id {tuple(identities[people[0]].v_id.shape)} -> S* (2, 768)"
    )

    def know(name: str | None = None, referred: bool = False) -> None:
        pipeline.subjects.clear()
        if name is not None:
            words = encoder.words(identities[name], expression if referred else None)
            pipeline.add_subject(miniature.narrow(words), positional=encoder.mapper.config.positional)

    know()
    single = [describe(facts, CLASS_WORDS) for facts in _ASKED]
    states = [pipeline.encode(prompt) for prompt in single]
    for name in people:
        asked = [*(describe(facts, "S*") for facts in _ASKED), describe(SceneAttributes(), "S*")]
        for index, prompt in enumerate(asked):
            know(name, referred=index == len(_ASKED))
            states.append(pipeline.encode(prompt))
        single += asked
    log(f"Drawing {len(single)} pictures of {SETTINGS.width} px, {SETTINGS.steps} steps each")
    images: list[Photo] = []
    for start in range(0, len(single), _BATCH):
        some = single[start : start + _BATCH]
        drawn = pipeline.draw(
            some, torch.cat(states[start : start + _BATCH]), [seed] * len(some), SETTINGS, progress=False
        )
        images += [picture.image for picture in drawn]
    couples = [(one, people[(index + 1) % _PEOPLE]) for index, one in enumerate(people)]
    log(f"Drawing {2 * _PEOPLE} pictures of two people, {WIDE.width} px wide")
    words = [tuple(encoder.words(identities[name]) for name in couple) for couple in couples]
    pairs = [
        *draw_couples(pipeline, words, [seed] * _PEOPLE, apart=True),
        *draw_couples(pipeline, words, [seed] * _PEOPLE, apart=False),
    ]
    verifier, attributes = miniature.load_evaluators()
    said = ["each in a half of the picture"] * _PEOPLE + ["in one sentence they mix"] * _PEOPLE
    rows = [
        *_arrange(images, photos, people, reference, verifier, attributes),
        _couples(pairs, photos, couples * 2, said, verifier),
    ]
    subtitle = "One photo of a person whom nothing has seen in training -> two words S* -> any prompt"
    scores = [{"text asked": cell.text, **cell.scores} for row in rows for cell in row if cell.scores]
    parameters = {
        "prompt": describe(SceneAttributes(), "S*"),
        "seed": seed,
        "model": pipeline.name,
        "scores": scores,
    }
    return Picture(draw_sheet(rows, "Face2Diffusion, in miniature", subtitle), parameters)


def draw_couples(
    pipeline: F2DPipeline, couples: Sequence[Sequence[torch.Tensor]], seeds: Sequence[int], apart: bool
) -> list[Photo]:
    """Draw two people side by side.

    Args:
        pipeline: the miniature's.
        couples: B, each of two people's words, left and right, of shape (2, 768), from its encoder.
        seeds: B.
        apart: each in a half of the picture, with a prompt of their own, as in the workflow two_people; else both in one sentence.

    Returns:
        B pictures of shape (128, 192, 3), uint8.
    """

    def encode(prompt: str) -> torch.Tensor:
        states = []
        for couple in couples:
            pipeline.subjects.clear()
            for placeholder, words in zip(_PLACEHOLDERS, couple, strict=True):
                pipeline.add_subject(miniature.narrow(words), placeholder)
            states.append(pipeline.encode(prompt))
        return torch.cat(states)

    prompt = _SCENE if apart else _TOGETHER
    left = (torch.arange(WIDE.width) < WIDE.width // 2).float().expand(WIDE.height, -1)
    sides = [(f"a photo of {name}", mask) for name, mask in zip(_PLACEHOLDERS, (left, 1 - left), strict=True)]
    regions = [Region(text, encode(text), mask) for text, mask in sides] if apart else []
    drawn = pipeline.draw([prompt] * len(seeds), encode(prompt), seeds, WIDE, progress=False, regions=regions)
    return [picture.image for picture in drawn]


def _arrange(
    images: Sequence[Photo],
    photos: dict[str, Photo],
    people: Sequence[str],
    reference: str,
    verifier: Verifier,
    attributes: Attributes,
) -> list[list[Panel]]:
    """Set the pictures in rows, "a person" first, and have the judges score each."""
    seen = attributes.recognize(images)
    width = len(_ASKED)

    def text_score(facts: SceneAttributes, index: int) -> dict[str, float]:
        return {} if facts == SceneAttributes() else {"text": text_accuracy(facts, seen[index])}

    top = [
        Panel(images[i], describe(facts, CLASS_WORDS), text_score(facts, i)) for i, facts in enumerate(_ASKED)
    ]
    blank = np.full_like(images[0], 246)
    rows = [
        [
            Panel(blank, "the same prompts\nwithout a face"),
            *top,
            Panel(photos[reference], "the expression of\nthe pictures below"),
        ]
    ]
    for row, name in enumerate(people):
        first = width + row * (width + 1)
        features = verifier.embed([photos[name], *images[first : first + width + 1]])
        same = (features[1:] @ features[0]).clamp(min=0).tolist()
        panels = [Panel(photos[name], f"photo of {name}")]
        for index, facts in enumerate((*_ASKED, SceneAttributes())):
            text = describe(facts, "S*") + ("\nwith the reference" if index == width else "")
            panels.append(
                Panel(
                    images[first + index], text, {"identity": same[index], **text_score(facts, first + index)}
                )
            )
        rows.append(panels)
    return rows


def _couples(
    pairs: Sequence[Photo],
    photos: dict[str, Photo],
    couples: Sequence[tuple[str, str]],
    said: Sequence[str],
    verifier: Verifier,
) -> list[Panel]:
    panels = []
    for image, (left, right), how in zip(pairs, couples, said, strict=True):
        features = verifier.embed([photos[left], photos[right], *divide(image)])
        same = {
            name: max(float(features[i] @ features[i + 2]), 0) for i, name in enumerate(("left", "right"))
        }
        panels.append(Panel(image, f"{left} and {right}:\n{how}", same))
    return panels
