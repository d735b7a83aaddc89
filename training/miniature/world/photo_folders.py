"""Drawings as folders of photos, which the project's own commands take: class folders for MSID, captionless photos with maps for the mapper."""

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
from .samples import drawing
from .scene import sample_facts

FACE_SIZE = 112  # px
_HATS = 0.3  # share of the photos that may show a job
_DONE = "done"  # a file that says that a folder is whole
_REGION = tuple(CELEBAMASK_LABELS.index(name) for name in IDENTITY_CLASSES)
_ENROLLED_FROM, _PHOTOS_FROM = 20_000_000, 30_000_000  # numbers of the drawings


def portrait(photo: Photo) -> Photo:
    """Cut the face out of a drawing as the encoder does with pictures that are aligned the FFHQ way: shape (112, 112, 3)."""
    return crop_ffhq(photo, FACE_SIZE)


def _facts(number: int) -> SceneAttributes:
    """What a photo shows; most people wear no hat when they are photographed."""
    generator = np.random.default_rng(derive_seed(7, number))
    facts = sample_facts(generator)
    return facts if generator.random() < _HATS else replace(facts, job="")


def write_class_folders(folder: str | os.PathLike, people: Iterable[int], pictures: int) -> Path:
    """Write aligned faces, one folder a person; a folder that is whole stays.

    Args:
        folder: where to.
        people: numbers of `album`.
        pictures: of each person.

    Returns:
        The folder.
    """
    folder = Path(folder)
    if not (folder / _DONE).exists():
        for who in tqdm(list(people), desc=folder.name, unit="person"):
            (folder / str(who)).mkdir(parents=True, exist_ok=True)
            for index in range(pictures):
                face = portrait(drawing(_ENROLLED_FROM + who * 1000 + index, who).picture.image)
                Image.fromarray(face).save(folder / str(who) / f"{index:03d}.png", compress_level=1)
        (folder / _DONE).touch()
    return folder


def write_photos(folder: str | os.PathLike, count: int, first: int = 0) -> Path:
    """Write photos, each of another person, with their identity regions as FastComposer's edition of FFHQ has its persons.

    Args:
        folder: where to.
        count: of photos.
        first: number of the first; other photos are of other people.

    Returns:
        The folder, for `f2d-train prepare --layout fastcomposer --aligned`.
    """
    folder = Path(folder)
    if not (folder / _DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number in tqdm(range(first, first + count), desc=folder.name, unit="photo"):
            picture, name = drawing(_PHOTOS_FROM + number, facts=_facts(number)).picture, f"{number:06d}"
            Image.fromarray(picture.image).save(folder / f"{name}.png", compress_level=1)
            np.save(folder / f"{name}.npy", np.isin(picture.labels, _REGION).astype(np.uint8))
            (folder / f"{name}.json").write_text(
                json.dumps({"segments": [{"id": 1, "coco_label": "person"}]})
            )
        (folder / _DONE).touch()
    return folder
