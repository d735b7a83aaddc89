"""The frozen Stable Diffusion in training: loaded from a folder in float32, placed, and fingerprinted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import nn

from ...f2d.diffusion.denoising import PromptDenoiser
from ...f2d.diffusion.folder import (
    check_folder,
    load_noise_schedule,
    load_text_encoder,
    load_tokenizer,
    load_unet,
)
from ...f2d.files import fingerprint
from ...f2d.networks.mapping import Positional
from ...f2d.prompt.injection import CLASS_WORDS, PLACEHOLDER, isolate, replace_placeholders
from .couples import couple_prompts


class FrozenDiffusion(PromptDenoiser):
    """The base model of a training run."""

    def __init__(
        self,
        base: str | os.PathLike,
        prompt: str,
        class_prompt: str,
        positional: Positional = "replace",
        compiled: bool = False,
        contexts: Sequence[str] = (),
    ) -> None:
        """Load the base model, and encode the class prompt once.

        Args:
            base: a folder in diffusers layout.
            prompt: with S* in it.
            class_prompt: the same with the class words.
            positional: how the words stand to the position embedding.
            compiled: compile the U-Net.
            contexts: what may follow both prompts.

        Raises:
            ValueError: not a folder of SD 1.x or 2.x, a prompt without S*, or one that is too long with a
                context.
        """
        check_folder(base)
        super().__init__(
            load_tokenizer(base),
            load_text_encoder(base).float(),  # transformers 5 keeps the files' float16
            load_unet(base).float(),
            load_noise_schedule(base),
            prompt,
            class_prompt,
            positional,
            contexts,
        )
        if compiled:
            self.unet.compile()  # in place, so that tensor names and fingerprint stay

    def token_length(self, text: str) -> float:
        """Compute the mean L2 norm of a text's tokens as the text encoder sees them, with their positions."""
        ids = self.prompts.content_ids(text)
        positions = self.prompts.position_embedding[1 : 1 + len(ids)]  # the start token is 0
        rows = self.prompts.token_embedding.weight[ids] + positions  # (N, D)
        return float(rows.norm(dim=1).mean())

    def with_couples(self, prompt: str, class_prompt: str) -> PromptDenoiser:
        """Use the same networks, where they are, with two people in the prompts of `__init__`."""
        networks = self.tokenizer, self.text_encoder, self.unet, self.schedule
        return PromptDenoiser(*networks, *couple_prompts(prompt, class_prompt), self.positional, people=2)

    def check_prompt(self, prompt: str) -> None:
        """Raise a ValueError unless a prompt has S* in it and fits the text encoder."""
        replace_placeholders(prompt, [PLACEHOLDER], CLASS_WORDS)
        self.prompts.pad(self.prompts.content_ids(isolate(prompt, [PLACEHOLDER])))

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
