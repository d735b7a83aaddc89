"""What is minimized: the mapper's denoising losses besides CGDR, and ArcFace over several depths.

CGDR (Eq. 7) is in `f2d/denoising_loss.py`, because words are refined with it too.

Dimension letters: B batch, C latent channels, H and W latent sides, K classes.

| here | paper |
|---|---|
| `noise` | epsilon (or v, for a v-prediction model) |
| `prediction` | eps^ = eps_theta(z_t, t, tau(p)), Eq. 5 |
| `mask` | M |
| `cosines`, `scale`, `margin` | W^T v_id, s, m, Eq. 3 |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(prediction: Tensor, noise: Tensor) -> Tensor:
    """Compute the denoising loss of latent diffusion (Eq. 1).

    Args:
        prediction: shape (B, C, H, W).
        noise: shape (B, C, H, W).

    Returns:
        scalar: the mean over all elements, as is usual for the squared norm.
    """
    return F.mse_loss(prediction.float(), noise.float())


def masked_loss(prediction: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Compute the denoising loss inside the mask only (Eq. 8).

    Args:
        prediction: shape (B, C, H, W).
        noise: shape (B, C, H, W).
        mask: shape (B, 1, H, W) in [0, 1].

    Returns:
        scalar: the mean over all elements, those outside the mask counted as zero.
    """
    return ((prediction.float() - noise.float()) * mask).square().mean()


def arcface_loss(
    cosines: Tensor,
    labels: Tensor,
    scale: float = 64.0,
    margin: float = 0.5,
    cross_entropy: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Compute the softmax loss of scaled cosines with an angular margin on the true class (Eq. 3).

    Args:
        cosines: shape (B, K) in [-1, 1], cos(theta) between v_id and the rows of W, both of unit length;
            slightly more is clamped.
        labels: shape (B,), y; -1 where the true class is none of these K, which only a `cross_entropy` over
            shards can take.
        scale: s.
        margin: m, radians, below pi / 2. Where theta + m exceeds pi, cos(theta + m) would grow again, so that
            features could flee from their own class and end with a small loss; as in ArcFace's first code,
            cos(theta) - m * sin(m) is used, which keeps falling.
        cross_entropy: takes logits (B, K) and labels (B,); over all shards where K is only this process's
            share of the classes.

    Returns:
        scalar: the mean over the batch.
    """
    cosines = cosines.to(torch.promote_types(cosines.dtype, torch.float32)).clamp(-1, 1)
    rows = (labels >= 0).nonzero().squeeze(1)  # (R,)
    true = cosines[rows, labels[rows]]  # (R,)
    sines = (1 - true.square()).clamp_min(torch.finfo(true.dtype).eps).sqrt()  # (R,)
    with_margin = true * math.cos(margin) - sines * math.sin(margin)  # cos(theta + m)
    with_margin = torch.where(
        true > -math.cos(margin), with_margin, true - margin * math.sin(margin)
    )  # theta + m < pi, or not
    return cross_entropy(scale * cosines.index_put((rows, labels[rows]), with_margin), labels)
