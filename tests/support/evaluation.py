"""A small evaluation: made-up faces, a Stable Diffusion of random weights, and a scorer without weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from face2diffusion.f2d.image import save_png
from face2diffusion.training.evaluation.scoring import Score
from PIL import Image
from support.identities import draw
from support.official import write_mapper, write_msid

SIZE = 64  # px, of the images
METRICS = ("AdaFace", "SphereFace", "FaceNet", "CLIP", "dCLIP", "SigLIP")


class HashScorer:
    """Scores in [0, 1] that depend on pixels and texts alone."""

    metrics = METRICS
    description = {"all": "SHA-256 of pixels and texts"}

    def check_references(self, references: Sequence[str], faces: Any, progress: bool = True) -> None:
        """Every face is usable."""

    def to(self, device: str) -> None:
        """There is no network to move."""

    def score(self, requests: Sequence[Any], progress: bool = True) -> list[Score]:
        found = []
        for request in requests:
            pixels = [
                np.asarray(Image.open(path)).tobytes()
                for path in (request.image, request.reference, request.base)
            ]
            seen = hashlib.sha256(b"".join(pixels) + request.prompt.encode() + request.base_prompt.encode())
            scores = {name: seen.digest()[place] / 255 for place, name in enumerate(METRICS)}
            found.append(Score(scores, face=True))
        return found


def load_hash_scorer(**weights: Any) -> HashScorer:
    return HashScorer()


def write_faces(folder: Path, names: Sequence[str] = ("alice", "bob")) -> Path:
    """Write squares in place of FFHQ crops."""
    for place, name in enumerate(names):
        save_png(
            folder / f"{name}.png", cv2.resize(draw(place, 0), (128, 128), interpolation=cv2.INTER_CUBIC)
        )
    return folder


def write_models(folder: Path) -> dict[str, str]:
    """Write a small msid.pt, its mapping.pt and Stable Diffusion; returns options of EvaluateConfig."""
    from support.random_pipeline import random_pipeline

    folder.mkdir(parents=True, exist_ok=True)
    write_msid(folder / "msid.pt", seed=4, patch_size=16, width=64, depth=4, layers=(0, 1, 2, 3))
    write_mapper(folder / "mapping.pt", seed=5, id_dim=256, hidden_dim=128)
    random_pipeline().diffusion.save_pretrained(folder / "sd")
    return {"base": str(folder / "sd"), "msid": str(folder / "msid.pt"), "mapper": str(folder / "mapping.pt")}


def evaluate(settings: dict[str, Any]) -> tuple[Path, list[str]]:
    """Run `f2d-train evaluate` with HashScorer; returns the results' path and the log."""
    from face2diffusion.training.config import EvaluateConfig
    from face2diffusion.training.evaluation import evaluate as module

    logged: list[str] = []
    with mock.patch.object(module, "load_scorer", load_hash_scorer):
        return module.evaluate(EvaluateConfig(**settings), logged.append), logged
