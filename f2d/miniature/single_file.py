"""The miniature's Stable Diffusion as one file in SD 1.x's layout."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..diffusion.folder import read_config
from ..files import atomic_file
from .shipped import WEIGHTS, read_vocabulary
from .widen import widen_text_encoder, widen_unet

_VAE_SCALE = 0.18215  # ComfyUI divides SD 1.x's latents by it


def write_checkpoint(path: str | os.PathLike, folder: Path = WEIGHTS) -> None:
    """Write the Stable Diffusion as one file in SD 1.x's layout (about 320 MB), for CheckpointLoaderSimple.

    Args:
        path: where to.
        folder: with its weights.

    Raises:
        OSError: the folder cannot be written to.
    """
    base = folder / "base"
    text, unet, vae = (_read_part(base / part) for part in ("text_encoder", "unet", "vae"))
    heads = read_config(base / "text_encoder" / "config.json")["num_attention_heads"]
    unet_heads = read_config(base / "unet" / "config.json")["attention_head_dim"]  # diffusers' misnomer
    ids = list(read_vocabulary().values())
    tensors = {
        f"cond_stage_model.transformer.text_model.{name}": t
        for name, t in widen_text_encoder(text, heads, ids).items()
    }
    tensors |= {f"model.diffusion_model.{name}": t for name, t in widen_unet(unet, unet_heads).items()}
    tensors |= {f"first_stage_model.{_taesd_name(name)}": t for name, t in vae.items()}
    tensors |= {
        "first_stage_model.vae_scale": torch.tensor(_VAE_SCALE),
        "first_stage_model.vae_shift": torch.tensor(0.0),
    }
    with atomic_file(path) as temporary:
        save_file(
            {name: tensor.half().contiguous() for name, tensor in tensors.items()},
            temporary,
            {"format": "pt"},
        )


def _read_part(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def _taesd_name(name: str) -> str:
    """Translate diffusers' names: `decoder.layers.0.weight` to `taesd_decoder.1.weight`.

    Only TAESD counts the clamp before the decoder as a layer.
    """
    half, _, layer, *rest = name.split(".")
    return ".".join([f"taesd_{half}", str(int(layer) + (half == "decoder")), *rest])
