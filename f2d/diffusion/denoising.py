"""A frozen Stable Diffusion as words see it: noisy latents, a prompt with trainable words, two predictions.

Dimension letters: B batch, C latent channels, H and W latent sides, P people in the prompt, D word width.

| here | paper |
|---|---|
| `latent`, `noisy` | z_0, z_t |
| `prompt`, `class_prompt` | p, p_c |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.mapping import Positional
from ..prompt.injection import PLACEHOLDER, PROMPT, insertion_rows, isolate, replace_placeholders
from .text_encoder import PromptEncoder

_PREDICTED = ("epsilon", "v_prediction")


class PromptDenoiser(nn.Module):
    """U-Net and text encoder of SD 1.x or 2.x, without gradients of their own."""

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        unet: Any,
        schedule: Any,
        prompt: str,
        class_prompt: str,
        positional: Positional = "replace",
        contexts: Sequence[str] = (),
        people: int = 1,
    ) -> None:
        """Freeze the networks, and encode the class prompt once, with each context.

        Args:
            tokenizer: CLIP's, of transformers.
            text_encoder: transformers' CLIPTextModel; best in float32.
            unet: diffusers' UNet2DConditionModel; it computes in its own dtype.
            schedule: diffusers' DDPMScheduler.
            prompt: with S* in it, once for each person.
            class_prompt: the same with the class words.
            positional: how the words stand to the position embedding.
            contexts: K, what may follow both prompts; S* stays at its place.
            people: P.

        Raises:
            ValueError: a model that predicts something else, parts that do not fit, or a bad prompt.
        """
        super().__init__()
        self.tokenizer, self.schedule = tokenizer, schedule
        self.text_encoder, self.unet = text_encoder, unet
        self.prompt_ids: Tensor
        self.class_states: Tensor
        self.requires_grad_(False).eval()
        if schedule.config.prediction_type not in _PREDICTED:
            raise ValueError(
                f'The base model predicts "{schedule.config.prediction_type}", which no loss here supports. '
                f"Use a model that predicts one of {', '.join(_PREDICTED)}."
            )
        if unet.config.cross_attention_dim != self.word_dim:
            raise ValueError(
                f"The U-Net is for text {unet.config.cross_attention_dim} wide, the text encoder is "
                f"{self.word_dim} wide. Use SD 1.x or 2.x."
            )
        self.positional = positional
        prompts = self.prompts
        ids, self.places = _tokenize(prompts, prompt, people)
        rows = [ids, *(_tokenize(prompts, f"{prompt} {context}", people)[0] for context in contexts)]
        self.register_buffer("prompt_ids", torch.tensor(rows), persistent=False)  # (1 + K, 77)
        written = [class_prompt, *(f"{class_prompt} {context}" for context in contexts)]
        class_ids = torch.tensor([prompts.pad(prompts.content_ids(text)) for text in written])
        with torch.no_grad():
            self.register_buffer(
                "class_states", prompts.encode(class_ids), persistent=False
            )  # (1 + K, 77, D)

    @classmethod
    def from_pipeline(cls, pipeline: Any, positional: Positional = "replace") -> PromptDenoiser:
        """Use the networks of a loaded pipeline, with the paper's prompt.

        Args:
            pipeline: diffusers' StableDiffusionPipeline; its text encoder is brought to float32.
            positional: how the words stand to the position embedding.

        Returns:
            The denoiser, on the pipeline's device.

        Raises:
            ValueError: as for the constructor.
        """
        from diffusers import DDPMScheduler

        schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        networks = pipeline.tokenizer, pipeline.text_encoder.float(), pipeline.unet, schedule
        return cls(*networks, PROMPT, replace_placeholders(PROMPT, [PLACEHOLDER]), positional)

    @property
    def prompts(self) -> PromptEncoder:
        """The tokenizer and text encoder."""
        return PromptEncoder(self.tokenizer, self.text_encoder)

    @property
    def word_dim(self) -> int:
        """D: 768 in SD 1.x, 1024 in SD 2.x."""
        return self.prompts.width

    @property
    def steps(self) -> int:
        """T: number of timesteps."""
        return self.schedule.config.num_train_timesteps

    def encode(self, words: Tensor, context: Tensor | None = None) -> Tensor:
        """Encode the prompt with the words of S* in it; gradients flow into the words.

        Args:
            words: shape (B, 2 P, D), person by person.
            context: shape (B,), from 0 = none to K; None = none for all.

        Returns:
            shape (B, 77, D): tau(p).
        """
        rows = insertion_rows(words, self.prompts.position_embedding[self.places], self.positional)
        ids = self.prompt_ids[:1].expand(len(words), -1) if context is None else self.prompt_ids[context]
        return self.prompts.encode(ids, (slice(None), self.places), rows)

    def add_noise(self, latent: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Diffuse latents.

        Args:
            latent: shape (B, C, H, W).
            noise: shape (B, C, H, W).
            time: shape (B,), from 0 to T - 1.

        Returns:
            The noisy latents, and what the U-Net is to predict: the noise, or v for a v-prediction model.
        """
        noisy = self.schedule.add_noise(latent, noise, time)
        if self.schedule.config.prediction_type == "v_prediction":
            return noisy, self.schedule.get_velocity(latent, noise, time)
        return noisy, noise

    def predict(self, noisy: Tensor, time: Tensor, words: Tensor, context: Tensor | None = None) -> Tensor:
        """Predict the noise from the prompt with S* (Eq. 5); the U-Net computes in its own dtype.

        Args:
            noisy: shape (B, C, H, W).
            time: shape (B,).
            words: shape (B or 1, 2 P, D); gradients flow into them.
            context: shape (B,), from 0 = none to K; None = none for all.

        Returns:
            shape (B, C, H, W).
        """
        return self._predict(noisy, time, self.encode(words, context))

    @torch.no_grad()
    def predict_class(self, noisy: Tensor, time: Tensor, context: Tensor | None = None) -> Tensor:
        """Predict the noise from the class prompt, without a graph (Eq. 6); shapes as in `predict`."""
        states = self.class_states[:1] if context is None else self.class_states[context]
        return self._predict(noisy, time, states)

    def _predict(self, noisy: Tensor, time: Tensor, states: Tensor) -> Tensor:
        dtype = self.unet.dtype
        states = states.to(dtype).expand(len(noisy), -1, -1)
        return self.unet(noisy.to(dtype), time, states).sample


def _tokenize(prompts: PromptEncoder, prompt: str, people: int) -> tuple[list[int], list[int]]:
    """Tokenize the training prompt, and find the places of the words in it."""
    content, word = prompts.content_ids(isolate(prompt, [PLACEHOLDER])), prompts.content_ids(PLACEHOLDER)
    found = [index for index in range(len(content)) if content[index : index + len(word)] == word]
    if len(found) != people:
        times = "once" if people == 1 else f"{people} times"
        raise ValueError(
            f"'{PLACEHOLDER}' occurs {len(found)} times in the prompt '{prompt}'. Write it {times}; "
            f"the paper's prompt is 'A photo of {PLACEHOLDER}'."
        )
    # the start token comes before the content
    return prompts.pad(content), [1 + first + word for first in found for word in range(2)]
