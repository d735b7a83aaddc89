"""Copying: how much of a photo besides the person is found in images whose prompt does not ask for it.

Pose, sweater, place and expression of a held-out photo are known and independent of the person in it. Images
of "a photo of S*" should show none of them. What they show is recognized by the attribute classifier (place,
expression) and by a probe of its features and of a few pixels (yaw, sweater).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ....f2d.image import Photo, to_signed
from ....f2d.miniature.evaluators import Attributes
from ....f2d.miniature.prompts import NEUTRAL, SceneAttributes, describe
from ....f2d.prompt.injection import PLACEHOLDER
from ..world.samples import EVALUATOR_PEOPLE, Sample
from .held_out_data import build_photo, render_everyday
from .measure import Models, PlannedImage, generate_images

_PROBE_SAMPLES = 70_000_000  # first sample number of the renderings that fit the probe
_PROBE_COUNT = 1_200
_PIXELS = 16  # side of the small image that the probe sees
_RIDGE = 30.0  # penalty, of standardized features
_SEED = 4_000_000  # of the images
_BATCH = 64  # images


@dataclass(frozen=True)
class Copying:
    """0 = nothing of the photo is copied, 1 = all."""

    yaw: float  # correlation over images of the photo's yaw and the image's
    sweater: float  # the same for the color of the sweater, as a point on the circle of hues
    place: float  # of the photos with a place, the share of images that show it
    expression: float  # the same for expressions

    def rows(self) -> Iterator[tuple[str, float]]:
        """Yield the name and value of each."""
        for entry in fields(self):
            yield entry.name, getattr(self, entry.name)


@dataclass(frozen=True)
class ShownScene:
    """What an image shows besides the person."""

    yaw: float  # degrees
    hue: tuple[float, float]  # cosine and sine of the sweater's
    attributes: SceneAttributes


class SceneProbe:
    """Reads yaw and the sweater's hue off images: a ridge regression, fitted on renderings."""

    def __init__(self, attributes: Attributes, count: int = _PROBE_COUNT) -> None:
        """Fit the probe.

        Args:
            attributes: whose features it sees.
            count: renderings to fit on, of the people in the evaluators' training data.
        """
        self.attributes = attributes
        numbers = range(_PROBE_SAMPLES, _PROBE_SAMPLES + count)
        samples = [
            render_everyday(number, EVALUATOR_PEOPLE[number % len(EVALUATOR_PEOPLE)]) for number in numbers
        ]
        inputs = self._features([sample.rendering.image for sample in samples])
        self.mean, self.scale = inputs.mean(0), inputs.std(0) + 1e-6
        inputs = (inputs - self.mean) / self.scale
        targets = torch.tensor([(shown.yaw, *shown.hue) for shown in map(read_scene, samples)])
        self.bias = targets.mean(0)
        penalty = _RIDGE * torch.eye(inputs.shape[1])
        self.weight = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (targets - self.bias))

    @torch.no_grad()
    def _features(self, photos: Sequence[Photo]) -> Tensor:
        """Compute the classifier's features and a small image of each photo: shape (B, F), on the CPU."""
        network, parts = self.attributes.network, []
        for start in range(0, len(photos), _BATCH):
            images = to_signed(photos[start : start + _BATCH]).to(next(network.parameters()).device)
            deep = network.forward_head(network.forward_features(images), pre_logits=True)
            small = torch.nn.functional.adaptive_avg_pool2d(images, _PIXELS)
            parts.append(torch.cat([deep.flatten(1), small.flatten(1)], dim=1).float().cpu())
        return torch.cat(parts)

    def read(self, photos: Sequence[Photo]) -> list[ShownScene]:
        """Read the scenes of B images of shape (128, 128, 3), uint8."""
        values = ((self._features(photos) - self.mean) / self.scale) @ self.weight + self.bias  # (B, 3)
        recognized = self.attributes.recognize(photos)
        return [
            ShownScene(yaw, (cosine, sine), attributes)
            for (yaw, cosine, sine), attributes in zip(values.tolist(), recognized, strict=True)
        ]


def read_scene(sample: Sample) -> ShownScene:
    """Look up what a rendering shows."""
    figure = sample.scene.figures[0]
    angle = 2 * np.pi * figure.sweater
    return ShownScene(figure.view.yaw, (float(np.cos(angle)), float(np.sin(angle))), sample.attributes)


def compare_scenes(photos: Sequence[ShownScene], images: Sequence[ShownScene]) -> Copying:
    """Compute how much of the photos' scenes the images show.

    Args:
        photos: N, the truth.
        images: N, of the same people, in the same order.

    Returns:
        The copying; NaN where no photo has a place or an expression.
    """
    cosine = _correlate(photos, images, lambda shown: shown.hue[0])
    sine = _correlate(photos, images, lambda shown: shown.hue[1])
    return Copying(
        yaw=_correlate(photos, images, lambda shown: shown.yaw),
        sweater=(cosine + sine) / 2,
        place=_share(photos, images, lambda shown: shown.attributes.place, ""),
        expression=_share(photos, images, lambda shown: shown.attributes.expression, NEUTRAL),
    )


def _correlate(
    photos: Sequence[ShownScene], images: Sequence[ShownScene], value: Callable[[ShownScene], float]
) -> float:
    first, second = ([value(shown) for shown in scenes] for scenes in (photos, images))
    return float(np.corrcoef(first, second)[0, 1])


def _share(
    photos: Sequence[ShownScene],
    images: Sequence[ShownScene],
    value: Callable[[ShownScene], str],
    nothing: str,
) -> float:
    same = [
        value(photo) == value(image)
        for photo, image in zip(photos, images, strict=True)
        if value(photo) != nothing
    ]
    return float(np.mean(same)) if same else float("nan")


def measure_copying(
    models: Models, probe: SceneProbe, people: int, photos: int, subject: str = PLACEHOLDER, bf16: bool = True
) -> Copying:
    """Generate "a photo of S*" from several photos of each held-out person, without an expression reference.

    An image's seed decides its pose, which agrees with some photos by chance. Compare with images of "a
    person", which have the same seeds.

    Args:
        models: that generate.
        probe: that reads the images.
        people: how many.
        photos: of each.
        subject: S*, or words that stand for anyone.
        bf16: autocast on a CPU.

    Returns:
        The copying over all photos.
    """
    samples = [build_photo(who, photo) for who in range(people) for photo in range(photos)]
    text, planned = describe(SceneAttributes(), subject), []
    for number, sample in enumerate(samples):
        if PLACEHOLDER in subject:
            models.set_subject(models.encoder.identify(sample.rendering.image, alignment="FFHQ"))
        states = models.pipeline.encode(text)
        seed, who = _SEED + number, number // photos
        planned.append(PlannedImage("plain", who, -1, seed, SceneAttributes(), text, states, None))
    images = [image for batch in generate_images(models, planned, bf16=bf16) for image in batch]
    return compare_scenes([read_scene(sample) for sample in samples], probe.read(images))
