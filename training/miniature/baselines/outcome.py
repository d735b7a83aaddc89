"""What one method did for one person: a JSON file and, beside it, the images that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..study.scores import Score


@dataclass(frozen=True)
class Outcome:
    """One method, seed and person."""

    scores: list[Score]
    parameters: int  # trained for this person alone; of the mapper where nothing is trained for a person
    steps: int
    seconds: float  # of processor time, without generation

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome:
        """Read an outcome's fields from parsed JSON, which may hold others too."""
        scores = [Score.from_json(entry) for entry in content["scores"]]
        return cls(scores, content["parameters"], content["steps"], content["seconds"])


def image_path(file: Path, prompt: int) -> Path:
    """Return the file of a shown image: of an outcome's file and a place in PROMPTS."""
    return file.with_name(f"{file.stem}-{prompt}.png")
