"""What makes one person after another the subject of the prompts: a mapper, learned words, or tuned models.

MapperSubjects    --msid, --mapper     Face2Diffusion: S* is encoded from the face
LearnedWords      --words FOLDER       textual inversion and its relatives: S* is one embedding per identity
TunedModels       --models FOLDER      DreamBooth and its relatives: one model per identity; --subject is S*
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...f2d.diffusion.pipeline import F2DPipeline
from ...f2d.encoder import FaceEncoder
from ...f2d.face.detection import Face
from ...f2d.files import fingerprint
from ...f2d.image import Photo, load_photo
from ...f2d.miniature import WEIGHTS, narrow
from ...f2d.options import Alignment, FaceChoice
from ...f2d.prompt.injection import PLACEHOLDER
from ..config import EvaluateConfig
from .benchmarks import MINIATURE
from .references import References
from .tuned_models import TunedModel, find_model, load_model
from .word_files import find_words, read_words

_WARM_UP, _TIMED = 3, 20  # runs of the encoder


class MissingSubjectError(ValueError):
    """Nothing was trained for an identity."""


class Subjects(ABC):
    """Makes the identities of an evaluation subjects of a pipeline."""

    source: dict[str, Any]  # weights that all images share, for their records
    name = PLACEHOLDER  # what stands for the subject in the pipeline's prompts

    @abstractmethod
    def check(self, references: References) -> None:
        """Check what was trained for the identities, before the first image is generated.

        Args:
            references: the faces.

        Raises:
            ValueError: something is damaged, or nothing was trained for any identity.
        """

    @abstractmethod
    def record(self, identity: str, references: References) -> dict[str, str]:
        """Identify what an identity's images depend on, for their records."""

    @abstractmethod
    def select(self, identity: str, references: References) -> F2DPipeline:
        """Return a pipeline whose subject is the identity.

        Args:
            identity: the identity.
            references: the faces.

        Returns:
            The pipeline; it may be the one of the call before.

        Raises:
            NoFaceError: the detector finds no face in its crop.
            MissingSubjectError: nothing was trained for it.
            ValueError: what was trained is damaged, or fits another base model.
        """

    @abstractmethod
    def measure_costs(self, references: References) -> dict[str, float]:
        """Return the costs of Table 2 that are known: trained parameters, seconds per face."""


class MapperSubjects(Subjects):
    """S* is encoded from each identity's face."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Load base model, identity encoder and mapper.

        Args:
            config: of the evaluation, with base, msid and mapper.
            device: of the networks.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not given or holds something else.
        """
        for name in ("msid", "mapper"):
            if not getattr(config, name):
                raise ValueError(
                    f"--base needs --{name}, or --words. Set it, or omit --base to score existing images."
                )
        self.encoder = FaceEncoder.load(config.msid, config.mapper, None, config.detector or None, device)
        self.pipeline = _load_base(config, device)
        self._min_score, self._narrow = config.min_score, config.benchmark == MINIATURE.name
        self._subject = ""  # hash of the face that S* stands for
        self.source = {
            **_describe_base(self.pipeline),
            "msid_sha256": self.encoder.msid_fingerprint,
            "mapper_sha256": fingerprint(self.encoder.mapper.state_dict()),
            "detector": _name_detector(config),  # "" = the crop's place in FFHQ's square
        }

    def check(self, references: References) -> None:
        """Do nothing: nothing was trained for an identity."""

    def record(self, identity: str, references: References) -> dict[str, str]:
        """Return the hash of the face's pixels."""
        return {"face_sha256": references.hashes[identity]}

    def select(self, identity: str, references: References) -> F2DPipeline:
        """Encode the identity's face, unless it is the current subject; see `Subjects.select`."""
        digest = references.hashes[identity]
        if digest != self._subject:
            crop = self._crop(load_photo(references.crops[identity]), references.faces.get(identity))
            self.pipeline.subjects.clear()
            positional = self.encoder.mapper.config.positional
            self.pipeline.add_subject(self._words(crop), positional=positional)
            self._subject = digest
        return self.pipeline

    def _words(self, crop: Photo) -> Tensor:
        words = self.encoder.words(self.encoder.identify_crops([crop]))
        return _narrow(words, self.pipeline) if self._narrow else words

    def _crop(self, face: Photo, located: Face | None = None) -> Photo:
        alignment: Alignment = "FFHQ" if self.encoder.detector is None else "detect"
        landmarks = None if located is None else located.landmarks
        choice = FaceChoice(min_score=self._min_score, landmarks=landmarks)
        return self.encoder.crop_face(face, alignment, choice).crop

    def measure_costs(self, references: References) -> dict[str, float]:
        """Count the mapper's parameters, and time the encoding of the first face."""
        first = next(iter(references.crops))
        crop = self._crop(load_photo(references.crops[first]), references.faces.get(first))
        return {
            "parameters": sum(parameter.numel() for parameter in self.encoder.mapper.parameters()),
            "encoding_seconds": self._time_encoding(crop),
        }

    def _time_encoding(self, crop: Photo) -> float:
        """Return the median seconds from an aligned face to S* (Table 2), in identity encoder and mapper."""
        seconds = []
        for _ in range(_WARM_UP + _TIMED):
            start = time.perf_counter()
            # Returns CPU tensors, so the GPU has finished.
            self.encoder.words(self.encoder.identify_crops([crop]))
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[_WARM_UP:]))


class LearnedWords(Subjects):
    """S* is a file of learned words for each identity."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Load the base model.

        Args:
            config: of the evaluation, with base and words.
            device: of the networks.

        Raises:
            FileNotFoundError: the folder or the base model is missing.
            ValueError: the base is another model, or the subject has no S* in it.
        """
        self._folder, self.name = _check_folder(config.words, "words"), config.subject or PLACEHOLDER
        if not config.base:
            raise ValueError("--words needs --base, the model that the words were trained for. Set it.")
        if PLACEHOLDER not in self.name:
            raise ValueError(
                f"--subject '{self.name}' does not contain S*, which stands for the words. "
                "Use 'S*' or 'S* person'."
            )
        self.pipeline = _load_base(config, device)
        self.source = {**_describe_base(self.pipeline), "subject": self.name}
        self._words: dict[str, Tensor] = {}  # by identity
        self._narrow = config.benchmark == MINIATURE.name

    def check(self, references: References) -> None:
        """Read the words of all identities; see `Subjects.check`."""
        _check_all(self._read, references)

    def record(self, identity: str, references: References) -> dict[str, str]:
        """Return the fingerprint of the words."""
        return {"words_sha256": fingerprint({"words": self._read(identity)})}

    def select(self, identity: str, references: References) -> F2DPipeline:
        """Read the identity's words; see `Subjects.select`."""
        self.pipeline.subjects.clear()
        words = self._read(identity)
        words = _narrow(words, self.pipeline) if self._narrow else words
        self.pipeline.add_subject(words, positional="before")
        return self.pipeline

    def _read(self, identity: str) -> Tensor:
        if identity not in self._words:
            path = find_words(self._folder, identity)
            if path is None:
                raise MissingSubjectError(
                    f"'{self._folder}' has no words of '{identity}'. Add '{identity}.safetensors'."
                )
            self._words[identity] = read_words(path)
        return self._words[identity]

    def measure_costs(self, references: References) -> dict[str, float]:
        """Count the values of the first identity's words."""
        return {"parameters": next(iter(self._words.values())).numel()} if self._words else {}


class TunedModels(Subjects):
    """A fine-tuned model for each identity, with a phrase that stands for the person."""

    def __init__(self, config: EvaluateConfig, device: str) -> None:
        """Check the settings; each model is loaded when its person is selected.

        Args:
            config: of the evaluation, with models and subject, and base for LoRAs and the like.
            device: of the networks.

        Raises:
            FileNotFoundError: the folder or the base model is missing.
            ValueError: there is no subject, or the base is another model.
        """
        if not config.subject:
            raise ValueError(
                "--models needs --subject, the person's name in the training prompts. "
                "Set it, such as 'sks person'."
            )
        self._folder, self.name = _check_folder(config.models, "models"), config.subject
        self._base, self._device, self._config = config.base, device, config.base_config or None
        self._selected: tuple[str, F2DPipeline] | None = None
        described = _describe_base(_load_base(config, device)) if config.base else {}
        self.source = {**described, "subject": self.name}
        self._models: dict[str, TunedModel] = {}  # by identity
        self._digests: dict[str, str] = {}

    def check(self, references: References) -> None:
        """Find the models of all identities; see `Subjects.check`."""
        _check_all(self._find, references)

    def record(self, identity: str, references: References) -> dict[str, str]:
        """Return the kind of the model and the hash of its files."""
        model = self._find(identity)
        if identity not in self._digests:
            self._digests[identity] = model.hash_files()
        return {"model": model.kind, "model_sha256": self._digests[identity]}

    def select(self, identity: str, references: References) -> F2DPipeline:
        """Load the identity's model, unless it is the current one; see `Subjects.select`."""
        if self._selected is None or self._selected[0] != identity:
            self._selected = None  # frees its memory first
            pipeline = load_model(self._find(identity), self._base, self._device, self._config)
            self._selected = identity, pipeline
        return self._selected[1]

    def _find(self, identity: str) -> TunedModel:
        if identity not in self._models:
            model = find_model(self._folder, identity)
            if model is None:
                raise MissingSubjectError(
                    f"'{self._folder}' has no model of '{identity}'. Add a folder of that name."
                )
            if model.kind != "pipeline" and not self._base:
                raise ValueError(
                    f"The model of '{identity}' is a {model.kind}, which needs its base. Set --base."
                )
            model.check_packages()
            self._models[identity] = model
        return self._models[identity]

    def measure_costs(self, references: References) -> dict[str, float]:
        """Count the parameters in the first identity's files; unknown for a complete pipeline."""
        first = next(iter(self._models.values()), None)
        count = 0 if first is None else first.count_parameters()
        return {"parameters": count} if count else {}


def load_subjects(config: EvaluateConfig, device: str) -> Subjects:
    """Load what the settings name; arguments and errors as for the classes."""
    if config.models:
        return TunedModels(config, device)
    return LearnedWords(config, device) if config.words else MapperSubjects(config, device)


def _check_all(find: Callable[[str], Any], references: References) -> None:
    """Find what was trained for each identity; raise the last one's error if all are missing."""
    missing: list[MissingSubjectError] = []
    for identity in references.crops:
        try:
            find(identity)
        except MissingSubjectError as error:
            missing.append(error)
    if len(missing) == len(references.crops):
        raise missing[-1]


def _check_folder(folder: str | os.PathLike, option: str) -> Path:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"--{option} '{os.fspath(folder)}' is not a folder. Set it to one with a file or folder per "
            "identity."
        )
    return Path(folder)


def _name_detector(config: EvaluateConfig) -> str:
    name = Path(config.detector).name
    return name if config.aligned or not name else f"{name} in the photo"


def _narrow(words: Tensor, pipeline: F2DPipeline) -> Tensor:
    """Narrow words of CLIP-L's width to the miniature's text encoder; narrow ones stay as they are."""
    width = pipeline.prompts.width
    return narrow(words, width) if words.shape[1] > width else words


def _load_base(config: EvaluateConfig, device: str) -> F2DPipeline:
    pipeline = F2DPipeline.load(config.base, device, config.base_config or None)
    if Path(config.base) == WEIGHTS / "base":
        pipeline.name = "the miniature"
    return pipeline


def _describe_base(pipeline: F2DPipeline) -> dict[str, str]:
    parts = {name: getattr(pipeline.diffusion, name).state_dict() for name in ("text_encoder", "unet", "vae")}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return {"base": pipeline.name, "base_sha256": fingerprint(tensors)}
