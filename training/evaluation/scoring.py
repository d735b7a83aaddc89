"""Scores of generated pictures: batched, each picture embedded once, remembered by content, so that a run goes on after a kill.

    scorer = load_scorer(adaface="adaface_ir101.ckpt", clip="CLIP-ViT-H-14", detector="yunet.onnx", cache="scores.sqlite")
    scorer.metrics                     ("AdaFace", "CLIP", "dCLIP"): those that the given weights allow, in the order of METRICS
    scorer.description                 {"AdaFace": "...", "CLIP": "...", "detector": "..."}: what made the scores
    scorer.score([Request(...), ...])  [{"AdaFace": 0.31, "CLIP": 0.25, "dCLIP": 0.2}, ...], one dict a request, in order

A picture without a face has 0.0 in all identity metrics; of several faces the largest counts. Everything else that is missing or
damaged is an error that names the file; what was embedded before it stays in the cache.

Dimension letters: B pictures, C width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...f2d.face.detection import Detector, Face, find_faces, load_detector
from ...f2d.files import fingerprint, hash_file
from ...f2d.image import load_photo
from ...f2d.networks.recognition import FaceRecognizer, load_recognizer
from .metrics import clip_score, directional_clip_score, identity_score, siglip_score
from .text import TextEvaluator, load_text_evaluator

IDENTITY_METRICS = ("AdaFace", "SphereFace", "FaceNet")
TEXT_METRICS = ("CLIP", "dCLIP", "SigLIP")
METRICS = IDENTITY_METRICS + TEXT_METRICS
_READERS = 8  # threads that read, detect and scale pictures; the judges take only whole batches
_SCORED = 1024  # requests at once, once all is embedded


@dataclass(frozen=True)
class Request:
    """One generated picture to score."""

    image: str  # path of the generated picture y
    reference: str  # path of the identity's photo x
    prompt: str  # p, with class words in place of the placeholder: "A photo of a person as a chef"
    base: str = ""  # path of y_r: the picture of "A photo of S*" with the same identity (for dCLIP only)
    base_prompt: str = "A photo of a person"  # p_r
    face: Face | None = None  # where the face lies in the reference; None = it is looked for


@dataclass(frozen=True, eq=False)
class Evaluator:
    """A network that embeds pictures, and where it comes from."""

    network: FaceRecognizer | TextEvaluator
    source: str = ""  # in words, for reports
    key: str = ""  # tells its embeddings in the cache from those of other weights; "" = they are hashed

    @property
    def name(self) -> str:
        """AdaFace, SphereFace, FaceNet, CLIP or SigLIP."""
        return self.network.name


class Scorer:
    """Judges, and the cache of what they have seen."""

    def __init__(
        self,
        judges: Sequence[Evaluator],
        detector: Detector | None = None,
        detector_source: str = "",
        batch_size: int = 64,
        cache: str | os.PathLike | None = None,
    ) -> None:
        """Take the judges.

        Args:
            judges: at most one of each name, each on its device.
            detector: needed by those of identity.
            detector_source: its name and hash; embeddings of faces that another detector found are not used.
            batch_size: pictures at once.
            cache: an SQLite file; it is made. None = embeddings are kept as long as the scorer.

        Raises:
            ValueError: no judge, two of one name, no detector for faces, a batch size below 1, or a file that is no cache.
            OSError: the cache cannot be written to.
        """
        names = [judge.name for judge in judges]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"Expected one judge of each name, got {', '.join(names) or 'none'}. Give weights for at least one metric."
            )
        if batch_size < 1:
            raise ValueError(f"Expected a batch size of 1 and more, got {batch_size}.")
        if detector is None and set(names) & set(IDENTITY_METRICS):
            raise ValueError(
                "Expected a detector to find faces for the identity metrics, got none. Name a YuNet .onnx file."
            )
        self._judges = {judge.name: judge for judge in judges}
        self._keys = {judge.name: self._cache_key(judge, detector_source) for judge in judges}
        self._detector, self._detecting = (
            detector,
            Lock(),
        )  # detectors keep the size of the last picture: one at a time
        self._batch_size = batch_size
        self._cache = _Cache(cache)
        self.description = {judge.name: judge.source for judge in judges} | (
            {"detector": detector_source} if detector else {}
        )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is scored, in the order of METRICS."""
        return tuple(metric for metric in METRICS if metric.removeprefix("d") in self._judges)

    @staticmethod
    def _cache_key(judge: Evaluator, detector_source: str) -> str:
        network = judge.network
        if isinstance(network, FaceRecognizer):
            return f"{judge.key or fingerprint(network.state_dict())} {detector_source}"
        return judge.key or fingerprint(network.model.state_dict())

    def score(self, requests: Sequence[Request], progress: bool = True) -> list[dict[str, float]]:
        """Score pictures.

        Args:
            requests: what to score.
            progress: show bars with the time that is left.

        Returns:
            For each request, in order, a score in [0, 1] by metric.

        Raises:
            FileNotFoundError: a picture is missing.
            ValueError: a damaged picture, a reference without a face, or damaged weights.
        """
        identity = [name for name in IDENTITY_METRICS if name in self._judges]
        wanted: dict[str, list[str]] = {
            name: [request.image for request in requests] for name in self._judges
        }
        if "CLIP" in wanted:
            wanted["CLIP"] += [request.base for request in requests]
        references = dict.fromkeys(request.reference for request in requests) if identity else {}
        files = dict.fromkeys([*references, *(path for paths in wanted.values() for path in paths)])
        faces = {request.reference: request.face for request in requests if request.face is not None}
        hashes = _hash_files(list(files), progress)
        hashes |= {
            path: f"{hashes[path]} {_hash_face(face)}" for path, face in faces.items() if path in hashes
        }
        self._embed({name: list(references) for name in identity}, hashes, progress, "references", faces)
        self._check_references(list(references), identity, hashes)
        self._embed(wanted, hashes, progress, "pictures")
        texts = self._embed_texts(requests)
        return [
            scores
            for start in range(0, len(requests), _SCORED)
            for scores in self._compare(requests[start : start + _SCORED], hashes, texts)
        ]

    def _compare(
        self,
        requests: Sequence[Request],
        hashes: Mapping[str, str],
        texts: Mapping[str, Mapping[str, Tensor]],
    ) -> Iterator[dict]:
        """Compute the scores of embedded pictures; a picture without a face has the zero vector, whose cosine is 0."""

        def pictures(name: str, path_of: Callable[[Request], str]) -> Tensor:
            names = [hashes[path_of(request)] for request in requests]
            return self._cache.get(self._keys[name], names)

        def prompts(name: str, prompt_of: Callable[[Request], str]) -> Tensor:
            return torch.stack([texts[name][prompt_of(request)] for request in requests])

        scores: dict[str, Tensor] = {}
        for name, judge in self._judges.items():
            image = pictures(name, lambda request: request.image)
            if name in IDENTITY_METRICS:
                scores[name] = identity_score(pictures(name, lambda request: request.reference), image)
                continue
            text = prompts(name, lambda request: request.prompt)
            if name == "SigLIP":
                scores[name] = siglip_score(image, text, judge.network.scale, judge.network.bias)
                continue
            scores[name] = clip_score(image, text)
            base, base_text = (
                pictures(name, lambda request: request.base),
                prompts(name, lambda request: request.base_prompt),
            )
            scores["dCLIP"] = directional_clip_score(image, base, text, base_text)
        for row in zip(*(scores[metric].tolist() for metric in self.metrics), strict=True):
            yield dict(zip(self.metrics, row, strict=True))

    def _embed(
        self,
        wanted: Mapping[str, Sequence[str]],
        hashes: Mapping[str, str],
        progress: bool,
        what: str,
        faces: Mapping[str, Face] = MappingProxyType({}),
    ) -> None:
        """Embed what is not in the cache yet; each batch is written as a whole."""
        todo: dict[str, set[str]] = {}  # judges by picture, pictures of one content together
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
            tqdm(total=len(contents), unit="picture", desc=what, disable=not (progress and contents)) as bar,
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
                    begun = begin(following)  # is read while the judges are busy with this batch
                    self._cache.put(
                        [row for name in self._judges for row in self._vectors(name, batch, ready, path_of)]
                    )
                    bar.update(len(batch))
            finally:
                for future in begun:
                    future.cancel()

    def _prepare(self, path: str, names: Iterable[str], face: Face | None = None) -> dict[str, Any]:
        """Read one picture, and give each judge its input; None where there is no face for it."""
        photo = load_photo(path)
        faces = None if face is None else [face]
        inputs: dict[str, Any] = {}
        for name in names:
            network = self._judges[name].network
            if isinstance(network, TextEvaluator):
                inputs[name] = network.prepare(photo)
                continue
            if faces is None:
                with self._detecting:
                    faces = find_faces(self._detector, photo)
            inputs[name] = network.crop(photo, faces[0]) if faces else None
        return inputs

    def _vectors(
        self, name: str, batch: Sequence[str], ready: Sequence[Mapping[str, Any]], path_of: Mapping[str, str]
    ) -> Iterator[tuple[str, str, Tensor | None]]:
        """Embed one judge's inputs: rows of the cache."""
        contents = [
            content for content, inputs in zip(batch, ready, strict=True) if inputs.get(name) is not None
        ]
        if contents:
            vectors = self._judges[name].network.embed(
                [inputs[name] for inputs in ready if inputs.get(name) is not None]
            )
            for content, vector in zip(contents, vectors, strict=True):
                if not vector.isfinite().all():
                    raise ValueError(
                        f"Expected finite features of '{path_of[content]}' from {name}, got NaN or infinity: its weights are damaged. Get them again."
                    )
                yield self._keys[name], content, vector
        for content, inputs in zip(batch, ready, strict=True):
            if name in inputs and inputs[name] is None:
                yield self._keys[name], content, None

    def _check_references(
        self, references: Sequence[str], names: Sequence[str], hashes: Mapping[str, str]
    ) -> None:
        for name in names:
            vectors = self._cache.get(self._keys[name], [hashes[path] for path in references])
            faceless = [path for path, vector in zip(references, vectors, strict=True) if not vector.any()]
            if faceless:
                raise ValueError(
                    f"Expected a face in each identity's photo, got none in {', '.join(map(repr, faceless[:3]))}{', ...' if faceless[3:] else ''} "
                    f"({len(faceless)} of {len(references)}). Use other photos, or leave these identities out."
                )

    def _embed_texts(self, requests: Sequence[Request]) -> dict[str, dict[str, Tensor]]:
        found = {}
        for name, judge in self._judges.items():
            if isinstance(judge.network, TextEvaluator):
                prompts = dict.fromkeys(request.prompt for request in requests)
                if name == "CLIP":
                    prompts |= dict.fromkeys(request.base_prompt for request in requests)
                vectors = judge.network.embed_text(list(prompts)) if prompts else []
                found[name] = {
                    prompt: vector.double() for prompt, vector in zip(prompts, vectors, strict=True)
                }
        return found


class _Cache:
    """Embeddings by judge and picture, in SQLite: what a killed process had not committed is not there."""

    def __init__(self, path: str | os.PathLike | None) -> None:
        self._path = os.fspath(path) if path is not None else ":memory:"
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self._path, timeout=60)
            with self._connection as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS embedding (judge TEXT, picture TEXT, vector BLOB, PRIMARY KEY (judge, picture)) WITHOUT ROWID"
                )
                connection.execute("SELECT judge, picture, vector FROM embedding LIMIT 1")
        except sqlite3.OperationalError as error:
            raise OSError(
                f"Expected a score cache that can be written at '{self._path}', got an error ({error}). Choose another file."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"Expected a score cache at '{self._path}', got another or a damaged file ({error}). Delete it, or choose another."
            ) from error

    def known(self, judge: str, pictures: Iterable[str]) -> set[str]:
        """Tell which of the pictures have been embedded."""
        return set(self._rows(judge, pictures, "picture"))

    def get(self, judge: str, pictures: Sequence[str]) -> Tensor:
        """Give the embeddings in order, shape (B, C), float64; zeros where there was no face."""
        rows = self._rows(judge, pictures, "picture, vector")
        vectors = {
            picture: np.frombuffer(vector, np.float32)
            for picture, vector in rows.items()
            if vector is not None
        }
        width = max((len(vector) for vector in vectors.values()), default=1)
        nothing = np.zeros(width, np.float32)
        return torch.from_numpy(np.stack([vectors.get(picture, nothing) for picture in pictures])).double()

    def put(self, rows: Sequence[tuple[str, str, Tensor | None]]) -> None:
        """Write the rows (judge, picture, vector) together or not at all."""
        values = [
            (judge, picture, None if vector is None else vector.numpy().tobytes())
            for judge, picture, vector in rows
        ]
        try:
            with self._connection as connection:
                connection.executemany("INSERT OR REPLACE INTO embedding VALUES (?, ?, ?)", values)
        except sqlite3.OperationalError as error:
            raise OSError(
                f"Expected to write the score cache '{self._path}', got an error ({error}). Free some space, then run again."
            ) from error

    def _rows(self, judge: str, pictures: Iterable[str], columns: str) -> dict[str, Any]:
        names = list(dict.fromkeys(pictures))
        found = {}
        for start in range(0, len(names), 500):  # SQLite takes 999 values a query
            part = names[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT {columns} FROM embedding WHERE judge = ? AND picture IN ({marks})"
            found |= {row[0]: row[-1] for row in self._connection.execute(query, (judge, *part))}
        return found


def _hash_files(paths: Sequence[str], progress: bool) -> dict[str, str]:
    """SHA-256 of each file's content by its path."""
    with ThreadPoolExecutor(_READERS) as pool:
        digests = tqdm(
            pool.map(_hash_picture, paths), total=len(paths), unit="file", desc="hashes", disable=not progress
        )
        return dict(zip(paths, digests, strict=True))


def _hash_picture(path: str) -> str:
    try:
        return hash_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Expected a picture at '{path}', got no such file. Generate it first."
        ) from error
    except OSError as error:
        raise ValueError(
            f"Expected a picture at '{path}', got something that cannot be read ({error.strerror}). Check the path."
        ) from error


def _hash_face(face: Face) -> str:
    return hashlib.sha256(face.to_json().encode()).hexdigest()


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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    judges = []
    for name, path in (("AdaFace", adaface), ("SphereFace", sphereface), ("FaceNet", facenet)):
        if path:
            network = load_recognizer(path, name).to(device)
            digest = hash_file(path)
            judges.append(
                Evaluator(network, f"{Path(path).name}, {network.variant}, SHA-256 {digest}", digest)
            )
    for name, folder in (("CLIP", clip), ("SigLIP", siglip)):
        if folder:
            text = load_text_evaluator(folder, name)
            weights = fingerprint(text.model.state_dict())
            text.model.to(device)
            key = hashlib.sha256(
                f"{weights} {json.dumps(text.processor.to_dict(), sort_keys=True, default=str)}".encode()
            ).hexdigest()
            source = f"{Path(folder).resolve().name}, SHA-256 of its tensors {weights}"
            if name == "SigLIP":
                source += f", temperature {text.scale:.4g}, bias {text.bias:.4g}"
            judges.append(Evaluator(text, source, key))
    found = load_detector(detector, device) if detector else None
    digest = f", SHA-256 {hash_file(detector)}" if detector and os.path.isfile(detector) else ""
    return Scorer(judges, found, f"{Path(detector).name}{digest}" if detector else "", batch_size, cache)
