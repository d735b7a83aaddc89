"""Writes the miniature's Stable Diffusion as a folder in diffusers' layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ....f2d.diffusion.folder import build_pipeline
from .autoencoder import Autoencoder
from .text_to_image import SCHEDULE, Diffusion


def pad_autoencoder(autoencoder: Autoencoder) -> Any:
    """Pad the narrow autoencoder with zeros to diffusers' AutoencoderTiny, which computes the same.

    Args:
        autoencoder: trained.

    Returns:
        The AutoencoderTiny.
    """
    from diffusers import AutoencoderTiny

    tiny: Any = AutoencoderTiny()
    tensors = {name: torch.zeros_like(tensor) for name, tensor in tiny.state_dict().items()}
    for name, tensor in autoencoder.state_dict().items():
        half, layer, *rest = name.split(".")
        index = int(layer) - (half == "decoder")  # diffusers does not count the Clamp before the decoder
        tensors[".".join([half, "layers", str(index), *rest])][
            tuple(slice(size) for size in tensor.shape)
        ] = tensor
    tiny.load_state_dict(tensors)
    return tiny.eval()


def write_base(folder: str | os.PathLike, autoencoder: Autoencoder, diffusion: Diffusion) -> Path:
    """Write a StableDiffusionPipeline, float16; the given networks are rounded to it.

    Args:
        folder: anything in it is replaced.
        autoencoder: trained.
        diffusion: trained.

    Returns:
        The folder.
    """
    from diffusers import EulerAncestralDiscreteScheduler

    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    sampling = {name: value for name, value in SCHEDULE.items() if name != "clip_sample"}
    scheduler: Any = EulerAncestralDiscreteScheduler
    pipeline = build_pipeline(
        pad_autoencoder(autoencoder),
        diffusion.text_encoder,
        diffusion.tokenizer,
        diffusion.unet,
        scheduler(**sampling),
    )
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        torch.nn.Module.half(part)
    pipeline.save_pretrained(folder)
    config = folder / "vae" / "config.json"
    settings = json.loads(config.read_text())
    del settings["block_out_channels"]  # diffusers writes it, and warns when it reads it
    config.write_text(json.dumps(settings, indent=2) + "\n")
    return folder
