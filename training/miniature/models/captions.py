"""Captions of the synthetic dataset: true, but incomplete; people appear by name, namer tokens or looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....f2d.miniature.prompts import NEUTRAL, SceneAttributes, describe
from ....f2d.prompt.injection import CLASS_WORDS
from ...engine.seeds import derive_seed
from ..world.scene import FIRST_NAMES, LAST_NAMES, OPENINGS, Person, describe_looks

NAMES = tuple(f"{first} {LAST_NAMES[i % len(LAST_NAMES)]}" for i, first in enumerate(FIRST_NAMES))
NAMER_TOKENS = "s *"  # stands in a caption where the namer's two rows are inserted
_NAMED_SHARE = 0.08  # of the samples show someone with a name


@dataclass(frozen=True, eq=False)
class Caption:
    """A caption, and the people whom its namer tokens stand for."""

    text: str
    named: tuple[Person, ...] = ()


def find_name(number: int) -> int | None:
    """Look up the place in NAMES of the person in a sample; None = someone without a name."""
    draw = derive_seed(3, number) % 10_000
    return draw % len(NAMES) if draw < _NAMED_SHARE * 10_000 else None


def write_caption(
    generator: np.random.Generator, attributes: SceneAttributes, people: list[Person], name: str = ""
) -> Caption:
    """Write a caption that leaves some of the attributes out.

    Args:
        generator: source of randomness.
        attributes: of the scene.
        people: in the scene, from left to right.
        name: of the first person; "" = none.

    Returns:
        The caption; one in ten is empty, for classifier-free guidance.
    """
    if generator.random() < 0.1:
        return Caption("")
    subjects, named = [], []
    for index, person in enumerate(people):
        kind = _choose_subject(generator.random(), bool(name) and index == 0)
        if kind == "name":
            subjects.append(name)
        elif kind == "namer":
            subjects.append(NAMER_TOKENS)
            named.append(person)
        elif kind == "class":
            subjects.append(CLASS_WORDS)
        else:
            subjects.append(describe_looks(person, generator))
    mentioned = SceneAttributes(
        attributes.expression if generator.random() < 0.85 else NEUTRAL,
        attributes.job if generator.random() < 0.85 else "",
        attributes.place if generator.random() < 0.85 else "",
    )
    text = describe(mentioned, " and ".join(subjects), str(generator.choice(OPENINGS)))
    return Caption(text, tuple(named))


def _choose_subject(chance: float, has_name: bool) -> Literal["name", "namer", "class", "looks"]:
    if has_name:
        return "name" if chance < 0.7 else "namer"
    return "namer" if chance < 0.55 else "class" if chance < 0.8 else "looks"
