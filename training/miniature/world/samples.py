"""Drawings by number: each is made when it is asked for, and the same number always gives the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ....f2d.miniature.prompts import EXPRESSIONS, NEUTRAL, SceneAttributes
from ...engine.seeds import derive_seed
from .render import SIZE, Picture, draw
from .scene import Person, Scene, sample_facts, sample_pair, sample_person, sample_scene

# People are numbered; each stage of training has its own.
KNOWN = range(0, 1_000_000)  # whom the diffusion model and the mapper's photos know
ENROLLED = range(2_000_000, 2_000_600)  # whom the identity encoders are trained on
EVALUATED = range(3_000_000, 3_000_600)  # whom the judges are trained on
HELD_OUT = range(4_000_000, 4_000_100)  # whom nothing has seen


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture and everything that is true of it."""

    picture: Picture
    scene: Scene
    facts: SceneAttributes

    @property
    def people(self) -> list[Person]:
        """Who is in it, from left to right."""
        return [figure.person for figure in self.scene.figures]


def person(number: int) -> Person:
    """Find a person by number."""
    return sample_person(np.random.default_rng(derive_seed(1, number)))


def scene(
    number: int, who: int | None = None, facts: SceneAttributes | None = None, pair: bool = False
) -> tuple[Scene, SceneAttributes]:
    """Set a scene.

    Args:
        number: of the drawing.
        who: number of the person; None = one of KNOWN that follows from the drawing's number.
        facts: what is to be true; None = whatever.
        pair: put a second person beside.

    Returns:
        The scene, and what is true of it.
    """
    generator = np.random.default_rng(derive_seed(2, number))
    first, second = (int(n) for n in generator.integers(KNOWN.start, KNOWN.stop, 2))
    chosen = person(first if who is None else who)
    facts = facts or sample_facts(generator)
    return sample_pair(generator, (chosen, person(second)), facts) if pair else sample_scene(
        generator, chosen, facts
    ), facts


def balanced_facts(number: int) -> SceneAttributes:
    """Say what a drawing is to show, each expression as often as a face at rest."""
    generator = np.random.default_rng(derive_seed(8, number))
    return replace(sample_facts(generator), expression=str(generator.choice((NEUTRAL, *EXPRESSIONS))))


def drawing(
    number: int,
    who: int | None = None,
    facts: SceneAttributes | None = None,
    pair: bool = False,
    size: int = SIZE,
) -> Drawing:
    """Make a drawing; arguments as for `scene`, and the picture's height in px."""
    found, facts = scene(number, who, facts, pair)
    return Drawing(draw(found, size), found, facts)


def to_tensor(drawings: Sequence[Drawing]) -> Tensor:
    """Stack pictures: shape (B, 3, H, W), float32 in [-1, 1]."""
    images = np.stack([one.picture.image for one in drawings])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
