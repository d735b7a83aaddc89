"""The results of one method: a JSON file with every image's scores, from which reports are made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...f2d.files import write_text
from .benchmarks import LOCATIONS, PAPER
from .metrics import geometric_mean, harmonic_mean
from .protocol import Protocol, Slot

_DETAILS = ("config", "machine", "generation", "fid")
FORMAT = "face2diffusion evaluation 1"
HMEAN, GMEAN = "hMean", "gMean"
_FACE = "face"  # entry of an image: whether the detector found a face
_DIGITS = 7  # significant, of a score; float32 has no more


@dataclass(frozen=True, eq=False)
class Results:
    """The measurements of one method."""

    method: str
    protocol: Protocol
    metrics: tuple[str, ...]  # those that were computed, in the benchmark's order
    scorer: dict[str, str]  # the evaluators and their weights
    faces: dict[str, str]  # SHA-256 of each identity's face
    images: tuple[tuple[Slot, dict[str, float]], ...]  # the scored ones, in order
    gaps: dict[str, Any]  # missing, broken, unexpected and skipped, see `Inventory` and `References`
    costs: dict[str, float] = field(default_factory=dict)  # of Table 2: parameters, encoding_seconds, fid
    # "images", and each identity's face as "face:NAME"; relative to the JSON's folder
    folders: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)  # see _DETAILS
    # images in which the detector found no face; None = not recorded, as in older files
    without_face: frozenset[Slot] | None = None
    path: str = ""  # of the JSON, if it was read

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all scores of the benchmark: its metrics, hMean and gMean."""
        return (*self.protocol.rules.metrics, HMEAN, GMEAN)

    def column(self, name: str) -> np.ndarray:
        """Return one score of all images.

        Args:
            name: a metric, or hMean or gMean, which need all metrics of the benchmark.

        Returns:
            shape (P,), float64; NaN where an image has no such score.
        """
        if name in (HMEAN, GMEAN):
            metrics = self.protocol.rules.metrics
            table = torch.from_numpy(
                np.stack([self.column(metric) for metric in metrics], axis=1).reshape(-1, len(metrics))
            )
            complete = table.isfinite().all(1)
            means = torch.full((len(table),), math.nan, dtype=torch.float64)
            if complete.any():
                means[complete] = (harmonic_mean if name == HMEAN else geometric_mean)(table[complete])
            return means.numpy()
        return np.array([scores.get(name, math.nan) for _, scores in self.images], np.float64)

    @property
    def of_paper(self) -> bool:
        """Whether the benchmark is the paper's, so that published rows can stand beside the results."""
        return self.protocol.rules is PAPER

    @property
    def identities(self) -> np.ndarray:
        """Each image's identity, (P,)."""
        return np.array([slot.identity for slot, _ in self.images], dtype=str)

    @property
    def prompts(self) -> np.ndarray:
        """Each image's prompt, (P,)."""
        return np.array([slot.prompt for slot, _ in self.images], np.int64)

    @property
    def faceless(self) -> np.ndarray | None:
        """Whether the detector found no face in each image, (P,) bool; None if not recorded."""
        if self.without_face is None:
            return None
        return np.array([slot in self.without_face for slot, _ in self.images], bool)

    @property
    def at_locations(self) -> np.ndarray:
        """Whether each image's prompt names a famous location (Sec. 5), (P,) bool."""
        return np.isin(self.prompts, list(LOCATIONS))

    def differs_from(self, other: Results) -> list[str]:
        """List what prevents ranking the scores of two methods together; empty if nothing does."""
        return [
            what
            for what, own, others in (
                ("benchmark", self.protocol.benchmark, other.protocol.benchmark),
                ("evaluators", self.scorer, other.scorer),
                ("metrics", self.metrics, other.metrics),
                ("faces", self.faces, other.faces),
                ("prompts", self.protocol.prompts, other.protocol.prompts),
                ("image size", self.protocol.size, other.protocol.size),
            )
            if own != others
        ]

    def save(self, path: str | os.PathLike) -> None:
        """Write the JSON atomically, with one line per image.

        Args:
            path: the file.

        Raises:
            OSError: it cannot be written.
        """
        head = {
            "format": FORMAT,
            "method": self.method,
            "protocol": asdict(self.protocol),
            "scorer": {"metrics": list(self.metrics), "description": self.scorer},
            "faces": self.faces,
            "costs": self.costs,
            "folders": self.folders,
            **self.details,
            **self.gaps,
        }
        rows = [
            json.dumps(
                {
                    "picture": slot.name,
                    **{name: float(f"{score:.{_DIGITS}g}") for name, score in scores.items()},
                    **({} if self.without_face is None else {_FACE: slot not in self.without_face}),
                },
                ensure_ascii=False,
            )
            for slot, scores in self.images
        ]
        text = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
        write_text(path, text + ',\n  "pictures": [\n    ' + ",\n    ".join(rows) + "\n  ]\n}\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Results:
        """Read the JSON.

        Args:
            path: the file.

        Returns:
            The results.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"There are no results at '{path}'. Check the path, or run `f2d-train evaluate` first."
            )
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"'{path}' is truncated or not JSON ({error}). Run `f2d-train evaluate` again."
            ) from error
        kind = content.get("format") if isinstance(content, dict) else None
        if kind != FORMAT:
            raise ValueError(
                f"'{path}' has the format {kind!r}, not '{FORMAT}'. Choose a file of `f2d-train evaluate`."
            )
        try:
            return cls._parse(content, os.fspath(path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"'{path}' was edited or is damaged ({error!r}). Run `f2d-train evaluate` again."
            ) from error

    @classmethod
    def _parse(cls, content: dict[str, Any], path: str) -> Results:
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["protocol"].items()
        }
        protocol = Protocol(**settings)
        images = [_parse_row(row, protocol.rules.metrics) for row in content["pictures"]]
        slots = {slot for slot, _ in images}
        if len(slots) < len(images):
            raise ValueError("an image is listed twice")
        faces = {row["picture"]: row[_FACE] for row in content["pictures"] if _FACE in row}
        gaps = {key: content[key] for key in ("missing", "broken", "unexpected", "skipped")}
        return cls(
            method=str(content["method"]),
            protocol=protocol,
            metrics=tuple(content["scorer"]["metrics"]),
            scorer=dict(content["scorer"]["description"]),
            faces=dict(content["faces"]),
            images=tuple(images),
            gaps=gaps,
            costs=dict(content["costs"]),
            folders=dict(content["folders"]),
            details={key: content[key] for key in _DETAILS if key in content},
            without_face=frozenset(slot for slot in slots if not faces[slot.name]) if faces else None,
            path=path,
        )


def _parse_row(row: dict[str, Any], metrics: Sequence[str]) -> tuple[Slot, dict[str, float]]:
    slot = Slot.parse(row["picture"])
    if slot is None:
        raise ValueError(f"'{row['picture']}' is not a path of the layout")
    scores = {name: float(score) for name, score in row.items() if name not in ("picture", _FACE)}
    wrong = [name for name, score in scores.items() if name not in metrics or not -1e-6 <= score <= 1 + 1e-6]
    if wrong:
        raise ValueError(f"{row['picture']} has {wrong[0]} {scores[wrong[0]]}, not a score in [0, 1]")
    return slot, scores


def check_comparable(results: Sequence[Results]) -> list[str]:
    """Check whether methods can be ranked together.

    Args:
        results: of the methods.

    Returns:
        A line per method that differs from the first; empty if all can be ranked.
    """
    first, *others = results
    differences = {other.method: first.differs_from(other) for other in others}
    return [
        f"{method} was scored with other {', '.join(what)} than {first.method}."
        for method, what in differences.items()
        if what
    ]
