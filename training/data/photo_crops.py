"""Crops of photos: what the frozen networks see, cut by worker processes ahead of time."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...f2d.face.cropping import LocatedFace, locate_face
from ...f2d.face.detection import Detector, NoFaceError, load_detector
from ...f2d.face.ffhq import align_ffhq_mask, resize_ffhq, resize_ffhq_mask
from ...f2d.image import Photo, load_photo
from ...f2d.options import FaceChoice
from ..config import PrepareConfig
from ..engine.sampling import start_worker
from .altered import Alteration
from .cache import Skipped

_PERSON = "person"  # COCO's name
_AHEAD = 4  # batches that are cut in advance, by all workers together


@dataclass(frozen=True, eq=False)
class Crops:
    """What the networks see of one photo; pairs are (the photo's, its mirror image's)."""

    image: Photo  # (S, S, 3)
    faces: tuple[Photo, Photo]  # (112, 112, 3)
    expressions: tuple[Photo, Photo] | None  # (224, 224, 3)
    region: np.ndarray | None  # (S, S) bool, what M must lie in; None = anywhere
    notes: dict[str, Any]  # for the cache


class Source(NamedTuple):
    """What is cut: a photo, or an altered copy of it."""

    name: str  # of the photo in the folder
    variant: int = 0  # number of the copy; 0 = the photo itself


class _UnusablePhoto(ValueError):
    """A photo that is skipped, and why."""

    def __init__(self, reason: str, message: object) -> None:
        super().__init__(str(message))
        self.reason = reason


class Cutter(Dataset):
    """The crops of photos and of their altered copies."""

    def __init__(self, config: PrepareConfig, face_size: int) -> None:
        """Take the settings.

        Args:
            config: of the run.
            face_size: of the identity encoder's crop, px.
        """
        self.config, self.face_size = config, face_size

    @cached_property
    def _detector(self) -> Detector | None:  # loaded by each worker process for itself
        return load_detector(self.config.detector) if self.config.detector else None

    def __getitem__(self, source: Source) -> Crops | Skipped:
        """Crop one photo, or return why it is skipped.

        Args:
            source: the photo, or which altered copy of it.

        Returns:
            Its crops.
        """
        alteration = Alteration.draw(*source) if source.variant else None
        try:
            return self._cut(Path(self.config.photos) / source.name, alteration)
        except _UnusablePhoto as error:
            return Skipped(source.name, error.reason, str(error))

    def _cut(self, path: Path, alteration: Alteration | None) -> Crops:
        try:
            photo = load_photo(path)
        except (ValueError, OSError) as error:
            raise _UnusablePhoto("unreadable", error) from error
        if alteration:
            photo = alteration.change_photo(photo)
        face = self._locate(photo)
        try:
            return self._crop(face, path, alteration)
        except _UnusablePhoto:
            raise
        except (ValueError, cv2.error) as error:
            raise _UnusablePhoto("cannot be aligned", error) from error

    def _locate(self, photo: Photo) -> LocatedFace:
        height, width = photo.shape[:2]
        if self.config.aligned and height != width:
            raise _UnusablePhoto(
                "not square",
                f"An FFHQ crop is square; this has {width}x{height} px. Leave --aligned out for photos.",
            )
        choice = FaceChoice(min_score=self.config.min_score)
        try:
            return locate_face(self._detector, photo, "detect" if self.config.detector else "FFHQ", choice)
        except NoFaceError as error:
            raise _UnusablePhoto("no face", error) from error

    def _crop(self, face: LocatedFace, path: Path, alteration: Alteration | None) -> Crops:
        both, size = (face, face.mirrored()), self.config.image_size
        faces = both[0].align_face(self.face_size), both[1].align_face(self.face_size)
        expressions = None
        if self.config.expression:
            expressions = both[0].align_expression(), both[1].align_expression()
        region = None
        if self.config.layout == "fastcomposer":
            person = self._person(path, face, alteration)
            region = (
                resize_ffhq_mask(person, size)
                if self.config.aligned
                else align_ffhq_mask(person, face.landmarks, size)
            )
        image = resize_ffhq(face.photo, size) if self.config.aligned else face.align_ffhq(size)
        notes: dict[str, Any] = {}
        if face.chosen is not None:
            notes = {"landmarks": face.landmarks.round(2).tolist(), "score": round(face.chosen.score, 4)}
        return Crops(image, faces, expressions, region, notes)

    def _person(self, path: Path, face: LocatedFace, alteration: Alteration | None) -> np.ndarray:
        """Find the person whose face it is in FastComposer's map: shape (H, W), bool."""
        try:
            segments = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["segments"]
            ids = [int(segment["id"]) for segment in segments if segment["coco_label"] == _PERSON]
            labels = np.load(path.with_suffix(".npy"), allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise _UnusablePhoto(
                "no segmentation map",
                f"'{path.stem}.npy' or '{path.stem}.json' beside the photo cannot be read ({error!r}).",
            ) from error
        if labels.shape != face.photo.shape[:2]:
            raise _UnusablePhoto(
                "no segmentation map",
                f"The map '{path.stem}.npy' has the shape {labels.shape}, its photo {face.photo.shape[:2]}.",
            )
        if alteration:
            labels = alteration.change_map(labels)
        x, y = np.rint(face.landmarks).astype(int).T
        x, y = x.clip(0, labels.shape[1] - 1), y.clip(0, labels.shape[0] - 1)
        hits = [int((labels[y, x] == number).sum()) for number in ids]
        if not any(hits):
            raise _UnusablePhoto("no identity region", f"'{path.stem}.npy' has no person where the face is.")
        return labels == ids[int(np.argmax(hits))]


def cut_ahead(
    cutter: Cutter, sources: Sequence[Source], config: PrepareConfig
) -> Generator[Crops | Skipped, None, None]:
    """Yield the crops of photos in order, while worker processes cut the next ones.

    Args:
        cutter: reads and cuts.
        sources: photos and copies.
        config: for the number of workers and the batch size.

    Yields:
        One photo's crops, or why it is skipped.
    """
    workers = min(config.workers, len(sources))
    ahead = max(2, _AHEAD * config.batch_size // workers) if workers else None
    yield from DataLoader(
        cutter,
        batch_size=None,
        sampler=sources,
        num_workers=workers,
        prefetch_factor=ahead,
        worker_init_fn=start_worker,
    )
