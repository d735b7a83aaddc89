"""Generates the images of a method into the layout; the same call resumes a killed run.

Each PNG is written atomically, with a record of its inputs: subject, weights, prompt, seed and settings. An
existing image with the same record is kept, a damaged one is generated again, and one with another record
stops the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ...f2d.diffusion.pipeline import F2DPipeline, GenerationConfig
from ...f2d.face.detection import NoFaceError
from ...f2d.image import save_png
from ...f2d.prompt.injection import PLACEHOLDER, replace_placeholders
from ..config import EvaluateConfig
from .protocol import BASE, BASE_SEED, RECORD, SEED_RULE, Inventory, Protocol, Slot
from .references import References
from .subjects import MissingSubjectError, load_subjects


class ImageGenerator:
    """Generates images of one person after another, with all settings that affect the images."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Load the networks.

        Args:
            config: of the evaluation.
            device: of the networks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not given or holds something else, or a setting is invalid.
        """
        if config.draw_batch < 1:
            raise ValueError(f"--draw-batch {config.draw_batch} is out of range. Use at least 1.")
        self.settings = GenerationConfig(
            steps=config.steps,
            cfg=config.cfg,
            width=config.size,
            height=config.size,
            subject_from=config.subject_from,
        )
        self.batch_size = config.draw_batch
        self.protocol = Protocol((), images_per_prompt=config.images_per_prompt, benchmark=config.benchmark)
        self.subjects = load_subjects(config, device)
        self.source = {
            **self.subjects.source,
            "sampler": "Euler ancestral",
            "seeds": SEED_RULE,
            **asdict(self.settings),
        }

    def prompt(self, slot: Slot) -> str:
        """Return an image's prompt, with the subject in it."""
        return replace_placeholders(self.protocol.prompt(slot), [PLACEHOLDER], self.subjects.name)

    def record(self, slot: Slot, references: References) -> str:
        """Describe the inputs and settings of an image, as JSON.

        Args:
            slot: of the image.
            references: the faces.

        Returns:
            The PNG's text entry RECORD.
        """
        own = self.subjects.record(slot.identity, references)
        head = {"prompt": self.prompt(slot), "seed": slot.noise_seed}
        return json.dumps({**head, **own, **self.source}, ensure_ascii=False)

    def generate(self, slots: Sequence[Slot], references: References, folder: Path) -> None:
        """Generate one batch of images of one person.

        The complete batch is generated even if only part of it is missing, since the last bits of an image
        may depend on the batch size.

        Args:
            slots: to write, of one group of `group_batches`.
            references: the faces.
            folder: of the images.

        Raises:
            NoFaceError: the detector finds no face in the person's crop.
            ValueError: the words or models are missing or damaged.
            OSError: an image cannot be written.
        """
        pipeline = self.subjects.select(slots[0].identity, references)
        prompt, first = slots[0].prompt, slots[0].seed // self.batch_size * self.batch_size
        last = BASE_SEED + 1 if prompt == BASE else self.protocol.images_per_prompt
        batch = [replace(slots[0], seed=seed) for seed in range(first, min(first + self.batch_size, last))]
        positive, delayed = self._encode(pipeline, slots[0])
        generated = pipeline.generate_encoded(
            [self.prompt(slots[0])] * len(batch),
            positive,
            [slot.noise_seed for slot in batch],
            self.settings,
            delayed,
            progress=False,
        )
        for slot in slots:
            result = generated[slot.seed - first]
            save_png(folder / slot.name, result.image, {**result.text, RECORD: self.record(slot, references)})

    def _encode(self, pipeline: F2DPipeline, slot: Slot) -> tuple[Tensor, Tensor | None]:
        """Encode a prompt with the subject, and for DSC with the class words; shape (1, 77, D)."""
        positive = pipeline.encode(self.prompt(slot))
        if not positive.isfinite().all():
            raise ValueError(
                f"The text encoding for '{slot.identity}' has NaN or infinity: the weights or the base model "
                "are damaged. Get both again."
            )
        if not self.settings.subject_from:
            return positive, None
        return positive, pipeline.encode(
            replace_placeholders(self.protocol.prompt(slot), [PLACEHOLDER], self.settings.class_words)
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
        Identities without images, and why: no face is found, or nothing was trained for them.
    """
    failed: dict[str, str] = {}
    with tqdm(total=sum(map(len, todo)), unit="image", desc=label, disable=not todo) as bar:
        for slots in todo:
            identity = slots[0].identity
            if identity not in failed:
                try:
                    generator.generate(slots, references, folder)
                except (NoFaceError, MissingSubjectError) as error:
                    failed[identity] = str(error)
            bar.update(len(slots))
    return failed


def describe_generator(generator: ImageGenerator, references: References) -> dict[str, Any]:
    """Return the manifest's entry `generation`: weights, settings, and the costs that are known."""
    return {**generator.source, **generator.subjects.measure_costs(references)}
