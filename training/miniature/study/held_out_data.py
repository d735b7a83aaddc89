"""The held-out people, one photo of each, and prompts that no training has used."""

from __future__ import annotations

from dataclasses import replace

from ....f2d.image import Photo
from ....f2d.miniature.prompts import SceneAttributes, describe
from ..world.samples import HELD_OUT_PEOPLE, Sample, build_scene, render_sample

OPENING = (
    "a close portrait of"  # of every prompt: its words are in the captions, but no caption starts with it
)
_SEEN_IN_TUNING = 40  # of HELD_OUT_PEOPLE: the recipe was tuned with them, so they come last
TUNING_PLACES = range(len(HELD_OUT_PEOPLE) - _SEEN_IN_TUNING, len(HELD_OUT_PEOPLE))  # of these people
_PHOTO_SAMPLES = 60_000_000  # first sample number of the photos
_NEXT_PHOTO = 1_000  # samples from a person's photo to their next one


def held_out_person(place: int) -> int:
    """Return the number of a held-out person by place, from 0."""
    return HELD_OUT_PEOPLE[(_SEEN_IN_TUNING + place) % len(HELD_OUT_PEOPLE)]


def render_everyday(number: int, who: int) -> Sample:
    """Render a person in a sample's random scene, without a job: in a sweater, without a hat."""
    _, attributes = build_scene(number, who)
    return render_sample(number, who, replace(attributes, job=""))


def build_photo(place: int, photo: int = 0) -> Sample:
    """Render a held-out person's photo, with the truth about its scene."""
    return render_everyday(_PHOTO_SAMPLES + _NEXT_PHOTO * photo + place, held_out_person(place))


def render_photo(place: int, photo: int = 0) -> Photo:
    """Render a held-out person's photo: shape (128, 128, 3), uint8."""
    return build_photo(place, photo).rendering.image


def write_prompt(attributes: SceneAttributes, subject: str = "S*") -> str:
    """Write a prompt for given attributes that starts with OPENING."""
    return describe(attributes, subject, OPENING)
