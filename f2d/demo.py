"""The whole method without any download: people of the miniature, whom nothing has seen in training, in scenes that a prompt asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from . import miniature
from .image import Photo, load_photo
from .injection import CLASS_WORDS
from .miniature.judges import Attributes, Verifier, divide
from .miniature.prompts import LOCATIONS, Facts, describe, text_accuracy
from .miniature.sheet import Panel, draw_sheet
from .pipeline import F2DPipeline, GenerationConfig, Picture

SETTINGS = GenerationConfig(width=miniature.SIZE, height=miniature.SIZE, steps=miniature.STEPS, cfg=miniature.CFG)
WIDE = replace(SETTINGS, width=miniature.SIZE * 3 // 2)
_PEOPLE = 3  # the next portrait lends its expression
_ASKED = (
    Facts(),
    Facts(job="chef"),
    Facts(job="king"),
    Facts(place=LOCATIONS[0]),
    Facts(place=LOCATIONS[5]),
    Facts(expression="looking shocked"),
    Facts(job="pilot", place=LOCATIONS[8]),
)
_TOGETHER = "a photo of S1* and S2*"
_BATCH = 16  # pictures


def run_demo(say: Callable[[str], None], seed: int = 0) -> Picture:
    """Encode portraits of a few people, and draw them from prompts next to the same prompts for "a person".

    Args:
        say: is told each step.
        seed: of the pictures.

    Returns:
        The labelled sheet, shape (H, W, 3), uint8, with identity and text scores under the pictures.

    Raises:
        ImportError: diffusers or transformers are missing.
    """
    say("The miniature: a small drawn world, trained from nothing. None of these people was seen in training.")
    encoder, pipeline = miniature.load_encoder(), miniature.load_pipeline()
    photos = {name: load_photo(path) for name, path in miniature.portraits().items()}
    people, reference = list(photos)[:_PEOPLE], list(photos)[_PEOPLE]
    identities = {name: encoder.identify(photos[name], alignment="FFHQ") for name in people}
    expression = encoder.express(photos[reference], alignment="FFHQ")
    say(f"{len(people)} portraits {photos[people[0]].shape} -> v_id {tuple(identities[people[0]].v_id.shape)} -> S* (2, 768)")

    def encode(prompt: str, *who: str, referred: bool = False) -> torch.Tensor:
        pipeline.subjects.clear()
        for placeholder, name in zip(("S*",) if len(who) == 1 else ("S1*", "S2*"), who, strict=False):
            words = encoder.words(identities[name], expression if referred else None)
            pipeline.add_subject(miniature.narrow(words), placeholder, encoder.mapper.config.positional)
        return pipeline.encode(prompt)

    single = [describe(facts, CLASS_WORDS) for facts in _ASKED]
    states = [encode(prompt) for prompt in single]
    for name in people:
        single += [*(describe(facts, "S*") for facts in _ASKED), describe(Facts(), "S*")]
        states += [*(encode(describe(facts, "S*"), name) for facts in _ASKED), encode(describe(Facts(), "S*"), name, referred=True)]
    say(f"Drawing {len(single)} pictures of {SETTINGS.width} px, {SETTINGS.steps} steps each")
    images = _draw_all(pipeline, single, states, SETTINGS, seed)
    couples = [(one, people[(index + 1) % _PEOPLE]) for index, one in enumerate(people)]
    pairs = _draw_all(pipeline, [_TOGETHER] * _PEOPLE, [encode(_TOGETHER, *couple) for couple in couples], WIDE, seed)
    verifier, attributes = miniature.load_judges()
    rows = [*_arrange(images, photos, people, reference, verifier, attributes), _couples(pairs, photos, couples, verifier)]
    subtitle = "One photo of a person whom nothing has seen in training -> two words S* -> any prompt"
    scores = [{"text asked": cell.text, **cell.scores} for row in rows for cell in row if cell.scores]
    parameters = {"prompt": describe(Facts(), "S*"), "seed": seed, "model": pipeline.name, "scores": scores}
    return Picture(draw_sheet(rows, "Face2Diffusion, in miniature", subtitle), parameters)


def _draw_all(
    pipeline: F2DPipeline, prompts: Sequence[str], states: Sequence[torch.Tensor], config: GenerationConfig, seed: int
) -> list[Photo]:
    images: list[Photo] = []
    for start in range(0, len(prompts), _BATCH):
        some = prompts[start : start + _BATCH]
        drawn = pipeline.draw(some, torch.cat(list(states[start : start + _BATCH])), [seed] * len(some), config, progress=False)
        images += [picture.image for picture in drawn]
    return images


def _arrange(
    images: Sequence[Photo], photos: dict[str, Photo], people: Sequence[str], reference: str, verifier: Verifier, attributes: Attributes
) -> list[list[Panel]]:
    """Set the pictures in rows, "a person" first, and have the judges score each."""
    seen = attributes.recognise(images)
    width = len(_ASKED)

    def text_score(facts: Facts, index: int) -> dict[str, float]:
        return {} if facts == Facts() else {"text": text_accuracy(facts, seen[index])}

    top = [Panel(images[i], describe(facts, CLASS_WORDS), text_score(facts, i)) for i, facts in enumerate(_ASKED)]
    blank = np.full_like(images[0], 246)
    rows = [[Panel(blank, "the same prompts\nwithout a face"), *top, Panel(photos[reference], "the expression of\nthe pictures below")]]
    for row, name in enumerate(people):
        first = width + row * (width + 1)
        features = verifier.embed([photos[name], *images[first : first + width + 1]])
        same = (features[1:] @ features[0]).clamp(min=0).tolist()
        panels = [Panel(photos[name], f"photo of {name}")]
        for index, facts in enumerate((*_ASKED, Facts())):
            text = describe(facts, "S*") + ("\nwith the reference" if index == width else "")
            panels.append(Panel(images[first + index], text, {"identity": same[index], **text_score(facts, first + index)}))
        rows.append(panels)
    return rows


def _couples(pairs: Sequence[Photo], photos: dict[str, Photo], couples: Sequence[tuple[str, str]], verifier: Verifier) -> list[Panel]:
    panels = []
    for image, (left, right) in zip(pairs, couples, strict=True):
        features = verifier.embed([photos[left], photos[right], *divide(image)])
        same = {name: max(float(features[i] @ features[i + 2]), 0) for i, name in enumerate(("left", "right"))}
        panels.append(Panel(image, f"{_TOGETHER}\n{left} and {right}", same))
    return panels
