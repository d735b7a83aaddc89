"""The variants that are compared, the score of one image, and the files that keep what was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....f2d.files import write_text


@dataclass(frozen=True)
class Variant:
    """A row of the tables."""

    name: str
    preset: str
    subject_from: float = 0.0  # DSC (Sec. E.2)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("cgdr", "cgdr"),
        Variant("reconstruction", "reconstruction"),
        Variant("masked", "masked"),
        Variant("reconstruction-dsc", "reconstruction", 0.2),
        Variant("no-expression", "no-expression"),
        Variant("arcface", "arcface"),
        Variant("arcface-msf", "arcface-msf"),
    )
}


@dataclass(frozen=True)
class Score:
    """One image's scores.

    `task` says what the image is: "plain" is a photo of S*, "prompt" one of PROMPTS, "class" the same prompt
    with "a person", "best" further seeds of a prompt, "reference" a photo of S* with an expression reference.
    """

    task: str
    who: int  # place among the held-out people
    prompt: int  # place in PROMPTS; for "reference" in EXPRESSIONS; -1 for "plain"
    seed: int
    cosines: tuple[float, ...]  # with the photo of each person
    text: float  # share of the requested attributes that show; for "reference" whether the expression matches
    expression: bool  # whether the face has the requested expression, which is at rest if none is requested

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Score:
        """Read a score from parsed JSON."""
        return cls(**{**entry, "cosines": tuple(entry["cosines"])})

    @property
    def identity(self) -> float:
        """Cosine with the person's photo, clipped at 0 as in the paper's identity metrics."""
        return max(self.cosines[self.who], 0.0)

    @property
    def hmean(self) -> float:
        """Harmonic mean of identity and text; 0 if one of them is 0."""
        if not self.identity or not self.text:
            return 0.0
        return 2 * self.identity * self.text / (self.identity + self.text)

    @property
    def gmean(self) -> float:
        """Geometric mean of identity and text."""
        return math.sqrt(self.identity * self.text)


def measure_once(
    file: Path, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Read what an earlier call measured with the same settings, or measure and write it.

    Args:
        file: JSON.
        settings: all that the values depend on.
        measure: gives the values, by name.

    Returns:
        The values, as JSON keeps them.
    """
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if content.get("asked") != settings:
        text = json.dumps({"asked": settings, **measure()})
        write_text(file, text)
        content = json.loads(text)
    return content
