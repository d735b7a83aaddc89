"""Frozen Stable Diffusion in training: noisy latents, prompts with trainable words, two predictions.

Dimension letters: B batch, C latent channels, H and W latent sides, D word width.

| here | paper |
|---|---|
| `latent`, `noisy` | z_0, z_t |
| `prompt`, `class_prompt` | p, p_c |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...f2d.diffusion.pipeline import inserted_rows, text_embeddings
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
        from diffusers import DDPMScheduler, UNet2DConditionModel
        from transformers import AutoTokenizer, CLIPTextModel

        super().__init__()
        self.prompt_ids: Tensor
        self.class_states: Tensor
        check_base(base)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            base, subfolder="tokenizer", local_files_only=True
        )
        self.text_encoder: Any = CLIPTextModel.from_pretrained(
            base, subfolder="text_encoder", local_files_only=True
        )
        self.unet: Any = UNet2DConditionModel.from_pretrained(base, subfolder="unet", local_files_only=True)
        self.schedule: Any = DDPMScheduler.from_pretrained(base, subfolder="scheduler", local_files_only=True)
        self.float().requires_grad_(False).eval()  # transformers 5 keeps the files' float16
        if self.schedule.config.prediction_type not in _PREDICTED:
            raise ValueError(
                f"'{base}' predicts \"{self.schedule.config.prediction_type}\", which no loss here is for. "
                f"Use a model that predicts one of {', '.join(_PREDICTED)}."
            )
        if self.unet.config.cross_attention_dim != self.word_dim:
            raise ValueError(
                f"The text encoder is {self.word_dim} wide, but the U-Net takes "
                f"{self.unet.config.cross_attention_dim}. Use SD 1.x or 2.x."
            )
        self.positional = positional
        ids, self.places = self._tokenize(prompt)
        self.register_buffer("prompt_ids", ids, persistent=False)
        with torch.no_grad():
            self.register_buffer(
                "class_states", self.text_encoder(self._pad(self._content(class_prompt)))[0], persistent=False
            )
        if compiled:
            self.unet.compile()  # in place, so that tensor names and fingerprint stay

    @property
    def _embeddings(self) -> Any:
        return text_embeddings(self.text_encoder)

    @property
    def word_dim(self) -> int:
        """D: 768 in SD 1.x, 1024 in SD 2.x."""
        return self._embeddings.token_embedding.weight.shape[1]

    @property
    def steps(self) -> int:
        """T: number of timesteps."""
        return self.schedule.config.num_train_timesteps

    def _content(self, text: str) -> list[int]:
        return list(self.tokenizer(text).input_ids[1:-1])

    def _pad(self, content: list[int]) -> Tensor:
        length = self._embeddings.position_embedding.weight.shape[0]
        start, *_, end = self.tokenizer("").input_ids
        if len(content) > length - 2:
            raise ValueError(
                f"Expected a prompt of at most {length - 2} tokens, got {len(content)}. Shorten it."
            )
        ids = [start, *content, end]
        return torch.tensor([ids + [self.tokenizer.pad_token_id] * (length - len(ids))])

    def _tokenize(self, prompt: str) -> tuple[Tensor, tuple[int, int]]:
        content, word = self._content(isolate(prompt, [PLACEHOLDER])), self._content(PLACEHOLDER)
        found = [index for index in range(len(content)) if content[index : index + 2] == word]
        if len(found) != 1:
            raise ValueError(
                f"'{PLACEHOLDER}' must be once in the training prompt, which is '{prompt}'. "
                "The paper's is 'A photo of S*'."
            )
        return self._pad(content), (found[0] + 1, found[0] + 2)

    def check_prompt(self, prompt: str) -> None:
        """Raise a ValueError unless a prompt has S* in it and fits the text encoder."""
        replace_placeholders(prompt, [PLACEHOLDER], CLASS_WORDS)
        self._pad(self._content(isolate(prompt, [PLACEHOLDER])))

    def encode(self, words: Tensor) -> Tensor:
        """Encode the prompt with the words of S* in it; gradients flow into the words.

        Args:
            words: shape (B, 2, D).

        Returns:
            shape (B, 77, D): tau(p).
        """
        first, second = self.places
        positions = self._embeddings.position_embedding.weight[first : second + 1]
        rows = insertion_rows(words, positions, self.positional)
        with inserted_rows(self._embeddings.token_embedding, {first: rows[:, 0], second: rows[:, 1]}):
            return self.text_encoder(self.prompt_ids.expand(len(words), -1))[0]

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


def load_vae(base: str | os.PathLike) -> Any:
    """Load the base model's VAE (AutoencoderKL or AutoencoderTiny), frozen, in float32 on the CPU.

    Raises:
        ValueError: there is none that can be read.
    """
    import diffusers

    check_base(base)
    try:
        kind = json.loads((Path(base) / "vae" / "config.json").read_text(encoding="utf-8")).get("_class_name")
        autoencoder = diffusers.AutoencoderTiny if kind == "AutoencoderTiny" else diffusers.AutoencoderKL
        vae: Any = autoencoder.from_pretrained(base, subfolder="vae", local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"Expected a VAE in '{base}', got none that can be read ({error}). Download the model again."
        ) from error
    return vae.float().eval().requires_grad_(False)


def encode_images(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode pictures to what the U-Net sees.

    Args:
        vae: of `load_vae`.
        images: shape (B, 3, 8H, 8W), in [-1, 1].

    Returns:
        Mean and standard deviation of the latents, each of shape (B, C, H, W); AutoencoderTiny's have none.
    """
    encoded, scale = vae.encode(images), vae.config.scaling_factor
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean * scale, encoded.latent_dist.std * scale
    return encoded.latents * scale, torch.zeros_like(encoded.latents)


def check_base(base: str | os.PathLike) -> None:
    """Raise a ValueError unless a folder holds SD 1.x or 2.x in diffusers layout."""
    index = Path(base) / "model_index.json"
    if not os.fspath(base) or not index.is_file():
        raise ValueError(
            f"Expected --base with a Stable Diffusion 1.x or 2.x folder in diffusers layout, "
            f"got '{base}' without model_index.json."
        )
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if name != "StableDiffusionPipeline":
        raise ValueError(
            f"Expected Stable Diffusion 1.x or 2.x, got '{base}' with {name}. Choose another base model."
        )
