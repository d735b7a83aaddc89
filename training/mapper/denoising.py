"""The frozen Stable Diffusion in training: noisy latents, prompts with trainable words, two predictions.

Dimension letters: B batch, C latent channels, H and W latent sides, D word width.

| here | paper |
|---|---|
| `latent`, `noisy` | z_0, z_t |
| `prompt`, `class_prompt` | p, p_c |
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from ...f2d.diffusion.folder import (
    check_folder,
    load_noise_schedule,
    load_text_encoder,
    load_tokenizer,
    load_unet,
)
from ...f2d.diffusion.text_encoder import PromptEncoder
from ...f2d.files import fingerprint
from ...f2d.networks.mapping import Positional
from ...f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, insertion_rows, isolate, replace_placeholders

_PREDICTED = ("epsilon", "v_prediction")


class FrozenDiffusion(nn.Module):
    """U-Net and text encoder of SD 1.x or 2.x, without gradients of their own."""

    def __init__(
        self,
        base: str | os.PathLike,
        prompt: str,
        class_prompt: str,
        positional: Positional = "replace",
        compiled: bool = False,
    ) -> None:
        """Load the base model, and encode the class prompt once.

        Args:
            base: a folder in diffusers layout.
            prompt: with S* in it.
            class_prompt: the same with the class words.
            positional: how the words stand to the position embedding.
            compiled: compile the U-Net.

        Raises:
            ValueError: not a folder of SD 1.x or 2.x, or a prompt without S*.
        """
        super().__init__()
        check_folder(base)
        self.tokenizer, self.schedule = load_tokenizer(base), load_noise_schedule(base)
        self.text_encoder, self.unet = load_text_encoder(base), load_unet(base)
        self.prompt_ids: Tensor
        self.class_states: Tensor
        self.float().requires_grad_(False).eval()  # transformers 5 keeps the files' float16
        if self.schedule.config.prediction_type not in _PREDICTED:
            raise ValueError(
                f"'{base}' predicts \"{self.schedule.config.prediction_type}\", which no loss here is for. "
                f"Use a model that predicts one of {', '.join(_PREDICTED)}."
            )
        if self.unet.config.cross_attention_dim != self.word_dim:
            raise ValueError(
                f"The U-Net is for text {self.unet.config.cross_attention_dim} wide, the text encoder is "
                f"{self.word_dim} wide. Use SD 1.x or 2.x."
            )
        self.positional = positional
        prompts = self.prompts
        ids, self.places = _tokenize(prompts, prompt)
        self.register_buffer("prompt_ids", torch.tensor([ids]), persistent=False)
        class_ids = torch.tensor([prompts.pad(prompts.content_ids(class_prompt))])
        with torch.no_grad():
            self.register_buffer("class_states", prompts.encode(class_ids), persistent=False)
        if compiled:
            self.unet.compile()  # in place, so that tensor names and fingerprint stay

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

    def check_prompt(self, prompt: str) -> None:
        """Raise a ValueError unless a prompt has S* in it and fits the text encoder."""
        replace_placeholders(prompt, [PLACEHOLDER], CLASS_WORDS)
        self.prompts.pad(self.prompts.content_ids(isolate(prompt, [PLACEHOLDER])))

    def encode(self, words: Tensor) -> Tensor:
        """Encode the prompt with the words of S* in it; gradients flow into the words.

        Args:
            words: shape (B, 2, D).

        Returns:
            shape (B, 77, D): tau(p).
        """
        rows = insertion_rows(words, self.prompts.position_embedding[self.places], self.positional)
        return self.prompts.encode(self.prompt_ids.expand(len(words), -1), (slice(None), self.places), rows)

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

    def predict(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
        """Predict the noise from the prompt with S* (Eq. 5); the U-Net computes in its own dtype.

        Args:
            noisy: shape (B, C, H, W).
            time: shape (B,).
            words: shape (B, 2, D); gradients flow into them.

        Returns:
            shape (B, C, H, W).
        """
        return self._predict(noisy, time, self.encode(words))

    @torch.no_grad()
    def predict_class(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Predict the noise from the class prompt, without a graph (Eq. 6); shapes as in `predict`."""
        return self._predict(noisy, time, self.class_states.expand(len(noisy), -1, -1))

    def _predict(self, noisy: Tensor, time: Tensor, states: Tensor) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(noisy.to(dtype), time, states.to(dtype)).sample

    def place(self, device: str, dtype: torch.dtype) -> None:
        """Move everything to a device, and the U-Net alone to a dtype; the text encoder stays in float32.

        Args:
            device: "cuda", "cpu", ...
            dtype: of the U-Net.
        """
        self.to(device)
        nn.Module.to(self.unet, dtype=dtype)  # diffusers' own warns of modules that are not there

    def fingerprint(self) -> str:
        """Hash the U-Net's and text encoder's weights."""
        return fingerprint(self.state_dict())


def _tokenize(prompts: PromptEncoder, prompt: str) -> tuple[list[int], slice]:
    """Tokenize the training prompt, and find the places of S* in it."""
    content, word = prompts.content_ids(isolate(prompt, [PLACEHOLDER])), prompts.content_ids(PLACEHOLDER)
    found = [index for index in range(len(content)) if content[index : index + len(word)] == word]
    if len(found) != 1:
        raise ValueError(
            f"'{PLACEHOLDER}' stands {len(found)} times in the training prompt '{prompt}'. Write it once; "
            f"the paper's prompt is 'A photo of {PLACEHOLDER}'."
        )
    first = found[0] + 1  # the start token comes before the content
    return prompts.pad(content), slice(first, first + 2)
