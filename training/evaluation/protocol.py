"""The paper's protocol: which images a method generates, and the layout of their folder (Sec. 4.2, Table 7).

images/
  alice/            identity: the stem of the face's file
    0/              prompt_index: the prompt's place in Table 7, counted from 0
      0.png         the place k among the images of one prompt: 0, 1, 2, 3
    base/
      0.png         the image of "A photo of S*", y_r of dCLIP

The paper names no seed. `Slot.noise_seed` gives each image its own, the same for every method. The layout is
the same for every method; `scan` finds what is present, missing, broken and unexpected.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...f2d.files import write_json
from ..data.photo_files import split_files
from .benchmarks import BASE_PROMPT, BENCHMARKS, LOCATIONS, PAPER, PROMPTS, Benchmark

__all__ = [
    "BASE",
    "BASE_PROMPT",
    "BASE_SEED",
    "LOCATIONS",
    "MANIFEST",
    "PROMPTS",
    "RECORD",
    "SEED_RULE",
    "Inventory",
    "Protocol",
    "Slot",
    "check_not_empty",
    "divide",
    "scan",
    "write_manifest",
]

BASE = -1  # its `Slot.prompt`
BASE_SEED = 0
RECORD = "evaluation"  # PNG text entry: the inputs and settings of an image, as JSON
MANIFEST = "manifest.json"
SEED_RULE = "SHA-256 of the path"  # see Slot.noise_seed; older folders used the file's number
_LAYOUT = "identity/prompt_index/seed.png"
_NAME = re.compile(r"(?P<identity>[^/]+)/(?:(?P<prompt>0|[1-9]\d*)|base)/(?P<seed>0|[1-9]\d*)\.png")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_READERS = 8  # threads


@dataclass(frozen=True, order=True)
class Slot:
    """One image's place in the layout."""

    identity: str
    prompt: int  # place in the benchmark's prompts, or BASE
    seed: int

    @property
    def name(self) -> str:
        """Path within the folder of images, with '/'."""
        return f"{self.identity}/{'base' if self.prompt == BASE else self.prompt}/{self.seed}.png"

    @property
    def noise_seed(self) -> int:
        """Seed of the initial noise, in [0, 2^32): the first four bytes of `name`'s SHA-256, big-endian."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")

    @classmethod
    def parse(cls, name: str) -> Slot | None:
        """Parse a path within the folder of images; None if it is outside the layout."""
        match = _NAME.fullmatch(name)
        if not match or match["prompt"] and int(match["prompt"]) >= len(PROMPTS):
            return None
        return cls(match["identity"], int(match["prompt"] or BASE), int(match["seed"]))


@dataclass(frozen=True)
class Protocol:
    """The images of an evaluation."""

    identities: tuple[str, ...]
    prompts: tuple[int, ...] = tuple(range(len(PROMPTS)))
    images_per_prompt: int = 4  # "we generate four images for each {image, prompt} set" (Sec. 4.2)
    size: int = 512  # px
    benchmark: str = PAPER.name  # key of BENCHMARKS

    def __post_init__(self) -> None:
        """Check prompts and number of images."""
        wrong = [prompt for prompt in self.prompts if not 0 <= prompt < len(self.rules.prompts)]
        if wrong or not self.prompts or len(set(self.prompts)) < len(self.prompts):
            raise ValueError(
                f"The prompts {list(self.prompts)} are invalid. Use places in Table 7 from 0 to "
                f"{len(PROMPTS) - 1}, each once."
            )
        if self.images_per_prompt < 1:
            raise ValueError(
                f"{self.images_per_prompt} images per prompt cannot be evaluated. Use at least 1; the paper "
                "has 4."
            )

    @property
    def rules(self) -> Benchmark:
        """The benchmark: prompts and metrics."""
        return BENCHMARKS[self.benchmark]

    def prompt(self, slot: Slot) -> str:
        """Return an image's prompt, with S* in it."""
        return self.rules.base_prompt if slot.prompt == BASE else self.rules.prompts[slot.prompt]

    def slots(self) -> Iterator[Slot]:
        """Yield all images that are scored, in order."""
        for identity in self.identities:
            for prompt in self.prompts:
                yield from (Slot(identity, prompt, seed) for seed in range(self.images_per_prompt))

    def base_slots(self) -> Iterator[Slot]:
        """Yield the images of "A photo of S*", if the benchmark has any."""
        if self.rules.base_prompt:
            yield from (Slot(identity, BASE, BASE_SEED) for identity in self.identities)


@dataclass(frozen=True)
class Inventory:
    """The images of a protocol that a folder holds."""

    present: dict[Slot, str]  # intact images of the right size, with their RECORD, "" if they have none
    broken: dict[Slot, str]  # images that cannot be used, and why
    missing: tuple[Slot, ...]  # in the protocol's order, base images last
    unexpected: tuple[str, ...]  # images outside the protocol

    def describe(self) -> dict[str, Any]:
        """Return the gaps, for JSON."""
        return {
            "missing": [slot.name for slot in self.missing],
            "broken": {slot.name: why for slot, why in sorted(self.broken.items())},
            "unexpected": list(self.unexpected),
        }


def scan(folder: str | os.PathLike, protocol: Protocol) -> Inventory:
    """Read every image in a folder of the layout completely, to detect truncated ones.

    Args:
        folder: of the images.
        protocol: the expected images.

    Returns:
        What the folder holds.
    """
    folder = Path(folder)
    paths, _ = split_files(folder, _IMAGE_SUFFIXES)
    expected = [*protocol.slots(), *protocol.base_slots()]
    slots = {slot.name: slot for slot in expected}
    existing = sorted(slots[name] for name in paths if name in slots)
    with ThreadPoolExecutor(_READERS) as pool:
        inspections = pool.map(lambda slot: _inspect(folder / slot.name, protocol.size), existing)
        inspected = dict(zip(existing, inspections, strict=True))
    return Inventory(
        {slot: record for slot, (record, why) in inspected.items() if not why},
        {slot: why for slot, (_, why) in inspected.items() if why},
        tuple(slot for slot in expected if slot not in inspected),
        tuple(sorted(name for name in paths if name not in slots)),
    )


def _inspect(path: Path, size: int) -> tuple[str, str]:
    """Check an image; returns its record and what is wrong with it, "" if nothing is.

    The chunks of a PNG have checksums, so its pixels are decoded only once, by the scorer.
    """
    try:
        with Image.open(path) as image:
            record = str(image.info.get(RECORD, ""))
            if image.size != (size, size):
                return "", f"{image.width}x{image.height} px, not {size}x{size} px"
            if image.format == "PNG":
                image.verify()
            else:
                image.load()
            return record, ""
    except Exception as error:  # a damaged file may raise anything, by its format
        return "", f"damaged ({type(error).__name__})"


def check_not_empty(inventory: Inventory, folder: str | os.PathLike) -> None:
    """Check that a folder holds an image to score.

    Args:
        inventory: of the folder.
        folder: for the message.

    Raises:
        ValueError: it holds none; the message describes what it holds instead.
    """
    if any(slot.prompt != BASE for slot in inventory.present):
        return
    if inventory.broken:
        slot, why = next(iter(sorted(inventory.broken.items())))
        instead = f", but {len(inventory.broken)} broken one(s) (first: {slot.name}: {why})"
    elif inventory.unexpected:
        instead = f", but {len(inventory.unexpected)} other image(s) (first: {inventory.unexpected[0]})"
    else:
        instead = ""
    raise ValueError(
        f"'{folder}' holds no image to score{instead}. Name images {_LAYOUT}, with the stems of the faces' "
        "files and places in Table 7, or set --base, --msid and --mapper to generate them."
    )


def write_manifest(
    folder: str | os.PathLike, method: str, protocol: Protocol, inventory: Inventory, **details: Any
) -> Path:
    """Write `manifest.json` into a folder of images: what is present and what is missing.

    Args:
        folder: of the images.
        method: its name.
        protocol: the expected images.
        inventory: of the folder.
        **details: more entries.

    Returns:
        The file.
    """
    path = Path(folder) / MANIFEST
    content = {
        "method": method,
        "layout": _LAYOUT,
        "protocol": asdict(protocol),
        "expected": sum(1 for _ in protocol.slots()) + sum(1 for _ in protocol.base_slots()),
        "present": len(inventory.present),
        **inventory.describe(),
        **details,
    }
    write_json(path, content, ensure_ascii=False)
    return path


def divide(items: Sequence[Any], rank: int, world: int) -> Sequence[Any]:
    """Return a process's part: contiguous, and parts differ by one item at most."""
    return items[rank * len(items) // world : (rank + 1) * len(items) // world]
