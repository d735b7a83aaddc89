"""Images without ComfyUI: Stable Diffusion 1.x on diffusers, with S* in the prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..device import choose_device
from ..files import check_file
from ..image import Photo, to_signed
from ..networks.mapping import Positional
from ..prompt.injection import (
    CLASS_WORDS,
    PLACEHOLDER,
    Subject,
    check_placeholder,
    inject_tokens,
    isolate,
    replace_placeholders,
)
from .delayed import SubjectSwitch
from .folder import LATENT_STRIDE, load_pipeline, load_single_file
from .regions import Region, regional_prompts
from .single_file_config import find_config
from .text_encoder import PromptEncoder, prompt_too_long
from .vae import encode_images


@dataclass(frozen=True)
class GenerationConfig:
    """How to generate; the defaults are the paper's (Sec. 4.2)."""

    steps: int = 30  # "Euler ancestral discrete scheduler with 30 denoising steps"
    cfg: float = 7.0  # classifier-free guidance scale
    width: int = 512  # px
    height: int = 512  # px
    negative_prompt: str = ""
    # Share of the denoising with the class words; 0.2 = DSC with alpha 0.8 (Sec. E.2).
    subject_from: float = 0.0
    class_words: str = CLASS_WORDS

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.steps < 1:
            raise ValueError(
                f"{self.steps} steps cannot denoise an image. Use at least 1; the paper uses 30."
            )
        if min(self.width, self.height) < LATENT_STRIDE or (self.width | self.height) % LATENT_STRIDE:
            raise ValueError(
                f"An image of {self.width}x{self.height} px is impossible: both sides must be divisible by "
                f"{LATENT_STRIDE}. The paper uses 512x512."
            )
        if not 0 <= self.subject_from < 1:
            raise ValueError(
                f"subject_from {self.subject_from} is out of range. Use a share of the steps from 0 to "
                "below 1; the paper's DSC uses 0.2."
            )


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """One image and how it was made."""

    image: Photo  # (H, W, 3) uint8
    parameters: dict[str, Any]  # all that is needed to generate it again
    flagged: bool = False  # the base model's own safety checker replaced it by a black image

    @property
    def text(self) -> dict[str, str]:
        """The parameters as the PNG's text chunks: a line for people, JSON for programs."""
        shown = {key: value for key, value in self.parameters.items() if key != "prompt"}
        line = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in shown.items())
        return {
            "parameters": f"{self.parameters['prompt']}\n{line}",
            "face2diffusion": json.dumps(self.parameters),
        }


class F2DPipeline:
    """A StableDiffusionPipeline that understands S* in prompts."""

    def __init__(self, diffusion: Any, name: str = "") -> None:
        """Wrap a pipeline, and give it the paper's sampler.

        Args:
            diffusion: a diffusers StableDiffusionPipeline of SD 1.x (or 2.x, with a mapper for it).
            name: of the base model, for the PNG.
        """
        from diffusers import EulerAncestralDiscreteScheduler

        diffusion.scheduler = EulerAncestralDiscreteScheduler.from_config(
            diffusion.scheduler.config, timestep_spacing="linspace"
        )
        self.diffusion, self.name = diffusion, name
        self.subjects: list[Subject] = []

    @classmethod
    def load(
        cls, model: str | os.PathLike, device: str | None = None, config: str | os.PathLike | None = None
    ) -> F2DPipeline:
        """Load Stable Diffusion 1.x: float16 on a GPU, float32 on the CPU.

        Args:
            model: a folder in diffusers layout, or a single-file checkpoint (.safetensors, .ckpt).
            device: "cuda", "mps", "cpu", ...; None = the best available one.
            config: for a single file: a folder in diffusers layout with the configs and the tokenizer;
                None = the copy that `f2d download sd-config` made.

        Returns:
            The pipeline.

        Raises:
            FileNotFoundError: no such model, or no configs for a single file.
            ValueError: another kind of model, or a device that is not available.
            ImportError: diffusers or transformers are not installed.
        """
        try:
            import diffusers  # noqa: F401
            import transformers  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f'{error.name} is not installed. Run `pip install "face2diffusion[pipeline]"`.'
            ) from error
        path, device = os.fspath(model), choose_device(device)
        if os.path.isdir(path):
            diffusion = load_pipeline(path)
        else:
            check_file(path, "a Stable Diffusion 1.x checkpoint or folder")
            diffusion = load_single_file(path, config or find_config())
        if device == "cpu":
            # transformers 5 keeps the file's float16; diffusers reads all in float32.
            diffusion.text_encoder.float()
        else:
            diffusion.to(torch.float16)
        diffusion.to(device)
        return cls(diffusion, os.path.basename(os.path.normpath(path)))

    @property
    def prompts(self) -> PromptEncoder:
        """The base model's tokenizer and text encoder."""
        return PromptEncoder(self.diffusion.tokenizer, self.diffusion.text_encoder)

    def add_subject(
        self,
        words: torch.Tensor,
        placeholder: str = PLACEHOLDER,
        positional: Positional = "replace",
        strength: float = 1.0,
    ) -> None:
        """Register a person for prompts.

        Args:
            words: shape (2, D), float32, from `FaceEncoder.words`; at strength 1 any number of learned
                words, shape (W, D).
            placeholder: what stands for the person in prompts.
            positional: how the mapper was trained.
            strength: from 0 ("a person") to 1 (S*).

        Raises:
            ValueError: words of another width than the text encoder's, or a placeholder that is bad or taken.
        """
        placeholder, prompts = check_placeholder(placeholder), self.prompts
        if words.ndim != 2 or words.shape[1] != prompts.width or (strength != 1 and len(words) != 2):
            raise ValueError(
                f"Words of shape {tuple(words.shape)} do not fit this text encoder, which needs "
                f"(2, {prompts.width}). Use a Stable Diffusion 1.x model, or a mapper that was trained for "
                "this one."
            )
        ids = tuple(prompts.content_ids(placeholder))
        if any(subject.token_ids == ids for subject in self.subjects):
            raise ValueError(
                f"The placeholder '{placeholder}' is already taken by another person. Use 'S1*' and 'S2*'."
            )
        class_ids = prompts.content_ids(CLASS_WORDS)[:2]
        class_rows = prompts.token_embedding.weight.detach()[class_ids].float().cpu()
        self.subjects.append(Subject(placeholder, ids, words.float().cpu(), class_rows, positional, strength))

    @property
    def placeholders(self) -> list[str]:
        """What stands for the subjects in a prompt."""
        return [subject.placeholder for subject in self.subjects]

    @torch.no_grad()
    def encode(self, prompt: str) -> torch.Tensor:
        """Encode a prompt, with the words of S* in place of placeholders (Fig. 3b).

        Args:
            prompt: at most 75 tokens; `(word:1.3)` weighs words as in ComfyUI.

        Returns:
            shape (1, 77, D): the text encoder's last hidden state after the final layer norm.

        Raises:
            ValueError: the prompt is too long, or has a placeholder inside a word.
        """
        prompts = self.prompts
        positions = prompts.position_embedding.detach().float().cpu()
        tokens = prompts.tokenize(isolate(prompt, self.placeholders) if self.subjects else prompt)
        chunk, *more = inject_tokens([tokens], self.subjects, positions)
        if more:  # a placeholder of one token, of which S* makes two
            raise prompt_too_long(
                sum(bool(word) for part in (chunk, *more) for *_, word in part), len(tokens) - 2
            )
        rows = {place: row for place, (row, *_) in enumerate(chunk) if isinstance(row, torch.Tensor)}
        filled = torch.tensor([[0 if place in rows else token for place, (token, *_) in enumerate(chunk)]])
        places = (0, list(rows)) if rows else None
        encoded = prompts.encode(filled, places, torch.stack(list(rows.values())) if rows else None)
        return prompts.apply_weights(encoded, [weight for _, weight, _ in chunk])

    @torch.no_grad()
    def encode_photos(self, photos: Sequence[Photo]) -> torch.Tensor:
        """Encode photos to the latents that the U-Net sees.

        Args:
            photos: B of shape (8H, 8W, 3), uint8, RGB.

        Returns:
            shape (B, C, H, W), float32: the mean of the VAE's posterior.
        """
        vae = self.diffusion.vae
        return encode_images(vae, to_signed(photos).to(vae.device, vae.dtype))[0].float()

    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        seed: int | Sequence[int] = 0,
        count: int = 1,
        batch_size: int = 1,
        progress: bool = True,
    ) -> list[GeneratedImage]:
        """Generate images; each has its own seed, so it does not depend on its batch.

        Args:
            prompt: with a placeholder in it.
            config: how to generate.
            seed: of the first image, where the others count on from it; or those of all images.
            count: how many.
            batch_size: how many at once.
            progress: show a progress bar.

        Returns:
            `count` images.

        Raises:
            ValueError: there is no placeholder in the prompt, or it is too long.
        """
        config = config or GenerationConfig()
        if not self.subjects:
            raise ValueError("No person is set for S*. Call add_subject first.")
        class_prompt = replace_placeholders(prompt, self.placeholders, config.class_words)
        positive = self.encode(prompt)
        if not torch.isfinite(positive).all():
            raise ValueError(
                "The text encoding has NaN or infinity: the words or the base model are damaged. "
                "Get both again."
            )
        delayed = self.encode(class_prompt) if config.subject_from else None
        images: list[GeneratedImage] = []
        all_seeds = range(seed, seed + count) if isinstance(seed, int) else seed
        for first in range(0, count, batch_size):
            seeds = all_seeds[first : min(first + batch_size, count)]
            images += self.generate_encoded([prompt] * len(seeds), positive, seeds, config, delayed, progress)
        return images

    def generate_encoded(
        self,
        prompts: Sequence[str],
        positive: torch.Tensor,
        seeds: Sequence[int],
        config: GenerationConfig | None = None,
        delayed: torch.Tensor | None = None,
        progress: bool = True,
        regions: Sequence[Region] = (),
    ) -> list[GeneratedImage]:
        """Generate one image for each encoded prompt, all in one batch.

        Args:
            prompts: B, for the images' parameters.
            positive: shape (B or 1, 77, D), of `encode`; where prompts name different people, encode each
                with its own subjects.
            seeds: B.
            config: how to generate.
            delayed: shape (B or 1, 77, D): the class prompts' encodings, for `config.subject_from`.
            progress: show a progress bar.
            regions: parts of the image with their own prompts; they keep several people apart.

        Returns:
            B images.
        """
        config = config or GenerationConfig()
        count, negative = len(seeds), self.encode(config.negative_prompt)
        self.diffusion.set_progress_bar_config(desc="Denoising", disable=not progress)
        options: dict[str, Any] = {}
        if delayed is not None:
            options = {
                "callback_on_step_end": SubjectSwitch(positive, negative, config.subject_from, count),
                "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
            }
        with regional_prompts(self.diffusion.unet, regions, count) if regions else nullcontext():
            output = self.diffusion(
                prompt_embeds=(positive if delayed is None else delayed).expand(count, -1, -1),
                negative_prompt_embeds=negative.expand(count, -1, -1),
                num_inference_steps=config.steps,
                guidance_scale=config.cfg,
                width=config.width,
                height=config.height,
                generator=[torch.Generator().manual_seed(number % 2**64) for number in seeds],
                output_type="np",
                **options,
            )
        flags = output.nsfw_content_detected or [False] * count
        images = _to_photos(output.images, config)
        shared = {**asdict(config), "sampler": "Euler ancestral", "model": self.name}
        if regions:
            shared["regions"] = [region.prompt for region in regions]
        return [
            GeneratedImage(image, {"prompt": prompt, **shared, "seed": number}, bool(flag))
            for image, prompt, number, flag in zip(images, prompts, seeds, flags, strict=True)
        ]


def _to_photos(images: np.ndarray, config: GenerationConfig) -> np.ndarray:
    """Convert generated images in [0, 1], shape (B, H, W, 3), to uint8."""
    if not np.isfinite(images).all():
        raise ValueError(
            f"The images have NaN or infinity: the CFG scale {config.cfg:g} is too large, or the base "
            "model is "
            "damaged. Use a scale of about 7, or get the model again."
        )
    return np.rint(images * 255).astype(np.uint8)
