"""Pictures without ComfyUI: Stable Diffusion 1.x on diffusers, with S* in the prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..device import best_device
from ..files import check_file
from ..image import Photo
from ..networks.mapping import Positional
from ..prompt.injection import (
    CLASS_WORDS,
    PLACEHOLDER,
    Subject,
    check_placeholder,
    delayed_ranges,
    inject_tokens,
    isolate,
    replace_placeholders,
)

CONFIG_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # whose configs and tokenizer a single-file checkpoint lacks
CONFIG_FILES = ("model_index.json", "*/*.json", "tokenizer/*")


@dataclass(frozen=True)
class GenerationConfig:
    """How to draw; the defaults are the paper's (Sec. 4.2)."""

    steps: int = 30  # "Euler ancestral discrete scheduler with 30 denoising steps"
    cfg: float = 7.0  # classifier-free guidance scale
    width: int = 512  # px
    height: int = 512  # px
    negative_prompt: str = ""
    subject_from: float = (
        0.0  # share of the denoising with the class words; 0.2 = DSC with alpha 0.8 (Sec. E.2)
    )
    class_words: str = CLASS_WORDS

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.steps < 1:
            raise ValueError(f"Expected at least 1 step, got {self.steps}. The paper uses 30.")
        if min(self.width, self.height) < 8 or self.width % 8 or self.height % 8:
            raise ValueError(
                f"Expected a width and height divisible by 8, got {self.width}x{self.height}. The paper uses 512x512."
            )
        if not 0 <= self.subject_from < 1:
            raise ValueError(
                f"Expected the subject to come in from 0 to below 1, got {self.subject_from}. The paper's DSC uses 0.2."
            )


@dataclass(frozen=True, eq=False)
class Picture:
    """One generated picture."""

    image: Photo  # (H, W, 3) uint8
    parameters: dict[str, Any]  # everything that is needed to draw it again
    flagged: bool = False  # the base model's own safety checker has blackened it

    @property
    def text(self) -> dict[str, str]:
        """Give the parameters as the PNG's text chunks: a line for people, JSON for programs."""
        shown = {key: value for key, value in self.parameters.items() if key != "prompt"}
        line = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in shown.items())
        return {
            "parameters": f"{self.parameters['prompt']}\n{line}",
            "face2diffusion": json.dumps(self.parameters),
        }


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture with a prompt of its own beside the whole picture's, as ComfyUI's Conditioning (Set Mask) and (Combine) make it."""

    prompt: str
    states: torch.Tensor  # (B or 1, 77, D), of `F2DPipeline.encode`
    mask: torch.Tensor  # (H, W) in [0, 1]; of any size, stretched over the picture


class F2DPipeline:
    """A StableDiffusionPipeline whose prompts know S*."""

    def __init__(self, diffusion: Any, name: str = "") -> None:
        """Wrap.

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
            device: "cuda", "mps", "cpu", ...; None = the best there is.
            config: for a single file: a folder in diffusers layout with the configs and the tokenizer; None = the copy that
                `f2d download sd-config` made.

        Returns:
            The pipeline.

        Raises:
            FileNotFoundError: no such model, or no configs for a single file.
            ValueError: another kind of model.
            ImportError: diffusers or transformers are not installed.
        """
        try:
            from diffusers import StableDiffusionPipeline
        except ImportError as error:
            raise ImportError(
                'Expected diffusers and transformers, got neither or only one. Run `pip install "face2diffusion[pipeline]"`.'
            ) from error
        path, device = os.fspath(model), device or best_device()
        if os.path.isdir(path):
            _check_folder(path)
            with _quiet():
                diffusion = StableDiffusionPipeline.from_pretrained(path, local_files_only=True)
        else:
            check_file(path, "a Stable Diffusion 1.x checkpoint or folder")
            folder = os.fspath(config or _cached_config())
            try:
                diffusion = StableDiffusionPipeline.from_single_file(
                    path, config=folder, local_files_only=True
                )
            except Exception as error:  # diffusers has no common class for "these are other weights"
                raise ValueError(
                    f"Expected a Stable Diffusion 1.x checkpoint, got '{path}', which does not load as one "
                    f"({str(error).splitlines()[0][:200]}). Choose another file."
                ) from error
        if device == "cpu":
            diffusion.text_encoder.float()  # transformers 5 keeps the file's float16; diffusers reads all in float32
        else:
            diffusion.to(torch.float16)
        diffusion.to(device)
        return cls(diffusion, os.path.basename(os.path.normpath(path)))

    @property
    def _embeddings(self) -> Any:
        return text_embeddings(self.diffusion.text_encoder)

    def add_subject(
        self,
        words: torch.Tensor,
        placeholder: str = PLACEHOLDER,
        positional: Positional = "replace",
        strength: float = 1.0,
    ) -> None:
        """Teach the pipeline a person.

        Args:
            words: shape (2, D), float32, from `FaceEncoder.words`.
            placeholder: what stands for the person in prompts.
            positional: how the mapper was trained.
            strength: from 0 ("a person") to 1 (S*).

        Raises:
            ValueError: words of another width than the text encoder's, or a placeholder that is bad or taken.
        """
        placeholder, weight = check_placeholder(placeholder), self._embeddings.token_embedding.weight
        if words.shape != (2, weight.shape[1]):
            raise ValueError(
                f"Expected words of shape (2, {weight.shape[1]}) for this text encoder, got {tuple(words.shape)}. "
                "Use a Stable Diffusion 1.x model, or the mapper that was trained for this one."
            )
        ids = self._content(placeholder)
        if any(subject.token_ids == ids for subject in self.subjects):
            raise ValueError(
                f"Expected a placeholder of its own for each person, got '{placeholder}' twice. Use 'S1*' and 'S2*'."
            )
        class_rows = weight.detach()[list(self._content(CLASS_WORDS))[:2]].float().cpu()
        self.subjects.append(Subject(placeholder, ids, words.float().cpu(), class_rows, positional, strength))

    def _content(self, text: str) -> tuple[int, ...]:
        return tuple(self.diffusion.tokenizer(text).input_ids[1:-1])

    @property
    def placeholders(self) -> list[str]:
        """What stands for the subjects in a prompt."""
        return [subject.placeholder for subject in self.subjects]

    @torch.no_grad()
    def encode(self, prompt: str) -> torch.Tensor:
        """Encode a prompt, with the words of S* in place of placeholders (Fig. 3b).

        Args:
            prompt: at most 75 tokens.

        Returns:
            shape (1, 77, D): the text encoder's last hidden state after the final layer norm.

        Raises:
            ValueError: the prompt is too long, or has a placeholder inside a word.
        """
        tokenizer, embeddings = self.diffusion.tokenizer, self._embeddings
        length = embeddings.position_embedding.weight.shape[0]
        start, *content, end = tokenizer(
            isolate(prompt, self.placeholders) if self.subjects else prompt
        ).input_ids
        if len(content) > length - 2:
            raise ValueError(
                f"Expected a prompt of at most {length - 2} tokens, got {len(content)}. Shorten it; ComfyUI takes longer ones."
            )
        chunk = [(start, 1.0, 0), *((token, 1.0, 1) for token in content), (end, 1.0, 0)]
        chunk += [(tokenizer.pad_token_id, 1.0, 0)] * (length - len(chunk))
        (chunk,) = inject_tokens(
            [chunk], self.subjects, embeddings.position_embedding.weight.detach().float().cpu()
        )
        ids = [token if isinstance(token, int) else end for token, _, _ in chunk]
        rows = {index: token for index, (token, _, _) in enumerate(chunk) if not isinstance(token, int)}
        with inserted_rows(embeddings.token_embedding, rows):
            return self.diffusion.text_encoder(torch.tensor([ids], device=self.diffusion.device))[0]

    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        seed: int = 0,
        count: int = 1,
        batch_size: int = 1,
        progress: bool = True,
    ) -> list[Picture]:
        """Draw pictures; each has a seed of its own, so it does not depend on the batch it was drawn in.

        Args:
            prompt: with a placeholder in it.
            config: how to draw.
            seed: of the first picture; the others count on from it.
            count: how many.
            batch_size: how many at once.
            progress: show a progress bar.

        Returns:
            `count` pictures.

        Raises:
            ValueError: there is no placeholder in the prompt, or it is too long.
        """
        config = config or GenerationConfig()
        if not self.subjects:
            raise ValueError("Expected a person for S*, got none. Call add_subject first.")
        class_prompt = replace_placeholders(prompt, self.placeholders, config.class_words)
        positive = self.encode(prompt)
        if not torch.isfinite(positive).all():
            raise ValueError(
                "Expected a finite text encoding, got NaN or infinity: the words or the base model are damaged. Get them again."
            )
        delayed = self.encode(class_prompt) if config.subject_from else None
        pictures: list[Picture] = []
        for first in range(0, count, batch_size):
            seeds = list(range(seed + first, seed + min(first + batch_size, count)))
            pictures += self.draw([prompt] * len(seeds), positive, seeds, config, delayed, progress)
        return pictures

    def draw(
        self,
        prompts: Sequence[str],
        positive: torch.Tensor,
        seeds: Sequence[int],
        config: GenerationConfig | None = None,
        delayed: torch.Tensor | None = None,
        progress: bool = True,
        regions: Sequence[Region] = (),
    ) -> list[Picture]:
        """Draw encoded prompts, all at once.

        Args:
            prompts: B, for the pictures' parameters.
            positive: shape (B or 1, 77, D), of `encode`; where prompts name different people, encode each with its own subjects.
            seeds: B.
            config: how to draw.
            delayed: shape (B or 1, 77, D): the class prompts' encodings, for `config.subject_from`.
            progress: show a progress bar.
            regions: parts of the picture with prompts of their own; they keep several people apart.

        Returns:
            B pictures.
        """
        config = config or GenerationConfig()
        negative = self.encode(config.negative_prompt)
        self.diffusion.set_progress_bar_config(desc="Denoising", disable=not progress)
        options: dict[str, Any] = {}
        if delayed is not None:
            options = {
                "callback_on_step_end": _SubjectSwitch(positive, negative, config.subject_from, len(seeds)),
                "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
            }
        with regional_prompts(self.diffusion.unet, regions, len(seeds)) if regions else nullcontext():
            output = self.diffusion(
                prompt_embeds=(positive if delayed is None else delayed).expand(len(seeds), -1, -1),
                negative_prompt_embeds=negative.expand(len(seeds), -1, -1),
                num_inference_steps=config.steps,
                guidance_scale=config.cfg,
                width=config.width,
                height=config.height,
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                output_type="np",
                **options,
            )
        flags = output.nsfw_content_detected or [False] * len(seeds)
        images = np.rint(output.images * 255).astype(np.uint8)
        shared = {**asdict(config), "sampler": "Euler ancestral", "model": self.name}
        if regions:
            shared["regions"] = [region.prompt for region in regions]
        return [
            Picture(image, {"prompt": prompt, **shared, "seed": number}, bool(flag))
            for image, prompt, number, flag in zip(images, prompts, seeds, flags, strict=True)
        ]


class _SubjectSwitch:
    """Exchanges the class prompt for the one with S* when its time has come (DSC)."""

    def __init__(
        self, positive: torch.Tensor, negative: torch.Tensor, subject_from: float, count: int
    ) -> None:
        self.positive, self.negative, self.count = positive, negative, count
        (_, self.switch), _ = delayed_ranges(subject_from)

    def __call__(
        self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Look one step ahead: diffusers calls this after each step."""
        times = pipeline.scheduler.timesteps
        last = pipeline.scheduler.config.num_train_timesteps - 1
        if step + 1 < len(times) and 1 - float(times[step + 1]) / last > self.switch:
            guided = (
                len(tensors["prompt_embeds"]) > self.count
            )  # with guidance the negative stands before the positive
            parts = [self.negative, self.positive] if guided else [self.positive]
            tensors["prompt_embeds"] = torch.cat([part.expand(self.count, -1, -1) for part in parts])
        return tensors


@contextmanager
def regional_prompts(unet: torch.nn.Module, regions: Sequence[Region], count: int) -> Iterator[None]:
    """Let a U-Net average its prediction for the prompt with those for the regions' prompts, where their masks are, while the block runs.

    Args:
        unet: of diffusers, with its negative prompts, if any, before its prompts in the batch.
        regions: parts of the picture.
        count: pictures in the batch.

    Yields:
        Nothing.
    """

    def average(
        module: torch.nn.Module, inputs: Any, options: dict[str, Any], output: Any
    ) -> tuple[torch.Tensor]:
        sample, time = inputs
        *negative, total = output[0].split(count)  # with guidance the negative stands before the positive
        weight = torch.ones_like(total[:1, :1])
        for region in regions:
            mask = functional.interpolate(region.mask[None, None].to(total), total.shape[2:], mode="bilinear")
            states = {**options, "encoder_hidden_states": region.states.to(total).expand(count, -1, -1)}
            total, weight = total + mask * module.forward(sample[-count:], time, **states)[0], weight + mask
        return (torch.cat([*negative, total / weight]),)

    handle = unet.register_forward_hook(average, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def text_embeddings(text_encoder: Any) -> Any:
    """Get the module with the token and position embeddings of transformers' CLIPTextModel; version 5 has no inner text_model."""
    return getattr(text_encoder, "text_model", text_encoder).embeddings


@contextmanager
def inserted_rows(token_embedding: torch.nn.Module, rows: dict[int, torch.Tensor]) -> Iterator[None]:
    """Let a text encoder see rows in place of token embeddings while the block runs.

    Args:
        token_embedding: its embedding module, with output of shape (B, N, D).
        rows: by place in the sequence, each of shape (D,) or (B, D); gradients flow through them.

    Yields:
        Nothing.
    """

    def insert(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        columns = list(output.unbind(1))
        for index, row in rows.items():
            columns[index] = row.to(output).expand_as(columns[index])
        return torch.stack(columns, dim=1)

    handle = token_embedding.register_forward_hook(insert)
    try:
        yield
    finally:
        handle.remove()


def make_grid(images: Sequence[Photo], gap: int = 8) -> Photo:
    """Set pictures of one size side by side, in a grid that is as square as it gets.

    Args:
        images: each of shape (H, W, 3), uint8.
        gap: white space between them, px.

    Returns:
        shape (rows * (H + gap) - gap, columns * (W + gap) - gap, 3), uint8.
    """
    height, width = images[0].shape[:2]
    columns = int(np.ceil(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        grid[y : y + height, x : x + width] = image
    return grid


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers and transformers from drawing bars and remarks about a load while the block runs; errors come through."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _check_folder(path: str) -> None:
    index = os.path.join(path, "model_index.json")
    if not os.path.exists(index):
        raise ValueError(
            f"Expected a folder in diffusers layout, got '{path}' without model_index.json. Name the folder that has it."
        )
    with open(index, encoding="utf-8") as file:
        name = json.load(file).get("_class_name")
    if name != "StableDiffusionPipeline":
        raise ValueError(
            f"Expected a StableDiffusionPipeline (SD 1.x), got '{path}' with {name}. Choose an SD 1.x model."
        )


def _cached_config() -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(CONFIG_REPOSITORY, allow_patterns=list(CONFIG_FILES), local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            "Expected the configs and tokenizer of SD 1.x for a single-file checkpoint, got none on this machine. "
            "Run `f2d download sd-config`, or give a folder in diffusers layout with --config."
        ) from error
