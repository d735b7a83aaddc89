"""Generates the images of a method of this project into the layout; the same call resumes a killed run.

Each PNG is written atomically, with a record of its inputs: face, weights, prompt, seed and settings. An
existing image with the same record is kept, a damaged one is generated again, and one with another record
stops the run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
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
from .protocol import BASE, BASE_SEED, RECORD, SEED_RULE, Inventory, Slot
from .references import References

_WARM_UP, _TIMED = 3, 20  # runs of the encoder


class ImageGenerator:
    """Identity encoder, mapper and pipeline, with all settings that affect the images."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Load the networks.

        Args:
            config: of the evaluation, with base, msid and mapper.
            device: of the networks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not given or holds something else, or a setting is invalid.
        """
        for name in ("msid", "mapper"):
            if not getattr(config, name):
                raise ValueError(f"--base needs --{name}. Set it, or omit --base to score existing images.")
        if config.draw_batch < 1:
            raise ValueError(f"--draw-batch {config.draw_batch} is out of range. Use at least 1.")
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
        self._subject = ""  # hash of the face that S* stands for
        self.source = {
            "base": self.pipeline.name,
            "base_sha256": _pipeline_fingerprint(self.pipeline),
            "msid_sha256": self.encoder.msid_fingerprint,
            "mapper_sha256": fingerprint(self.encoder.mapper.state_dict()),
            "detector": _name_detector(config),  # "" = the crop's place in FFHQ's square
            "sampler": "Euler ancestral",
            "seeds": SEED_RULE,
            **asdict(self.settings),
        }

    @property
    def parameters(self) -> int:
        """Number of trained parameters (Table 2)."""
        return sum(parameter.numel() for parameter in self.encoder.mapper.parameters())

    def record(self, slot: Slot, face_hash: str) -> str:
        """Describe the inputs and settings of an image, as JSON.

        Args:
            slot: of the image.
            face_hash: of the face's pixels.

        Returns:
            The PNG's text entry RECORD.
        """
        return json.dumps(
            {"prompt": slot.text, "seed": slot.noise_seed, "face_sha256": face_hash, **self.source},
            ensure_ascii=False,
        )

    def set_subject(self, face: str, face_hash: str, located: Face | None = None) -> None:
        """Make S* stand for a face in the next images; encodes it unless it is the current one.

        Args:
            face: file of its FFHQ crop.
            face_hash: of its pixels.
            located: the face in it; None = detect it.

        Raises:
            ValueError: the detector finds no face in it.
        """
        if face_hash == self._subject:
            return
        words = self.encoder.words(self.encoder.identify_crops([self._crop(load_photo(face), located)]))
        self.pipeline.subjects.clear()
        self.pipeline.add_subject(words, positional=self.encoder.mapper.config.positional)
        self._subject = face_hash

    def _crop(self, face: Photo, located: Face | None = None) -> Photo:
        alignment: Alignment = "FFHQ" if self.encoder.detector is None else "detect"
        landmarks = None if located is None else located.landmarks
        choice = FaceChoice(min_score=self.min_score, landmarks=landmarks)
        return self.encoder.crop_face(face, alignment, choice).crop

    def generate(self, slots: Sequence[Slot], face_hash: str, folder: Path) -> None:
        """Generate one batch of images of the current subject.

        The complete batch is generated even if only part of it is missing, since the last bits of an image
        may depend on the batch size.

        Args:
            slots: to write, of one group of `group_batches`.
            face_hash: of the face's pixels.
            folder: of the images.

        Raises:
            ValueError: the words are damaged.
            OSError: an image cannot be written.
        """
        prompt, first = slots[0].prompt, slots[0].seed // self.batch_size * self.batch_size
        last = BASE_SEED + 1 if prompt == BASE else self.images_per_prompt
        batch = [replace(slots[0], seed=seed) for seed in range(first, min(first + self.batch_size, last))]
        seeds = [slot.noise_seed for slot in batch]
        generated = self.pipeline.generate(slots[0].text, self.settings, seeds, len(batch), len(batch), False)
        for slot in slots:
            result = generated[slot.seed - first]
            save_png(folder / slot.name, result.image, {**result.text, RECORD: self.record(slot, face_hash)})

    def encoding_seconds(self, face: str, located: Face | None = None) -> float:
        """Measure the time from an aligned face to S* (Table 2), in identity encoder and mapper.

        Args:
            face: file of an FFHQ crop.
            located: the face in it; None = detect it.

        Returns:
            Seconds, the median of 20 runs.
        """
        crop = self._crop(load_photo(face), located)
        seconds = []
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            # Returns CPU tensors, so the GPU has finished.
            self.encoder.words(self.encoder.identify_crops([crop]))
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


def list_missing(inventory: Inventory, records: Mapping[Slot, str], folder: Path) -> list[Slot]:
    """List the images that are still to be generated.

    Args:
        inventory: of the folder.
        records: the expected record of each existing image.
        folder: of the images, for the message.

    Returns:
        The missing and the damaged ones, in order.

    Raises:
        ValueError: an existing image has another record.
    """
    foreign = sorted(slot for slot, record in inventory.present.items() if record != records[slot])
    if foreign:
        raise ValueError(
            f"'{folder}' holds {len(foreign)} image(s) of another run (first: {foreign[0].name}: "
            f"{_difference(inventory.present[foreign[0]], records[foreign[0]])}). Use another --images, or "
            "omit --base to score them."
        )
    return sorted([*inventory.missing, *inventory.broken])


def _difference(found: str, expected: str) -> str:
    try:
        before, now = json.loads(found), json.loads(expected)
        return ", ".join(
            f"{key} {before.get(key)!r}, not {now[key]!r}" for key in now if before.get(key) != now[key]
        )
    except (ValueError, AttributeError):
        return "without a record"


def group_batches(slots: Sequence[Slot], batch_size: int) -> list[list[Slot]]:
    """Group images into batches of one identity and prompt, with the seeds 0 to n - 1, n to 2n - 1, ...

    Args:
        slots: sorted.
        batch_size: n.

    Returns:
        Groups of at least one image.
    """
    return [
        list(group)
        for _, group in groupby(slots, key=lambda slot: (slot.identity, slot.prompt, slot.seed // batch_size))
    ]


def generate_images(
    generator: ImageGenerator,
    todo: Sequence[Sequence[Slot]],
    references: References,
    folder: Path,
    label: str = "generate",
) -> dict[str, str]:
    """Generate images.

    Args:
        generator: with the networks.
        todo: batches of `group_batches`.
        references: the faces.
        folder: of the images.
        label: of the progress bar.

    Returns:
        Identities in whose crop the detector finds no face, and why.
    """
    failed: dict[str, str] = {}
    with tqdm(total=sum(map(len, todo)), unit="image", desc=label, disable=not todo) as bar:
        for slots in todo:
            identity = slots[0].identity
            if identity not in failed:
                try:
                    face, located = references.crops[identity], references.faces.get(identity)
                    generator.set_subject(face, references.hashes[identity], located)
                    generator.generate(slots, references.hashes[identity], folder)
                except NoFaceError as error:
                    failed[identity] = str(error)
            bar.update(len(slots))
    return failed


def describe_generator(generator: ImageGenerator, face: str, located: Face | None = None) -> dict[str, Any]:
    """Return the manifest's entry `generation`: weights, settings, parameters and encoding time."""
    return {
        **generator.source,
        "parameters": generator.parameters,
        "encoding_seconds": generator.encoding_seconds(face, located),
    }
