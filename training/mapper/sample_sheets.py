"""Sample sheets: images of fixed faces x fixed prompts while the mapper trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...f2d.diffusion.folder import build_pipeline, load_vae
from ...f2d.image import Photo, make_grid, save_png
from ...f2d.networks.mapping import MapperConfig, MappingNetwork
from ..config import MapperTrainingConfig
from ..data.cache import LatentCache
from ..engine.processes import Processes
from ..engine.run_folder import Run
from .dataset import split_cache
from .denoising import FrozenDiffusion


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
    ) -> None:
        """Check the prompts.

        Args:
            config: names prompts and steps.
            mapper: sizes of the mapper.
            cache: held-out faces are on the sheets, or the first ones where none are held out.
            diffusion: where it is trained.
            processes: of the run.
            run: the folder.

        Raises:
            ValueError: a prompt is too long, or without S*.
        """
        self.config, self.mapper, self.cache = config, mapper, cache
        self.diffusion, self.processes, self.run = diffusion, processes, run
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
        held = split_cache(len(self.cache), self.config)[1]
        faces = (held or range(len(self.cache)))[: self.config.sample_faces]
        jobs = [(face, prompt) for face in faces for prompt in self.config.sample_prompts]
        world = self.processes.world
        mine = jobs[self.processes.rank :: world]
        shares = self.processes.gather_work(lambda: self._generate(mine, weights))
        if jobs and self.processes.first:
            grid = make_grid([shares[place % world][place // world] for place in range(len(jobs))])
            save_png(self._file(step), grid)
            self.run.log_image(step, "samples", grid)

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
