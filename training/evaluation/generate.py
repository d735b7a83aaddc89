"""Draws a method of this project into the layout, picture by picture, so that a run which was killed goes on.

Each PNG is written whole or not at all, and holds what it was made from: face, weights, prompt, seed and settings. A picture that is
there with the same record stays; a damaged one is drawn again; one with another record belongs to another run and stops this one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...f2d.diffusion.pipeline import F2DPipeline, GenerationConfig
from ...f2d.encoder import FaceEncoder
from ...f2d.face.detection import Face, NoFaceError
from ...f2d.files import fingerprint
from ...f2d.image import Photo, load_photo, save_png
from ...f2d.options import Alignment, FaceChoice
from ..config import EvaluateConfig
from .protocol import BASE, BASE_SEED, RECORD, Inventory, Slot
from .references import References

_WARM_UP, _TIMED = 3, 20  # runs of the encoder


class ImageGenerator:
    """The networks that draw, and all that decides what their pictures look like."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Load the networks.

        Args:
            config: of the evaluation; names base, msid and mapper.
            device: where they run.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not named or holds something else, or a setting makes no sense.
        """
        for name in ("msid", "mapper"):
            if not getattr(config, name):
                raise ValueError(
                    f"Expected --{name} with --base, got none. Name the file, or leave --base out to score what is there."
                )
        if config.draw_batch < 1:
            raise ValueError(f"Expected --draw-batch of at least 1, got {config.draw_batch}.")
        self.settings = GenerationConfig(
            steps=config.steps,
            cfg=config.cfg,
            width=config.size,
            height=config.size,
            subject_from=config.subject_from,
        )
        self.batch_size, self.images_per_prompt = config.draw_batch, config.images_per_prompt
        self.encoder = FaceEncoder.load(config.msid, config.mapper, None, config.detector or None, device)
        self.min_score = config.min_score
        self.pipeline = F2DPipeline.load(config.base, device, config.base_config or None)
        self._met = ""
        self.source = {
            "base": self.pipeline.name,
            "base_sha256": _pipeline_fingerprint(self.pipeline),
            "msid_sha256": self.encoder.msid_fingerprint,
            "mapper_sha256": fingerprint(self.encoder.mapper.state_dict()),
            "detector": _name_detector(config),  # "" = the crop's place in FFHQ's square
            "sampler": "Euler ancestral",
            **asdict(self.settings),
        }

    @property
    def parameters(self) -> int:
        """How many parameters are trained (Table 2)."""
        return sum(parameter.numel() for parameter in self.encoder.mapper.parameters())

    def record(self, slot: Slot, face_hash: str) -> str:
        """Tell what a picture is made from, as JSON.

        Args:
            slot: of the picture.
            face_hash: of the face's pixels.

        Returns:
            The PNG's entry `evaluation`.
        """
        return json.dumps(
            {"prompt": slot.text, "seed": slot.seed, "face_sha256": face_hash, **self.source},
            ensure_ascii=False,
        )

    def meet(self, face: str, face_hash: str, located: Face | None = None) -> None:
        """Encode a face, once; what is drawn next shows it.

        Args:
            face: file of its FFHQ crop.
            face_hash: of its pixels.
            located: where the face lies in it; None = it is looked for.

        Raises:
            ValueError: the detector finds no face in it.
        """
        if face_hash == self._met:
            return
        words = self.encoder.words(self.encoder.identify_crops([self._crop(load_photo(face), located)]))
        self.pipeline.subjects.clear()
        self.pipeline.add_subject(words, positional=self.encoder.mapper.config.positional)
        self._met = face_hash

    def _crop(self, face: Photo, located: Face | None = None) -> Photo:
        alignment: Alignment = "FFHQ" if self.encoder.detector is None else "detect"
        landmarks = None if located is None else located.landmarks
        choice = FaceChoice(min_score=self.min_score, landmarks=landmarks)
        return self.encoder.crop_face(face, alignment, choice).crop

    def draw(self, slots: Sequence[Slot], face_hash: str, folder: Path) -> None:
        """Draw pictures of one batch of the face that was met last.

        The whole batch is drawn even if some of it is there: a picture's last bits may depend on how many are drawn at once.

        Args:
            slots: of one identity and prompt, and one batch of `batches`; these are written.
            face_hash: of the face's pixels.
            folder: of the images.

        Raises:
            ValueError: the words are damaged.
            OSError: a picture cannot be written.
        """
        prompt, first = slots[0].prompt, slots[0].seed // self.batch_size * self.batch_size
        last = BASE_SEED + 1 if prompt == BASE else self.images_per_prompt
        count = min(self.batch_size, last - first)
        pictures = self.pipeline.generate(slots[0].text, self.settings, first, count, count, progress=False)
        for slot in slots:
            picture = pictures[slot.seed - first]
            save_png(
                folder / slot.name, picture.image, {**picture.text, RECORD: self.record(slot, face_hash)}
            )

    def encoding_seconds(self, face: str, located: Face | None = None) -> float:
        """Measure how long an aligned face takes to become S* (Table 2): identity encoder and mapper, the median of some runs.

        Args:
            face: file of an FFHQ crop.
            located: where the face lies in it; None = it is looked for.

        Returns:
            Seconds.
        """
        crop = self._crop(load_photo(face), located)
        seconds = []
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            self.encoder.words(
                self.encoder.identify_crops([crop])
            )  # the words come back to the CPU, so the GPU has finished
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[_WARM_UP:]))


def _name_detector(config: EvaluateConfig) -> str:
    name = Path(config.detector).name
    return name if config.aligned or not name else f"{name} in the photo"


def _pipeline_fingerprint(pipeline: F2DPipeline) -> str:
    parts = {name: getattr(pipeline.diffusion, name).state_dict() for name in ("text_encoder", "unet", "vae")}
    return fingerprint(
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    )


def plan(inventory: Inventory, records: Mapping[Slot, str], folder: Path) -> list[Slot]:
    """Find out what is still to be drawn.

    Args:
        inventory: what is there.
        records: what each picture has to be made from.
        folder: of the images, for the message.

    Returns:
        The missing and the damaged ones, in order.

    Raises:
        ValueError: a picture of another run is there.
    """
    foreign = sorted(slot for slot, record in inventory.present.items() if record != records[slot])
    if foreign:
        raise ValueError(
            f"Expected pictures of this run in '{folder}', got {len(foreign)} of another (the first: {foreign[0].name}: "
            f"{_difference(inventory.present[foreign[0]], records[foreign[0]])}). Use another --images, or leave --base out to score them."
        )
    return sorted([*inventory.missing, *inventory.broken])


def _difference(got: str, wanted: str) -> str:
    try:
        before, now = json.loads(got), json.loads(wanted)
        return ", ".join(
            f"{key} {before.get(key)!r}, not {now[key]!r}" for key in now if before.get(key) != now[key]
        )
    except (ValueError, AttributeError):
        return "it does not say how it was made"


def batches(slots: Sequence[Slot], batch_size: int) -> list[list[Slot]]:
    """Group pictures that are drawn at once: of one identity and prompt, with the seeds 0 to n - 1, n to 2n - 1, ...

    Args:
        slots: sorted.
        batch_size: n.

    Returns:
        Groups of at least one picture.
    """
    return [
        list(group)
        for _, group in groupby(slots, key=lambda slot: (slot.identity, slot.prompt, slot.seed // batch_size))
    ]


def generate(
    painter: ImageGenerator,
    todo: Sequence[Sequence[Slot]],
    references: References,
    folder: Path,
    label: str = "draw",
) -> dict[str, str]:
    """Draw pictures.

    Args:
        painter: draws them.
        todo: which, in batches.
        references: the faces.
        folder: of the images.
        label: of the progress bar.

    Returns:
        Identities without a face that the detector finds, and why.
    """
    failed: dict[str, str] = {}
    with tqdm(total=sum(map(len, todo)), unit="picture", desc=label, disable=not todo) as bar:
        for slots in todo:
            identity = slots[0].identity
            if identity not in failed:
                try:
                    face, face_hash = references.crops[identity], references.hashes[identity]
                    painter.meet(face, face_hash, references.faces.get(identity))
                    painter.draw(slots, references.hashes[identity], folder)
                except NoFaceError as error:
                    failed[identity] = str(error)
            bar.update(len(slots))
    return failed


def describe(painter: ImageGenerator, face: str, located: Face | None = None) -> dict[str, Any]:
    """Tell what the manifest says of the painter: what it is made of, its parameters, and its time for one face."""
    return {
        **painter.source,
        "parameters": painter.parameters,
        "encoding_seconds": painter.encoding_seconds(face, located),
    }
