"""The synthetic dataset by number: samples are rendered on demand, the same number always the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ....f2d.miniature.prompts import EXPRESSIONS, NEUTRAL, SceneAttributes
from ...engine.seeds import derive_seed
from .render import SIZE, Rendering, render
from .scene import Person, Scene, sample_attributes, sample_pair, sample_person, sample_scene

# Data splits: people are numbered, and each stage of training has its own.
DIFFUSION_PEOPLE = range(0, 1_000_000)  # for the diffusion model and the mapper
ENCODER_PEOPLE = range(2_000_000, 2_000_600)  # for the identity encoders
EVALUATOR_PEOPLE = range(3_000_000, 3_000_600)  # for the evaluators
HELD_OUT_PEOPLE = range(4_000_000, 4_000_100)  # for the held-out evaluation


@dataclass(frozen=True, eq=False)
class Sample:
    """A rendered scene with its ground truth."""

    rendering: Rendering
    scene: Scene
    attributes: SceneAttributes

    @property
    def people(self) -> list[Person]:
        """Who is in it, from left to right."""
        return [figure.person for figure in self.scene.figures]


def get_person(number: int) -> Person:
    """Look up a person by number."""
    return sample_person(np.random.default_rng(derive_seed(1, number)))


def build_scene(
    number: int, who: int | None = None, attributes: SceneAttributes | None = None, pair: bool = False
) -> tuple[Scene, SceneAttributes]:
    """Build a sample's scene without rendering it.

    Args:
        number: of the sample.
        who: number of the person; None = one of DIFFUSION_PEOPLE, chosen by the sample's number.
        attributes: what the scene shows; None = chosen by the sample's number.
        pair: add a second person.

    Returns:
        The scene and its attributes.
    """
    generator = np.random.default_rng(derive_seed(2, number))
    first, second = (int(n) for n in generator.integers(DIFFUSION_PEOPLE.start, DIFFUSION_PEOPLE.stop, 2))
    person = get_person(first if who is None else who)
    attributes = attributes or sample_attributes(generator)
    if pair:
        return sample_pair(generator, (person, get_person(second)), attributes), attributes
    return sample_scene(generator, person, attributes), attributes


def sample_balanced_attributes(number: int) -> SceneAttributes:
    """Sample attributes in which each expression is as frequent as a face at rest."""
    generator = np.random.default_rng(derive_seed(8, number))
    return replace(sample_attributes(generator), expression=str(generator.choice((NEUTRAL, *EXPRESSIONS))))


def render_sample(
    number: int,
    who: int | None = None,
    attributes: SceneAttributes | None = None,
    pair: bool = False,
    size: int = SIZE,
) -> Sample:
    """Render a sample; arguments as for `build_scene`, and the image's height in px."""
    scene, attributes = build_scene(number, who, attributes, pair)
    return Sample(render(scene, size), scene, attributes)


def to_tensor(samples: Sequence[Sample]) -> Tensor:
    """Stack the images: shape (B, 3, H, W), float32 in [-1, 1]."""
    images = np.stack([sample.rendering.image for sample in samples])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
