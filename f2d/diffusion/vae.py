"""Images to the latents that the U-Net sees, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..image import Photo, from_comfy


def encode_images(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode images to scaled latents.

    Args:
        vae: AutoencoderKL or AutoencoderTiny, of `folder.load_vae`.
        images: shape (B, 3, 8H, 8W), in [-1, 1].

    Returns:
        Mean and standard deviation of the latents, each of shape (B, C, H, W), float32; with AutoencoderTiny
        the deviation is 0.
    """
    encoded, scale = vae.encode(images), vae.config.scaling_factor
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean.float() * scale, encoded.latent_dist.std.float() * scale
    return encoded.latents.float() * scale, torch.zeros_like(encoded.latents, dtype=torch.float32)


def decode_latents(vae: Any, latents: Tensor) -> list[Photo]:
    """Decode scaled latents to images.

    Args:
        vae: AutoencoderKL or AutoencoderTiny, of `folder.load_vae`.
        latents: shape (B, C, H, W), in the dtype of the VAE.

    Returns:
        B images of shape (8H, 8W, 3), uint8.
    """
    decoded = vae.decode(latents / vae.config.scaling_factor).sample.float()  # (B, 3, 8H, 8W) in [-1, 1]
    return from_comfy((decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1))
