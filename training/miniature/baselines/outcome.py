"""What one method did for one person: a JSON file and, beside it, the images that the page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ....f2d.files import write_text
from ..study.scores import Score


@dataclass(frozen=True)
class Outcome:
    """One method, seed and person."""

    scores: list[Score]
    parameters: int  # trained for this person alone; of the mapper where nothing is trained for a person
    steps: int
    seconds: float  # of processor time, without generation


def read_outcome(file: Path, asked: Mapping[str, Any]) -> Outcome | None:
    """Read an outcome; None if there is none with these settings."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if content.get("asked") != asked:
        return None
    scores = [Score(**{**entry, "cosines": tuple(entry["cosines"])}) for entry in content["scores"]]
    return Outcome(scores, content["parameters"], content["steps"], content["seconds"])


def write_outcome(file: Path, asked: Mapping[str, Any], outcome: Outcome) -> None:
    """Write an outcome with its settings, atomically."""
    write_text(file, json.dumps({"asked": asked, **asdict(outcome)}))


def image_path(file: Path, prompt: int) -> Path:
    """Return the file of a shown image: of an outcome's file and a place in PROMPTS."""
    return file.with_name(f"{file.stem}-{prompt}.png")
