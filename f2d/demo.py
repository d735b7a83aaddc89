"""The whole method without any download: people of the miniature, whom nothing has seen in training, in scenes that a prompt asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from . import miniature
from .image import Photo, load_photo
from .miniature.prompts import LOCATIONS, Facts, describe, text_accuracy
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
_CLASS = "a person"
_BATCH = 16  # pictures
_CELL, _GAP, _LINE, _HEAD = 152, 12, 16, 56  # px of the sheet
_INK, _GREY = (34, 34, 40), (112, 112, 120)


@dataclass(frozen=True, eq=False)
class _Cell:
    """One picture of the sheet, what was asked for, and what the judges say of it."""

    image: Photo  # (128, 128 or 192, 3)
    prompt: str  # or what else is to be said in the first two lines
    who: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    note: str = ""  # the second line, where the prompt leaves it free

    @property
    def lines(self) -> tuple[str, str, str]:
        """The lines under the picture."""
        first, second = _lines(self.prompt)
        return first, second or self.note, "   ".join(f"{name} {value:.2f}" for name, value in self.scores.items())


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

    single = [describe(facts, _CLASS) for facts in _ASKED]
    states = [encode(prompt) for prompt in single]
    for name in people:
        single += [*(describe(facts, "S*") for facts in _ASKED), describe(Facts(), "S*")]
        states += [*(encode(describe(facts, "S*"), name) for facts in _ASKED), encode(describe(Facts(), "S*"), name, referred=True)]
    say(f"Drawing {len(single)} pictures of {SETTINGS.width} px, {SETTINGS.steps} steps each")
    images = _draw_all(pipeline, single, states, SETTINGS, seed)
    couples = [(one, people[(index + 1) % _PEOPLE]) for index, one in enumerate(people)]
    together = "a photo of S1* and S2*"
    pairs = _draw_all(pipeline, [together] * _PEOPLE, [encode(together, *couple) for couple in couples], WIDE, seed)
    rows = [*_arrange(images, photos, people, reference), _couples(pairs, photos, couples)]
    scores = [{"prompt": cell.prompt, "who": cell.who, **cell.scores} for row in rows for cell in row if cell.scores]
    return Picture(_sheet(rows), {"prompt": describe(Facts(), "S*"), "seed": seed, "model": pipeline.name, "scores": scores})


def _draw_all(
    pipeline: F2DPipeline, prompts: Sequence[str], states: Sequence[torch.Tensor], config: GenerationConfig, seed: int
) -> list[Photo]:
    images: list[Photo] = []
    for start in range(0, len(prompts), _BATCH):
        some = prompts[start : start + _BATCH]
        drawn = pipeline.draw(some, torch.cat(list(states[start : start + _BATCH])), [seed] * len(some), config, progress=False)
        images += [picture.image for picture in drawn]
    return images


def _arrange(images: Sequence[Photo], photos: dict[str, Photo], people: Sequence[str], reference: str) -> list[list[_Cell]]:
    """Set the pictures in rows, "a person" first, and have the judges score each."""
    verifier, attributes = miniature.load_judges()
    seen = attributes.recognise(images)
    width = len(_ASKED)

    def text_score(facts: Facts, index: int) -> dict[str, float]:
        return {} if facts == Facts() else {"text": text_accuracy(facts, seen[index])}

    top = [_Cell(images[i], describe(facts, _CLASS), scores=text_score(facts, i)) for i, facts in enumerate(_ASKED)]
    blank = np.full_like(images[0], 246)
    rows = [[_Cell(blank, "the same prompts without a face"), *top, _Cell(photos[reference], "the expression of the pictures below")]]
    for row, name in enumerate(people):
        first = width + row * (width + 1)
        features = verifier.embed([photos[name], *images[first : first + width + 1]])
        same = (features[1:] @ features[0]).clamp(min=0).tolist()
        cells = [_Cell(photos[name], f"photo of {name}")]
        for index, facts in enumerate((*_ASKED, Facts())):
            scores = {"identity": same[index], **text_score(facts, first + index)}
            note = "with the reference" if index == width else ""
            cells.append(_Cell(images[first + index], describe(facts, "S*"), name, scores, note))
        rows.append(cells)
    return rows


def _couples(pairs: Sequence[Photo], photos: dict[str, Photo], couples: Sequence[tuple[str, str]]) -> list[_Cell]:
    verifier, _ = miniature.load_judges()
    cells = []
    for image, (left, right) in zip(pairs, couples, strict=True):
        features = verifier.embed([photos[left], photos[right], image[:, : miniature.SIZE], image[:, -miniature.SIZE :]])
        same = {name: max(float(features[i] @ features[i + 2]), 0) for i, name in enumerate(("left", "right"))}
        cells.append(_Cell(image, "a photo of S1* and S2*", f"{left}, {right}", same, f"{left} and {right}"))
    return cells


def _lines(text: str, width: int = 26) -> tuple[str, str]:
    """Break a caption in two."""
    if len(text) <= width:
        return text, ""
    cut = text.rfind(" ", 0, width + 1)
    return text[:cut], text[cut + 1 :]


def _sheet(rows: Sequence[Sequence[_Cell]]) -> Photo:
    """Set labelled pictures in rows: shape (H, W, 3), uint8."""
    scale = _CELL / miniature.SIZE
    height = _CELL + 3 * _LINE + _GAP
    width = max(sum(round(cell.image.shape[1] * scale) + _GAP for cell in row) for row in rows) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + height * len(rows) + _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, 10), "Face2Diffusion, in miniature", _INK, _font(19))
    pen.text((_GAP, 34), "One photo of a person whom nothing has seen in training -> two words S* -> any prompt", _GREY, _font(12))
    for number, row in enumerate(rows):
        x, y = _GAP, _HEAD + number * height
        for cell in row:
            size = round(cell.image.shape[1] * scale), _CELL
            sheet.paste(Image.fromarray(cell.image).resize(size, Image.Resampling.BICUBIC), (x, y))
            for line, text in enumerate(cell.lines):
                pen.text((x, y + _CELL + 2 + line * _LINE), text, _GREY if line == 2 else _INK, _font(11))
            x += size[0] + _GAP
    return np.asarray(sheet)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()
