"""One person's copy of the base model: the U-Net as a method changes it, and the two rows of S*.

The base model itself never changes. Dimension letters: B batch, D word width, N tokens.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ....f2d.diffusion.folder import build_pipeline
from ....f2d.diffusion.pipeline import F2DPipeline
from ....f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER
from ...losses import reconstruction_loss
from ...mapper.denoising import FrozenDiffusion
from .key_locking import KeyLockedPipeline, join_states, mark_words
from .methods import Method

PROMPT, CLASS_PROMPT = f"a photo of {PLACEHOLDER}", f"a photo of {CLASS_WORDS}"  # of all trainings


class PersonalModel:
    """What a method trains for one person, beside what it leaves frozen."""

    def __init__(self, base: FrozenDiffusion, method: Method) -> None:
        """Copy the base model's U-Net.

        Args:
            base: with the prompts PROMPT and CLASS_PROMPT.
            method: says what is trained.

        Raises:
            ImportError: the method needs a package that is not installed.
        """
        self.base, self.method = base, method
        self.unet = copy.deepcopy(base.unet)
        self.rows: list[Tensor] = [nn.Parameter(row, requires_grad=False) for row in self._first_rows()]
        words = [self.rows[place] for place in method.trained_words]
        self.trained = nn.ParameterList([*words, *method.adapt(self.unet)]).requires_grad_(True)

    def _first_rows(self) -> Tensor:
        """Look up the token embeddings that S* starts with: shape (2, D)."""
        prompts = self.base.prompts
        ids = prompts.content_ids(CLASS_WORDS)[:2]
        if self.method.identifier:  # no caption has had the first token of S*
            ids = [prompts.content_ids(PLACEHOLDER)[0], ids[1]]
        return prompts.token_embedding.weight[ids].detach().clone()

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.trained)

    def encode(self) -> Tensor:
        """Encode PROMPT; gradients flow into the trained words. Shape (1, N, D), wider with locked keys."""
        states = self.base.encode(torch.stack(self.rows)[None])
        if not self.method.locks_keys:
            return states
        return join_states(self.base.class_states, states, mark_words(self.base.prompts, PROMPT))

    def denoising_loss(self, latents: Tensor, noise: Tensor, time: Tensor, states: Tensor) -> Tensor:
        """Compute the denoising loss of a batch.

        Args:
            latents: shape (B, C, H, W).
            noise: shape (B, C, H, W).
            time: shape (B,), timesteps.
            states: shape (B, N, D), encoded prompts; wider with locked keys.

        Returns:
            scalar.
        """
        noisy, target = self.base.add_noise(latents, noise, time)
        return reconstruction_loss(self.unet(noisy, time, states).sample, target)

    def build_pipeline(self, pipeline: F2DPipeline) -> F2DPipeline:
        """Make a pipeline that generates the person as S*; it shares all but the U-Net with the given one."""
        parts, build = pipeline.diffusion, KeyLockedPipeline if self.method.locks_keys else F2DPipeline
        personal = build(
            build_pipeline(parts.vae, parts.text_encoder, parts.tokenizer, self.unet, parts.scheduler),
            self.method.title,
        )
        personal.add_subject(torch.stack(self.rows).detach(), positional="before")
        return personal
