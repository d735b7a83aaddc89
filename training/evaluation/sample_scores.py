"""Scores of the sample sheets that `f2d-train mapper` generates while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ...f2d.image import Photo, save_png
from ...f2d.prompt.injection import PLACEHOLDER, replace_placeholders
from ..config import MapperTrainingConfig
from .load_scorer import load_scorer
from .scoring import Request, Scorer


class SampleScorer:
    """Evaluators that wait on the CPU between the sheets, so that training has the device's memory."""

    def __init__(self, scorer: Scorer, device: str) -> None:
        """Take evaluators.

        Args:
            scorer: on the CPU.
            device: where they run.
        """
        self._scorer, self._device = scorer, device

    def __call__(
        self, photos: Sequence[Photo], images: Sequence[Photo], prompts: Sequence[str]
    ) -> dict[str, float]:
        """Score images of people.

        Args:
            photos: B, each (H, W, 3), uint8: the person of each image.
            images: B.
            prompts: B, with S*. dCLIP compares with the same person's image of the first one.

        Returns:
            The mean of each metric, in [0, 1].

        Raises:
            ValueError: no face is found in a photo, or weights are damaged.
        """
        with TemporaryDirectory() as folder:
            requests = _write_requests(Path(folder), photos, images, prompts)
            self._scorer.to(self._device)
            try:
                scores = self._scorer.score(requests, progress=False)
            finally:
                self._scorer.to("cpu")
        return {name: float(np.mean([one.metrics[name] for one in scores])) for name in self._scorer.metrics}


def load_sample_scorer(config: MapperTrainingConfig, device: str) -> SampleScorer | None:
    """Load the evaluators that a run names; None if it names none or generates no sheets.

    Args:
        config: of the run.
        device: where they run.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file holds something else, or identity metrics without a detector.
    """
    names = ("adaface", "sphereface", "facenet", "clip", "siglip")
    weights = {name: getattr(config, f"sample_{name}") for name in names}
    if not config.sample_every or not any(weights.values()):
        return None
    return SampleScorer(load_scorer(**weights, detector=config.sample_detector, device="cpu"), device)


def _write_requests(
    folder: Path, photos: Sequence[Photo], images: Sequence[Photo], prompts: Sequence[str]
) -> list[Request]:
    """Write photos and images, which the scorer reads from files."""
    texts = [replace_placeholders(prompt, [PLACEHOLDER]) for prompt in prompts]
    requests = []
    for number, (photo, image, text) in enumerate(zip(photos, images, texts, strict=True)):
        paths = [folder / f"{name}-{number}.png" for name in ("photo", "image")]
        for path, pixels in zip(paths, (photo, image), strict=True):
            save_png(path, pixels)
        first = next(index for index, other in enumerate(photos) if np.array_equal(other, photo))
        base = folder / f"image-{first}.png"
        requests.append(Request(str(paths[1]), str(paths[0]), text, str(base), texts[first]))
    return requests
