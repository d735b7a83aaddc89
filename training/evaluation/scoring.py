"""Scores generated images in batches; embeddings are cached by content, so that a killed run resumes.

    scorer = load_scorer(adaface="adaface_ir101.ckpt", clip="CLIP-ViT-H-14", detector="yunet.onnx")
    scorer.metrics                      # ("AdaFace", "CLIP", "dCLIP"): those with weights
    scorer.description                  # {"AdaFace": "...", "CLIP": "...", "detector": "..."}: the weights
    scorer.score(requests)              # [Score({"AdaFace": 0.31, "CLIP": 0.25}, face=True), ...]

An image without a face scores 0.0 in all identity metrics; of several faces the largest counts. Any other
missing or damaged input is an error that names the file; earlier embeddings stay in the cache.

Dimension letters: B images, C width of an embedding.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...f2d.face.detection import Detector, Face, find_faces
from ...f2d.files import fingerprint, hash_file
from ...f2d.image import Photo, load_photo
from ...f2d.networks.recognition import FaceRecognizer
from .embedding_cache import EmbeddingCache
from .metrics import (
    IDENTITY_METRICS,
    METRICS,
    clip_score,
    directional_clip_score,
    identity_score,
    siglip_score,
)
from .text import TextEvaluator

_READERS = 8  # threads that decode, detect and resize images
_MIN_SCORE = 0.6  # the default
_CHUNK = 1024  # requests whose scores are computed together
_CROPS = "crops 2"  # in the cache's keys; changes with the evaluators' crops


@dataclass(frozen=True)
class Request:
    """One generated image to score."""

    image: str  # path of the generated image y
    reference: str  # path of the identity's photo x
    prompt: str  # p, with class words in place of the placeholder: "A photo of a person as a chef"
    base: str = ""  # path of y_r: the image of "A photo of S*" with the same identity (for dCLIP only)
    base_prompt: str = "A photo of a person"  # p_r
    face: Face | None = None  # in the reference; None = detect it


@dataclass(frozen=True)
class Score:
    """The scores of one image."""

    metrics: dict[str, float]  # in [0, 1]
    face: bool | None = None  # whether the detector found a face; None without identity metrics


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A network that embeds images, and its origin."""

    network: FaceRecognizer | TextEvaluator
    source: str = ""  # for reports
    key: str = ""  # identifies the weights in the cache; "" = their fingerprint

    @property
    def name(self) -> str:
        """AdaFace, SphereFace, FaceNet, CLIP or SigLIP."""
        return self.network.name


class Scorer:
    """Evaluators, and the cache of their embeddings."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        detector: Detector | None = None,
        detector_source: str = "",
        batch_size: int = 64,
        cache: str | os.PathLike | None = None,
        min_score: float = _MIN_SCORE,
    ) -> None:
        """Open the cache.

        Args:
            evaluators: at most one of each name, each on its device.
            detector: needed by the identity metrics.
            detector_source: its name and hash; cached embeddings of faces from other detectors are not used.
            batch_size: images at once.
            cache: an SQLite file, created if missing; None = in memory.
            min_score: lowest score of the detector at which a face counts, in [0, 1].

        Raises:
            ValueError: no evaluator, two of one name, no detector for faces, a batch size below 1, or `cache`
                is another file.
            OSError: the cache cannot be written to.
        """
        names = [evaluator.name for evaluator in evaluators]
        if not names:
            raise ValueError("No evaluator is given. Set the weights of at least one metric.")
        if len(set(names)) < len(names):
            raise ValueError(f"The evaluators {', '.join(names)} are not unique. Give each once.")
        if batch_size < 1:
            raise ValueError(f"The batch size {batch_size} is out of range. Use at least 1.")
        if detector is None and set(names) & set(IDENTITY_METRICS):
            raise ValueError("The identity metrics need a detector. Set --detector to a YuNet .onnx file.")
        if min_score != _MIN_SCORE and detector:
            detector_source = f"{detector_source}, minimum score {min_score:g}"
        self._min_score = min_score
        self._evaluators = {evaluator.name: evaluator for evaluator in evaluators}
        self._keys = {evaluator.name: self._cache_key(evaluator, detector_source) for evaluator in evaluators}
        self._detector = detector
        self._detecting = Lock()  # detectors store the size of their last input, so they run one at a time
        self._batch_size = batch_size
        self._cache = EmbeddingCache(cache)
        self.description = {evaluator.name: evaluator.source for evaluator in evaluators} | (
            {"detector": detector_source} if detector else {}
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The computed metrics, in the order of METRICS."""
        return tuple(metric for metric in METRICS if metric.removeprefix("d") in self._evaluators)

    @staticmethod
    def _cache_key(evaluator: Evaluator, detector_source: str) -> str:
        network = evaluator.network
        if isinstance(network, FaceRecognizer):
            return f"{evaluator.key or fingerprint(network.state_dict())} {detector_source} {_CROPS}"
        return evaluator.key or fingerprint(network.model.state_dict())

    def to(self, device: str) -> None:
        """Move all evaluators to a device."""
        for evaluator in self._evaluators.values():
            network = evaluator.network
            (network.model if isinstance(network, TextEvaluator) else network).to(device)

    def check_references(
        self, references: Sequence[str], faces: Mapping[str, Face], progress: bool = True
    ) -> None:
        """Embed the identities' photos, so that an unusable one is found before images are generated.

        Args:
            references: files of the photos.
            faces: where the face lies, by file; in others it is detected.
            progress: show progress bars.

        Raises:
            FileNotFoundError: a photo is missing.
            ValueError: a photo is damaged or has no face, or weights are damaged.
        """
        if any(name in IDENTITY_METRICS for name in self._evaluators):
            self._embed_references(references, _hash_files(references, progress, faces), progress, faces)

    def score(self, requests: Sequence[Request], progress: bool = True) -> list[Score]:
        """Score images.

        Args:
            requests: the images.
            progress: show progress bars.

        Returns:
            The scores of each request, in order.

        Raises:
            FileNotFoundError: an image is missing.
            ValueError: a damaged image, a reference without a face, or damaged weights.
        """
        identity = [name for name in IDENTITY_METRICS if name in self._evaluators]
        wanted: dict[str, list[str]] = {
            name: [request.image for request in requests] for name in self._evaluators
        }
        if "CLIP" in wanted:
            wanted["CLIP"] += [request.base for request in requests]
        references = dict.fromkeys(request.reference for request in requests) if identity else {}
        files = dict.fromkeys([*references, *(path for paths in wanted.values() for path in paths)])
        faces = {request.reference: request.face for request in requests if request.face is not None}
        hashes = _hash_files(list(files), progress, faces)
        self._embed_references(list(references), hashes, progress, faces)
        self._embed(wanted, hashes, progress, "images")
        texts = self._embed_texts(requests)
        return [
            score
            for start in range(0, len(requests), _CHUNK)
            for score in self._compare(requests[start : start + _CHUNK], hashes, texts)
        ]

    def _compare(
        self,
        requests: Sequence[Request],
        hashes: Mapping[str, str],
        texts: Mapping[str, Mapping[str, Tensor]],
    ) -> Iterator[Score]:
        """Compute the scores of embedded images; without a face the embedding and its cosines are 0."""

        def images(name: str, path_of: Callable[[Request], str]) -> Tensor:
            names = [hashes[path_of(request)] for request in requests]
            return self._cache.get(self._keys[name], names)

        def prompts(name: str, prompt_of: Callable[[Request], str]) -> Tensor:
            return torch.stack([texts[name][prompt_of(request)] for request in requests])

        scores: dict[str, Tensor] = {}
        faces: list[bool | None] = [None] * len(requests)
        for name, evaluator in self._evaluators.items():
            image = images(name, lambda request: request.image)
            if name in IDENTITY_METRICS:
                faces = image.any(1).tolist()
                scores[name] = identity_score(images(name, lambda request: request.reference), image)
                continue
            text = prompts(name, lambda request: request.prompt)
            if name == "SigLIP" and isinstance(evaluator.network, TextEvaluator):
                scores[name] = siglip_score(image, text, evaluator.network.scale, evaluator.network.bias)
                continue
            scores[name] = clip_score(image, text)
            base = images(name, lambda request: request.base)
            base_text = prompts(name, lambda request: request.base_prompt)
            scores["dCLIP"] = directional_clip_score(image, base, text, base_text)
        rows = zip(*(scores[metric].tolist() for metric in self.metrics), strict=True)
        for row, face in zip(rows, faces, strict=True):
            yield Score(dict(zip(self.metrics, row, strict=True)), face)

    def _embed(
        self,
        wanted: Mapping[str, Sequence[str]],
        hashes: Mapping[str, str],
        progress: bool,
        what: str,
        faces: Mapping[str, Face] = MappingProxyType({}),
    ) -> None:
        """Embed what is not cached yet; each batch is written atomically."""
        todo: dict[str, set[str]] = {}  # evaluators by content hash
        path_of = {}
        for name, paths in wanted.items():
            known = self._cache.known(self._keys[name], {hashes[path] for path in paths})
            for path in paths:
                if hashes[path] not in known:
                    todo.setdefault(hashes[path], set()).add(name)
                    path_of[hashes[path]] = path
        contents = list(todo)
        batches = [
            contents[start : start + self._batch_size] for start in range(0, len(contents), self._batch_size)
        ]
        with (
            ThreadPoolExecutor(_READERS) as pool,
            tqdm(total=len(contents), unit="image", desc=what, disable=not (progress and contents)) as bar,
        ):

            def begin(batch: Sequence[str]) -> list:
                paths = {content: path_of[content] for content in batch}
                return [
                    pool.submit(self._prepare, path, todo[content], faces.get(path))
                    for content, path in paths.items()
                ]

            begun = begin(batches[0]) if batches else []
            try:
                for batch, following in zip_longest(batches, batches[1:], fillvalue=()):
                    ready = [future.result() for future in begun]
                    begun = begin(following)  # decoded while the evaluators process this batch
                    self._cache.put(
                        [
                            row
                            for name in self._evaluators
                            for row in self._vectors(name, batch, ready, path_of)
                        ]
                    )
                    bar.update(len(batch))
            finally:
                for future in begun:
                    future.cancel()

    def _prepare(self, path: str, names: Iterable[str], face: Face | None = None) -> dict[str, Any]:
        """Decode one image and return each evaluator's input; None if it has no face."""
        photo = load_photo(path)
        faces = None if face is None else [face]
        inputs: dict[str, Any] = {}
        for name in names:
            network = self._evaluators[name].network
            if isinstance(network, TextEvaluator):
                inputs[name] = network.prepare(photo)
                continue
            if faces is None:
                faces = self._find_faces(photo)
            inputs[name] = network.crop(photo, faces[0]) if faces else None
        return inputs

    def _find_faces(self, photo: Photo) -> list[Face]:
        if self._detector is None:  # no identity metric
            return []
        with self._detecting:
            return find_faces(self._detector, photo, self._min_score)

    def _vectors(
        self, name: str, batch: Sequence[str], ready: Sequence[Mapping[str, Any]], path_of: Mapping[str, str]
    ) -> Iterator[tuple[str, str, Tensor | None]]:
        """Embed one evaluator's inputs: rows of the cache."""
        contents = [
            content for content, inputs in zip(batch, ready, strict=True) if inputs.get(name) is not None
        ]
        if contents:
            inputs_of = [inputs[name] for inputs in ready if inputs.get(name) is not None]
            vectors: Tensor = self._evaluators[name].network.embed(inputs_of)
            for content, vector in zip(contents, vectors, strict=True):
                if not vector.isfinite().all():
                    raise ValueError(
                        f"{name} returned NaN or infinity for '{path_of[content]}', so its weights are "
                        "damaged. Download them again."
                    )
                yield self._keys[name], content, vector
        for content, inputs in zip(batch, ready, strict=True):
            if name in inputs and inputs[name] is None:
                yield self._keys[name], content, None

    def _embed_references(
        self,
        references: Sequence[str],
        hashes: Mapping[str, str],
        progress: bool,
        faces: Mapping[str, Face],
    ) -> None:
        """Embed the photos for the identity metrics; raise a ValueError if one has no face."""
        names = [name for name in IDENTITY_METRICS if name in self._evaluators]
        self._embed({name: references for name in names}, hashes, progress, "references", faces)
        for name in names:
            vectors = self._cache.get(self._keys[name], [hashes[path] for path in references])
            faceless = [path for path, vector in zip(references, vectors, strict=True) if not vector.any()]
            if faceless:
                raise ValueError(
                    f"No face found in {len(faceless)} of {len(references)} input photos "
                    f"({', '.join(map(repr, faceless[:3]))}{', ...' if faceless[3:] else ''}). Use other "
                    "photos, or remove these identities."
                )

    def _embed_texts(self, requests: Sequence[Request]) -> dict[str, dict[str, Tensor]]:
        embedded = {}
        for name, evaluator in self._evaluators.items():
            if isinstance(evaluator.network, TextEvaluator):
                prompts = dict.fromkeys(request.prompt for request in requests)
                if name == "CLIP":
                    prompts |= dict.fromkeys(request.base_prompt for request in requests)
                vectors = list(evaluator.network.embed_text(list(prompts))) if prompts else []
                embedded[name] = {
                    prompt: vector.double() for prompt, vector in zip(prompts, vectors, strict=True)
                }
        return embedded


def _hash_files(paths: Sequence[str], progress: bool, faces: Mapping[str, Face]) -> dict[str, str]:
    """Compute the SHA-256 of each file by path, and of where its face lies if this is given."""
    with ThreadPoolExecutor(_READERS) as pool:
        digests = tqdm(
            pool.map(_hash_image, paths), total=len(paths), unit="file", desc="hashes", disable=not progress
        )
        hashes = dict(zip(paths, digests, strict=True))
    return {
        path: f"{digest} {_hash_face(faces[path])}" if path in faces else digest
        for path, digest in hashes.items()
    }


def _hash_image(path: str) -> str:
    try:
        return hash_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no image at '{path}'. Generate it first.") from error
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}). Check the path.") from error


def _hash_face(face: Face) -> str:
    return hashlib.sha256(face.to_json().encode()).hexdigest()
