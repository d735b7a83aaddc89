"""Scores of generated pictures: batched, each picture embedded once, remembered by content, so that a run goes on after a kill.

    scorer = load_scorer(adaface="adaface_ir101.ckpt", clip="CLIP-ViT-H-14", detector="yunet.onnx", cache="scores.sqlite")
    scorer.metrics                     ("AdaFace", "CLIP", "dCLIP"): those that the given weights allow, in the order of METRICS
    scorer.description                 {"AdaFace": "...", "CLIP": "...", "detector": "..."}: what made the scores
    scorer.score([Request(...), ...])  [{"AdaFace": 0.31, "CLIP": 0.25, "dCLIP": 0.2}, ...], one dict a request, in order

A picture without a face has 0.0 in all identity metrics. Everything else that is missing or damaged is an error that names the file;
what was embedded before it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

IDENTITY_METRICS = ("AdaFace", "SphereFace", "FaceNet")
TEXT_METRICS = ("CLIP", "dCLIP", "SigLIP")
METRICS = IDENTITY_METRICS + TEXT_METRICS


@dataclass(frozen=True)
class Request:
    """One generated picture to score."""

    image: str  # path of the generated picture y
    reference: str  # path of the identity's photo x
    prompt: str  # p, with class words in place of the placeholder: "A photo of a person as a chef"
    base: str = ""  # path of y_r: the picture of "A photo of S*" with the same identity (for dCLIP only)
    base_prompt: str = "A photo of a person"  # p_r


class Scorer:
    """Judges, and the cache of what they have seen."""

    metrics: tuple[str, ...]
    description: dict[str, str]

    def __init__(self, judges: Sequence[Any], detector: Any = None, batch_size: int = 64, cache: str | PathLike | None = None) -> None:
        """Take the judges."""
        raise NotImplementedError

    def score(self, requests: Sequence[Request], progress: bool = True) -> list[dict[str, float]]:
        """Score pictures."""
        raise NotImplementedError


def load_scorer(
    adaface: str | PathLike | None = None,
    sphereface: str | PathLike | None = None,
    facenet: str | PathLike | None = None,
    clip: str | PathLike | None = None,
    siglip: str | PathLike | None = None,
    detector: str | PathLike | None = None,
    device: str = "",
    batch_size: int = 64,
    cache: str | PathLike | None = None,
) -> Scorer:
    """Load the judges whose weights are named.

    Args:
        adaface: IR-50 or IR-101 `.ckpt`.
        sphereface: `sphere20a_20171020.pth`.
        facenet: `20180402-114759-vggface2.pt`.
        clip: folder of a CLIPModel of transformers, such as laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
        siglip: folder of a SiglipModel of transformers.
        detector: a YuNet .onnx file, or "FAN"; needed by the first three.
        device: "" = the best there is.
        batch_size: pictures at once.
        cache: an SQLite file for the embeddings; it is made. None = nothing is remembered.

    Returns:
        The scorer.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: no weights at all, those of another model, or face metrics without a detector.
    """
    raise NotImplementedError
