"""Scores images with the miniature's evaluators: who is in an image, and what it shows of the prompt.

It stands in for `scoring.Scorer` on the benchmark "miniature". Its networks are small, so nothing is cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ...f2d.face.detection import Face
from ...f2d.files import hash_file
from ...f2d.image import Photo, load_photo
from ...f2d.miniature import WEIGHTS, load_evaluators
from ...f2d.miniature.prompts import PROMPTS, describe, text_accuracy
from ...f2d.prompt.injection import CLASS_WORDS
from .benchmarks import MINIATURE
from .metrics import identity_score
from .scoring import Request, Score

_SIDE = 128  # px, of the evaluators' input


class MiniatureScorer:
    """The miniature's two evaluators."""

    metrics = MINIATURE.metrics

    def __init__(self, device: str, batch_size: int) -> None:
        """Load the evaluators from the package.

        Args:
            device: where they run.
            batch_size: images at once.
        """
        self._verifier, self._attributes = load_evaluators()
        self._batch_size = batch_size
        self._scenes = {describe(scene, CLASS_WORDS): scene for scene in PROMPTS}
        self.description = {
            name: f"the miniature's {file}, SHA-256 {hash_file(WEIGHTS / file)}"
            for name, file in (("identity", "verifier.safetensors"), ("text", "attributes.safetensors"))
        }
        self.to(device)

    def to(self, device: str) -> None:
        """Move the evaluators to a device."""
        self._verifier.to(device)
        self._attributes.to(device)

    def check_references(
        self, references: Sequence[str], faces: Mapping[str, Face], progress: bool = True
    ) -> None:
        """Check the portraits' size; arguments as for `Scorer.check_references`.

        Raises:
            ValueError: a portrait has another size, or is damaged.
        """
        for path in references:
            _load(path)

    def score(self, requests: Sequence[Request], progress: bool = True) -> list[Score]:
        """Score images.

        Args:
            requests: the images, with prompts of the miniature.
            progress: show a progress bar.

        Returns:
            The scores of each request: the cosine with the portrait, at least 0 (Eq. 10), and the share of
            what the prompt asks for that the image shows.

        Raises:
            ValueError: an image has another size, or is damaged.
        """
        paths = dict.fromkeys(request.reference for request in requests)
        portraits = dict(zip(paths, self._embed([_load(path) for path in paths]), strict=True))
        starts = range(0, len(requests), self._batch_size)
        scores: list[Score] = []
        for start in tqdm(starts, desc="images", unit="batch", disable=not progress):
            batch = requests[start : start + self._batch_size]
            scores += self._score_batch(batch, portraits)
        return scores

    def _score_batch(self, requests: Sequence[Request], portraits: Mapping[str, Tensor]) -> list[Score]:
        images = [_load(request.image) for request in requests]
        references = torch.stack([portraits[request.reference] for request in requests])
        identity = identity_score(references, self._embed(images)).tolist()
        recognized = self._attributes.recognize(images)
        return [
            Score({"identity": cosine, "text": text_accuracy(self._scenes[request.prompt], scene)})
            for request, cosine, scene in zip(requests, identity, recognized, strict=True)
        ]

    def _embed(self, images: Sequence[Photo]) -> Tensor:
        return self._verifier.embed(images).double().cpu() if images else torch.empty(0, 1)


def _load(path: str) -> Photo:
    image = load_photo(path)
    if image.shape[:2] != (_SIDE, _SIDE):
        raise ValueError(
            f"'{path}' has {image.shape[1]}x{image.shape[0]} px, but the miniature's evaluators need "
            f"{_SIDE}x{_SIDE} px. Use --size {_SIDE}."
        )
    return image
