"""The identity loss (not in the paper): a face denoised in one step has the photo's identity features.

noisy latent - predicted noise -> latent -> VAE -> image -> ArcFace crop -> MSID -> cosine with v_id

Only where there is little noise is the image of one step sharp enough for a face encoder.

Dimension letters: B batch, N of them with little noise, C latent channels, h and w latent sides, S side of
the image, I identity width.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...f2d.checkpoint import read
from ...f2d.diffusion.folder import load_vae
from ...f2d.face.alignment import ARCFACE_TEMPLATE, TEMPLATE_SIZE, similarity_transform
from ...f2d.face.ffhq import ffhq_landmarks
from ...f2d.networks.msid import MSIDEncoder, load_msid


class IdentityLoss(nn.Module):
    """Frozen VAE and identity encoder."""

    def __init__(self, vae: Any, msid: MSIDEncoder, schedule: Any, below: int) -> None:
        """Freeze the networks.

        Args:
            vae: of the base model.
            msid: the encoder that made v_id.
            schedule: diffusers' DDPMScheduler, of the base model.
            below: timesteps under this one count.
        """
        super().__init__()
        self.vae, self.msid, self.below = vae, msid, below
        self.predicts_noise = schedule.config.prediction_type == "epsilon"
        self.alphas: Tensor
        self.register_buffer("alphas", schedule.alphas_cumprod.clone(), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(
        cls, base: str | os.PathLike, msid: str | os.PathLike, schedule: Any, below: int
    ) -> IdentityLoss:
        """Load the networks.

        Args:
            base: folder of the base model.
            msid: weights of the identity encoder.
            schedule: of the base model.
            below: timesteps under this one count.

        Returns:
            The loss, on the CPU.

        Raises:
            ValueError: files of something else.
        """
        return cls(load_vae(base), load_msid(read(msid)), schedule, below)

    def forward(self, noisy: Tensor, prediction: Tensor, time: Tensor, v_id: Tensor) -> Tensor:
        """Compute 1 - cosine, averaged over the batch; samples with more noise count as 0.

        Args:
            noisy: shape (B, C, h, w).
            prediction: shape (B, C, h, w), the noise or v; gradients flow into it.
            time: shape (B,).
            v_id: shape (B, I).

        Returns:
            scalar.
        """
        few = (time < self.below).nonzero().squeeze(1)  # (N,)
        if not len(few):
            return prediction.float().sum() * 0
        latent = self.denoise(noisy[few].float(), prediction[few].float(), time[few])  # (N, C, h, w)
        image = self.vae.decode(latent / self.vae.config.scaling_factor).sample  # (N, 3, S, S)
        features = self.msid(crop_faces(image, self.msid.config.image_size))  # (N, I)
        return (1 - functional.cosine_similarity(features, v_id[few].float())).sum() / len(time)

    def denoise(self, noisy: Tensor, prediction: Tensor, time: Tensor) -> Tensor:
        """Denoise in one step.

        Args:
            noisy: shape (N, C, h, w).
            prediction: shape (N, C, h, w), the noise or v.
            time: shape (N,).

        Returns:
            shape (N, C, h, w): the predicted z_0.
        """
        alpha = self.alphas[time].view(-1, 1, 1, 1)
        if self.predicts_noise:
            return (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction


def crop_faces(images: Tensor, size: int) -> Tensor:
    """Cut the ArcFace crops out of images that are aligned the FFHQ way, as `crop_ffhq` does, with gradients.

    Args:
        images: shape (N, 3, S, S).
        size: side of the crops, px.

    Returns:
        shape (N, 3, size, size).
    """
    side = images.shape[-1]
    to_image = _crop_to_image(side, size)
    theta = torch.from_numpy(
        (np.linalg.inv(_from_signed(side)) @ to_image @ _from_signed(size))[:2]
    )  # (2, 3)
    grid = functional.affine_grid(
        theta.to(images).expand(len(images), -1, -1), [len(images), 3, size, size], align_corners=True
    )
    return functional.grid_sample(images, grid, align_corners=True)


def _from_signed(side: int) -> np.ndarray:
    """Transform from [-1, 1], as `grid_sample` counts, to pixels of an image: shape (3, 3)."""
    half = (side - 1) / 2
    return np.array([[half, 0, half], [0, half, half], [0, 0, 1]])


def _crop_to_image(side: int, size: int) -> np.ndarray:
    """Transform from pixels of the crop to those of the image: shape (3, 3)."""
    transform = similarity_transform(ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE), ffhq_landmarks(side))
    return np.vstack([transform, (0, 0, 1)])
