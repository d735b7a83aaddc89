"""Loads the evaluators of `f2d-train evaluate` from their published weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

from ...f2d.face.detection import load_detector
from ...f2d.files import fingerprint, hash_file
from ...f2d.networks.recognition import load_recognizer
from .scoring import Evaluator, Scorer
from .text import load_text_evaluator


def load_scorer(
    adaface: str | os.PathLike | None = None,
    sphereface: str | os.PathLike | None = None,
    facenet: str | os.PathLike | None = None,
    clip: str | os.PathLike | None = None,
    siglip: str | os.PathLike | None = None,
    detector: str | os.PathLike | None = None,
    device: str = "",
    batch_size: int = 64,
    cache: str | os.PathLike | None = None,
    min_score: float = 0.6,
) -> Scorer:
    """Load the evaluators whose weights are given.

    Args:
        adaface: IR-50 or IR-101 `.ckpt`.
        sphereface: `sphere20a_20171020.pth`.
        facenet: `20180402-114759-vggface2.pt`.
        clip: folder of a CLIPModel of transformers, such as laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
        siglip: folder of a SiglipModel of transformers.
        detector: a YuNet .onnx file, or "FAN"; needed by the first three.
        device: "" = the best there is.
        batch_size: images at once.
        cache: an SQLite file for the embeddings, created if missing; None = in memory.
        min_score: lowest score of the detector at which a face counts, in [0, 1].

    Returns:
        The scorer.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: no weights, those of another model, identity metrics without a detector, or FaceNet with
            FAN.
    """
    _check_box(facenet, detector)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    evaluators = [
        _load_face_evaluator(path, name, device)
        for name, path in (("AdaFace", adaface), ("SphereFace", sphereface), ("FaceNet", facenet))
        if path
    ]
    evaluators += [
        _load_text_evaluator(folder, name, device)
        for name, folder in (("CLIP", clip), ("SigLIP", siglip))
        if folder
    ]
    if not detector:
        return Scorer(evaluators, None, "", batch_size, cache, min_score)
    source = Path(detector).name
    if os.path.isfile(detector):
        source += f", SHA-256 {hash_file(detector)}"
    return Scorer(evaluators, load_detector(detector, device), source, batch_size, cache, min_score)


def _check_box(facenet: str | os.PathLike | None, detector: str | os.PathLike | None) -> None:
    if facenet and detector and os.fspath(detector) == "FAN":
        raise ValueError(
            "FaceNet needs the detector's box, but FAN returns landmarks only. "
            "Set --detector to a YuNet .onnx file, or omit --facenet."
        )


def _load_face_evaluator(path: str | os.PathLike, name: str, device: str) -> Evaluator:
    network = load_recognizer(path, name).to(device)
    digest = hash_file(path)
    aligned = "" if name == "FaceNet" else ", aligned from template to photo"
    return Evaluator(network, f"{Path(path).name}, {network.variant}{aligned}, SHA-256 {digest}", digest)


def _load_text_evaluator(folder: str | os.PathLike, name: str, device: str) -> Evaluator:
    network = load_text_evaluator(folder, name)
    weights = fingerprint(network.model.state_dict())
    network.model.to(device)
    settings = json.dumps(network.processor.to_dict(), sort_keys=True, default=str)
    key = hashlib.sha256(f"{weights} {settings}".encode()).hexdigest()
    source = f"{Path(folder).resolve().name}, SHA-256 of its tensors {weights}"
    if name == "SigLIP":
        source += f", temperature {network.scale:.4g}, bias {network.bias:.4g}"
    return Evaluator(network, source, key)
