"""The metrics of Sec. 4.2, for batches of embeddings.

Dimension letters: B images, C width of an embedding, M metrics. Embeddings need not be normalized; use
float64 where tiny scores matter. A score of 0 stays 0, since no epsilon is added.

| here | paper |
|---|---|
| `image`, `base_image` | E_I(y), E_I(y_r): the image, and one of "A photo of S*" with the same identity |
| `text`, `base_text` | E_T(p), E_T(p_r): the prompt, and "A photo of a person" |
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...f2d.ranking import geometric_mean, harmonic_mean, positive_cosine

__all__ = [
    "IDENTITY_METRICS",
    "METRICS",
    "TEXT_METRICS",
    "clip_score",
    "directional_clip_score",
    "geometric_mean",
    "harmonic_mean",
    "identity_score",
    "siglip_score",
]

IDENTITY_METRICS = ("AdaFace", "SphereFace", "FaceNet")
TEXT_METRICS = ("CLIP", "dCLIP", "SigLIP")
METRICS = IDENTITY_METRICS + TEXT_METRICS


def identity_score(reference: Tensor, generated: Tensor) -> Tensor:
    """Compute ID = max(cos(f_fr(x), f_fr(y)), 0) (Eq. 10).

    Args:
        reference: shape (B, C), the face-recognition features of the identity's photo.
        generated: shape (B, C), those of the generated image.

    Returns:
        shape (B,), in [0, 1].
    """
    return positive_cosine(reference, generated)


def clip_score(image: Tensor, text: Tensor) -> Tensor:
    """Compute CLIP = max(cos(E_I(y), E_T(p)), 0) (Eq. 11).

    Args:
        image: shape (B, C).
        text: shape (B, C).

    Returns:
        shape (B,), in [0, 1].
    """
    return positive_cosine(image, text)


def directional_clip_score(image: Tensor, base_image: Tensor, text: Tensor, base_text: Tensor) -> Tensor:
    """Compute dCLIP = max(cos(dy, dp), 0) (Eq. 12), where dy and dp are differences of embeddings (Eq. 13).

    dy = E_I(y) - E_I(y_r) and dp = E_T(p) - E_T(p_r). Embeddings are normalized before they are subtracted,
    as in StyleGAN-NADA, where this score comes from.

    Args:
        image: shape (B, C).
        base_image: shape (B, C).
        text: shape (B, C).
        base_text: shape (B, C).

    Returns:
        shape (B,), in [0, 1]; 0 if a difference is 0.
    """
    image, base_image, text, base_text = (
        torch.nn.functional.normalize(x, dim=-1) for x in (image, base_image, text, base_text)
    )
    return positive_cosine(image - base_image, text - base_text)


def siglip_score(image: Tensor, text: Tensor, scale: float, bias: float) -> Tensor:
    """Compute SigLIP = sigmoid(s * cos(E_I(y), E_T(p)) + b) (Eq. 14).

    Args:
        image: shape (B, C).
        text: shape (B, C).
        scale: s, the learned temperature itself, not its logarithm.
        bias: b.

    Returns:
        shape (B,), in (0, 1).
    """
    return torch.sigmoid(scale * torch.nn.functional.cosine_similarity(image, text, dim=-1) + bias)
