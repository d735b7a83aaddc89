"""Personalizes the shipped base model for people of one split, generates, and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ....f2d.diffusion.pipeline import F2DPipeline
from ....f2d.diffusion.vae import encode_images
from ....f2d.files import fingerprint
from ....f2d.image import Photo, save_png, to_signed
from ....f2d.miniature import WEIGHTS
from ....f2d.miniature.prompts import PROMPTS
from ....f2d.networks.mapping import MappingNetwork
from ...mapper.denoising import FrozenDiffusion
from ..study.held_out_data import OPENING, TUNING_PLACES, render_photo
from ..study.measure import Models, PlannedImage, plan_image, prompt_seed, score_images
from ..study.scores import Score, measure_once
from .methods import Method
from .optimize import optimize
from .outcome import Outcome, image_path
from .personal_model import CLASS_PROMPT, PROMPT, PersonalModel

SHOWN_PROMPTS = (4, 12, 24, 36)  # places in PROMPTS of the saved images


@dataclass(frozen=True, eq=False)
class Mapper:
    """A row of the tables without optimization for a person."""

    name: str
    title: str
    subject_from: float = 0.0  # DSC (Sec. E.2)
    models: Models | None = None  # None = the shipped mapper's

    @property
    def settings(self) -> dict[str, object]:
        """What the outcome depends on."""
        settings: dict[str, object] = {"subject_from": self.subject_from}
        if self.models is not None:
            settings["mapper"] = fingerprint(self.models.encoder.mapper.state_dict())
        return settings


MAPPERS = (Mapper("f2d", "Face2Diffusion"), Mapper("f2d-dsc", "Face2Diffusion w/ DSC", 0.2))


class Bench:
    """The shipped models, and the people of a comparison."""

    def __init__(
        self,
        people: Sequence[int],
        prompts: Sequence[int],
        bf16: bool = True,
        log: Callable[[str], None] = print,
    ) -> None:
        """Load the shipped models.

        Args:
            people: places of held-out people.
            prompts: places in PROMPTS.
            bf16: train and generate with autocast.
            log: called with each progress message.
        """
        self.people, self.prompts, self.bf16, self.log = people, prompts, bf16, log
        self.models = Models.from_package()
        self.base = FrozenDiffusion(WEIGHTS / "base", PROMPT, CLASS_PROMPT, "before")
        self.photos = [render_photo(place) for place in people]

    def measure(self, row: Method | Mapper, who: int, seed: int, file: Path) -> Outcome:
        """Personalize, generate and score, or read the outcome of an earlier call.

        Args:
            row: of the tables.
            who: index of the person.
            seed: of training and images.
            file: of the outcome.

        Returns:
            The outcome.

        Raises:
            InterruptedError: a signal stopped a training.
        """
        settings = {**row.settings, "opening": OPENING, "prompts": list(self.prompts)}

        def personalize() -> dict[str, Any]:
            if isinstance(row, Mapper):
                outcome = self._map(row, who, seed, file)
            else:
                outcome = self._train(row, who, seed, file)
            self.log(f"{row.title}, seed {seed}, person {who + 1}: {outcome.seconds:.2f} s")
            return asdict(outcome)

        return Outcome.from_json(measure_once(file, settings, personalize))

    def _map(self, row: Mapper, who: int, seed: int, file: Path) -> Outcome:
        models, start = row.models or self.models, time.process_time()
        encoder = models.encoder
        models.set_subject(encoder.identify(self.photos[who], alignment="FFHQ"))
        seconds = time.process_time() - start
        scores = self.score(models.pipeline, who, seed, file, row.subject_from)
        narrow = MappingNetwork(replace(encoder.mapper.config, word_dim=self.base.word_dim))  # as trained
        return Outcome(scores, sum(p.numel() for p in narrow.parameters()), 0, seconds)

    def _train(self, method: Method, who: int, seed: int, file: Path) -> Outcome:
        start, model = time.process_time(), PersonalModel(self.base, method)
        with TemporaryDirectory() as run:
            steps = self.optimize(model, who, seed, run)
        seconds = time.process_time() - start
        scores = self.score(model.build_pipeline(self.models.pipeline), who, seed, file)
        return Outcome(scores, model.parameters, steps, seconds)

    def optimize(self, model: PersonalModel, who: int, seed: int, run: str) -> int:
        """Train a person's model in a run folder; returns the number of steps."""
        others = self.others(who) if model.method.prior else None
        return optimize(model, self._latents[who : who + 1], others, run, seed, self.bf16)

    @cached_property
    def _latents(self) -> Tensor:
        return self._encode(self.photos)

    @cached_property
    def _priors(self) -> Tensor:
        return self._encode([render_photo(place) for place in TUNING_PLACES])

    @torch.no_grad()
    def _encode(self, photos: Sequence[Photo]) -> Tensor:
        return encode_images(self.models.pipeline.diffusion.vae, to_signed(photos))[0]

    def others(self, who: int) -> Tensor:
        """Return the latents of the prior, shape (P, C, H, W): the tuning people without this person."""
        return self._priors[[place != self.people[who] for place in TUNING_PLACES]]

    def score(
        self, pipeline: F2DPipeline, who: int, seed: int, file: Path | None, subject_from: float = 0.0
    ) -> list[Score]:
        """Generate a person's images and score them.

        Args:
            pipeline: knows S*.
            who: index of the person.
            seed: of the images; each method has the same noise.
            file: of the outcome; the shown images are saved beside it. None = nowhere.
            subject_from: share of the denoising with the class words (DSC).

        Returns:
            A score per prompt.
        """
        place, images = self.people[who], []
        for prompt in self.prompts:
            noise = prompt_seed(place, prompt, seed)
            images.append(
                plan_image(pipeline, bool(subject_from), "prompt", who, prompt, noise, PROMPTS[prompt])
            )
        models = replace(self.models, pipeline=pipeline)
        return score_images(models, images, self.photos, subject_from, self.bf16, partial(_save_shown, file))


def _save_shown(file: Path | None, planned: PlannedImage, image: Photo) -> None:
    if file is not None and planned.prompt in SHOWN_PROMPTS:
        save_png(image_path(file, planned.prompt), image)
