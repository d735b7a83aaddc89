"""Sample sheets: images of fixed faces x fixed prompts while the mapper trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...f2d.diffusion.folder import build_pipeline, load_vae
from ...f2d.diffusion.vae import decode_latents
from ...f2d.image import Photo, make_grid, save_png
from ...f2d.networks.mapping import MapperConfig, MappingNetwork
from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.processes import Processes
from ..engine.run_folder import Run
from .dataset import split_cache
from .denoising import FrozenDiffusion

# Photos of the people, their images and the prompts, B each, to the mean of each metric.
SampleScores: TypeAlias = Callable[[Sequence[Photo], Sequence[Photo], Sequence[str]], dict[str, float]]


class SampleSheets:
    """Generates the sheets, shared among the processes; process 0 writes them out and to TensorBoard."""

    def __init__(
        self,
        config: MapperTrainingConfig,
        mapper: MapperConfig,
        cache: LatentCache,
        diffusion: FrozenDiffusion,
        processes: Processes,
        run: Run,
        score: SampleScores | None = None,
        log: Callable[[str], None] = print,
    ) -> None:
        """Check the prompts.

        Args:
            config: names prompts and steps.
            mapper: sizes of the mapper.
            cache: held-out faces are on the sheets, or the first ones where none are held out.
            diffusion: where it is trained.
            processes: of the run.
            run: the folder.
            score: scores the images; None = they are not scored.
            log: called with a line for the scores.

        Raises:
            ValueError: a prompt is too long, or without S*.
        """
        self.config, self.mapper, self.cache = config, mapper, cache
        self.diffusion, self.processes, self.run = diffusion, processes, run
        self._score, self._log = score, log
        for prompt in config.sample_prompts:
            diffusion.check_prompt(prompt)

    def done(self, step: int) -> bool:
        """Tell whether there is nothing to generate after a step, f.i. as it was done before a kill."""
        return not step or self._file(step).exists()

    def _file(self, step: int) -> Path:
        return self.run.folder / "samples" / f"{step:08d}.png"

    def write(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Generate a sheet.

        Args:
            step: how many are done.
            weights: of the mapper.

        Raises:
            RuntimeError: an image could not be generated, f.i. for lack of memory.
            OSError: the folder cannot be written to.
        """
        held = split_cache(self.cache, self.config)[1]
        faces = (held or range(len(self.cache)))[: self.config.sample_faces]
        jobs = [(face, prompt) for face in faces for prompt in self.config.sample_prompts]
        world = self.processes.world
        mine = jobs[self.processes.rank :: world]
        shares = self.processes.gather_work(lambda: self._generate(mine, weights))
        if jobs and self.processes.first:
            images = [shares[place % world][place // world] for place in range(len(jobs))]
            grid = make_grid(images)
            save_png(self._file(step), grid)
            self.run.log_image(step, "samples", grid)
            if self._score is not None:
                self._log_scores(step, jobs, images, self._score)

    def _log_scores(
        self, step: int, jobs: Sequence[tuple[int, str]], images: Sequence[Photo], score: SampleScores
    ) -> None:
        """Score the images against the cached photos, which the VAE decodes."""
        photos = self._decode_photos(list(dict.fromkeys(face for face, _ in jobs)))
        means = score([photos[face] for face, _ in jobs], images, [prompt for _, prompt in jobs])
        self.run.log(step, **{f"samples/{name}": mean for name, mean in means.items()})
        listed = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        self._log(f"step {step}: samples: {listed}")

    @torch.no_grad()
    def _decode_photos(self, faces: Sequence[int]) -> dict[int, Photo]:
        """Decode the latents of faces to photos of shape (H, W, 3)."""
        vae = load_vae(self.config.base).to(self.processes.device)
        latents = torch.stack([self.cache.load(face, False)["latent_mean"].float() for face in faces])
        return dict(zip(faces, decode_latents(vae, latents.to(self.processes.device)), strict=True))

    @torch.no_grad()
    def _generate(self, jobs: list[tuple[int, str]], weights: Mapping[str, Tensor]) -> list[Photo]:
        from ...f2d.diffusion.pipeline import GenerationConfig

        if not jobs:
            return []
        mapper = MappingNetwork(self.mapper).to(self.processes.device).eval()
        mapper.load_state_dict(weights)
        pipeline = self._pipeline()
        size = self.cache.image_size
        settings = GenerationConfig(steps=self.config.sample_steps, width=size, height=size)
        images = []
        for face, prompt in jobs:
            v_id = self.cache.load(face, False)["v_id"].float()[None].to(self.processes.device)
            pipeline.subjects.clear()
            pipeline.add_subject(mapper(v_id)[0].cpu(), positional=self.mapper.positional)
            images.append(pipeline.generate(prompt, settings, progress=False)[0].image)
        return images

    def _pipeline(self) -> Any:
        """Build a pipeline around the frozen U-Net, with a VAE and a text encoder in its dtype."""
        from diffusers import EulerAncestralDiscreteScheduler

        from ...f2d.diffusion.pipeline import F2DPipeline

        dtype = self.diffusion.unet.dtype
        vae = load_vae(self.config.base).to(self.processes.device, dtype)
        text_encoder = copy.deepcopy(self.diffusion.text_encoder).to(dtype)
        scheduler = EulerAncestralDiscreteScheduler.from_config(self.diffusion.schedule.config)
        return F2DPipeline(
            build_pipeline(vae, text_encoder, self.diffusion.tokenizer, self.diffusion.unet, scheduler)
        )
