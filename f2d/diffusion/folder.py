"""A Stable Diffusion folder in diffusers layout: the check, and loading its parts.

model_index.json   names the pipeline class
tokenizer/         CLIP's vocabulary
text_encoder/      CLIP's text half
unet/              the noise predictor
vae/               images to latents and back
scheduler/         the noise schedule
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LATENT_STRIDE = 8  # px of the image per latent pixel
TEXT_ENCODER = "text_encoder"
_INDEX = "model_index.json"
_PIPELINE = "StableDiffusionPipeline"


def check_folder(folder: str | os.PathLike) -> None:
    """Raise a ValueError unless a folder holds SD 1.x or 2.x in diffusers layout."""
    index = Path(folder) / _INDEX
    if not os.fspath(folder):
        raise ValueError("No base model is given. Name a Stable Diffusion 1.x folder in diffusers layout.")
    if not index.is_file():
        raise ValueError(
            f"'{folder}' is not a Stable Diffusion folder in diffusers layout: it has no {_INDEX}. "
            "Choose the folder that has one."
        )
    name = read_config(index).get("_class_name")
    if name != _PIPELINE:
        raise ValueError(
            f"'{folder}' holds a {name}; Face2Diffusion needs a {_PIPELINE}. Choose an SD 1.x model."
        )


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read one of the folder's JSON files."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def load_pipeline(folder: str | os.PathLike) -> Any:
    """Load everything at once, as diffusers' StableDiffusionPipeline; errors as for `check_folder`."""
    from diffusers import StableDiffusionPipeline

    check_folder(folder)
    with _quiet():
        return StableDiffusionPipeline.from_pretrained(os.fspath(folder), local_files_only=True)


def load_single_file(path: str | os.PathLike, configs: str | os.PathLike) -> Any:
    """Load a single-file checkpoint as diffusers' StableDiffusionPipeline.

    Args:
        path: .safetensors or .ckpt.
        configs: a folder in diffusers layout whose configs and tokenizer it takes.

    Returns:
        The pipeline.

    Raises:
        ValueError: the file holds other weights.
    """
    from diffusers import StableDiffusionPipeline

    try:
        return StableDiffusionPipeline.from_single_file(
            os.fspath(path), config=os.fspath(configs), local_files_only=True
        )
    except Exception as error:  # diffusers has no common class for "these are other weights"
        raise ValueError(
            f"'{os.fspath(path)}' does not load as a Stable Diffusion 1.x checkpoint "
            f"({str(error).splitlines()[0][:200]}). Choose another file."
        ) from error


def build_pipeline(vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> Any:
    """Assemble loaded parts as diffusers' StableDiffusionPipeline, without a safety checker."""
    from diffusers import StableDiffusionPipeline

    parts = (vae, text_encoder, tokenizer, unet, scheduler, None, None)
    return StableDiffusionPipeline(*parts, requires_safety_checker=False)


def load_tokenizer(folder: str | os.PathLike) -> Any:
    """Load CLIP's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)


def load_text_encoder(folder: str | os.PathLike) -> Any:
    """Load transformers' CLIPTextModel, in the precision of its file with transformers 5, else in float32."""
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(folder, subfolder=TEXT_ENCODER, local_files_only=True)


def load_unet(folder: str | os.PathLike) -> Any:
    """Load diffusers' UNet2DConditionModel, in float32."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)


def load_noise_schedule(folder: str | os.PathLike) -> Any:
    """Load the noise schedule as diffusers' DDPMScheduler, for training."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)


def load_vae(folder: str | os.PathLike) -> Any:
    """Load diffusers' AutoencoderKL or AutoencoderTiny, frozen, in float32 on the CPU.

    Args:
        folder: in diffusers layout.

    Returns:
        The VAE.

    Raises:
        ValueError: another folder, or one whose VAE is missing or damaged.
    """
    import diffusers

    check_folder(folder)
    try:
        tiny = read_config(Path(folder) / "vae" / "config.json").get("_class_name") == "AutoencoderTiny"
        autoencoder: Any = diffusers.AutoencoderTiny if tiny else diffusers.AutoencoderKL
        vae = autoencoder.from_pretrained(folder, subfolder="vae", local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The VAE in '{folder}' is missing or damaged ({error}). Download the model again."
        ) from error
    return vae.float().eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide progress bars and remarks of diffusers and transformers while the block runs, but no errors."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs: tuple[Any, ...] = (diffusers_log, transformers_log)
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
