"""The synthetic dataset as folders of photos, which `f2d-train` reads.

MSID is trained on class folders, the mapper on photos without captions and with region maps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ....f2d.face.ffhq import crop_ffhq
from ....f2d.image import Photo
from ....f2d.miniature.prompts import SceneAttributes
from ...config import IDENTITY_CLASSES
from ...data.parsing import CELEBAMASK_LABELS
from ...engine.seeds import derive_seed
from .samples import DIFFUSION_PEOPLE, render_sample
from .scene import sample_attributes

FACE_SIZE = 112  # px
_HAT_SHARE = 0.3  # share of the photos that may show a job
_COMPLETE = "done"  # name of the empty file that marks a complete folder
_REGION = tuple(CELEBAMASK_LABELS.index(name) for name in IDENTITY_CLASSES)
_CLASS_SAMPLES, _PHOTO_SAMPLES = 20_000_000, 30_000_000  # first sample numbers


def crop_aligned(photo: Photo) -> Photo:
    """Crop the face out of an image that is framed like FFHQ, as the encoder does: shape (112, 112, 3)."""
    return crop_ffhq(photo, FACE_SIZE)


def _sample_photo_attributes(number: int) -> SceneAttributes:
    """Sample attributes of a photo; most people wear no hat in photos."""
    generator = np.random.default_rng(derive_seed(7, number))
    attributes = sample_attributes(generator)
    return attributes if generator.random() < _HAT_SHARE else replace(attributes, job="")


def write_class_folders(folder: str | os.PathLike, people: Iterable[int], images: int) -> Path:
    """Write aligned faces, one folder per person; a complete folder is kept.

    Args:
        folder: where to.
        people: numbers of `samples`.
        images: per person.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if not (folder / _COMPLETE).exists():
        for who in tqdm(list(people), desc=folder.name, unit="person"):
            (folder / str(who)).mkdir(parents=True, exist_ok=True)
            for index in range(images):
                photo = render_sample(_CLASS_SAMPLES + who * 1000 + index, who).rendering.image
                file = folder / str(who) / f"{index:03d}.png"
                Image.fromarray(crop_aligned(photo)).save(file, compress_level=1)
        (folder / _COMPLETE).touch()
    return folder


def _choose_person(place: int) -> int:
    """Choose the number of a person with several photos."""
    people = DIFFUSION_PEOPLE
    return int(np.random.default_rng(derive_seed(9, place)).integers(people.start, people.stop))


def write_photos(folder: str | os.PathLike, count: int, first: int = 0, per_person: int = 1) -> Path:
    """Write photos with region maps in the layout of FastComposer's FFHQ.

    Args:
        folder: where to.
        count: of photos.
        first: number of the first; other numbers are other photos.
        per_person: photos of each person; above 1 they are in a folder per person.

    Returns:
        The folder, for `f2d-train prepare --layout fastcomposer --aligned`.
    """
    folder = Path(folder)
    if not (folder / _COMPLETE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number in tqdm(range(first, first + count), desc=folder.name, unit="photo"):
            person, attributes = number // per_person, _sample_photo_attributes(number)
            who = None if per_person == 1 else _choose_person(person)
            sample = render_sample(_PHOTO_SAMPLES + number, who, attributes)
            stem = (folder if who is None else folder / f"{person:06d}") / f"{number:06d}"
            stem.parent.mkdir(exist_ok=True)
            Image.fromarray(sample.rendering.image).save(stem.with_suffix(".png"), compress_level=1)
            np.save(stem.with_suffix(".npy"), np.isin(sample.rendering.labels, _REGION).astype(np.uint8))
            segments = {"segments": [{"id": 1, "coco_label": "person"}]}
            stem.with_suffix(".json").write_text(json.dumps(segments))
        (folder / _COMPLETE).touch()
    return folder
