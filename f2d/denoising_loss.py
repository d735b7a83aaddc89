"""The loss with which words learn a face and nothing else, for training a mapper and refining words.

Dimension letters: B batch, C latent channels, H and W latent sides.

| here | paper |
|---|---|
| `noise` | epsilon (or v, for a v-prediction model) |
| `prediction` | eps^ = eps_theta(z_t, t, tau(p)), Eq. 5 |
| `class_prediction` | eps^_c, Eq. 6 |
| `mask` | M |
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss


def cgdr_loss(
    prediction: Tensor,
    noise: Tensor,
    class_prediction: Tensor,
    mask: Tensor,
    region_weight: float = 1.0,
    relative: bool = False,
) -> Tensor:
    """Compute class-guided denoising regularization: noise inside M, the class's prediction outside (Eq. 7).

    Args:
        prediction: shape (B, C, H, W).
        noise: shape (B, C, H, W).
        class_prediction: shape (B, C, H, W); no gradient flows into it.
        mask: shape (B, 1, H, W) in [0, 1].
        region_weight: of the squared errors inside M; 1 = the paper's.
        relative: divide each image's loss by the mean squared error of the class's prediction inside its M;
            False = the paper's.

    Returns:
        scalar: the mean over all elements.
    """
    noise, class_prediction = noise.float(), class_prediction.detach().float()
    target = noise * mask + class_prediction * (1 - mask)
    if region_weight == 1 and not relative:
        return mse_loss(prediction.float(), target)
    squares = (prediction.float() - target).square() * (1 + (region_weight - 1) * mask)  # (B, C, H, W)
    losses = squares.mean((1, 2, 3))  # (B,)
    if relative:
        losses = losses / _class_errors(noise, class_prediction, mask)
    return losses.mean()


def _class_errors(noise: Tensor, class_prediction: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared error inside M of each image, shape (B,); 1 where M is empty."""
    errors, area = weighted_error(class_prediction, noise, mask).unbind(1)  # (B,) each
    return torch.where(area > 0, errors / area.clamp_min(1e-6), 1.0).clamp_min(1e-6)


def weighted_error(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum the squared errors of each image by weight.

    Args:
        prediction: shape (B, C, H, W).
        target: shape (B, C, H, W).
        weight: shape (B, 1, H, W), M for what is inside it.

    Returns:
        shape (B, 2): the sum of the squared differences, means over the channels, and that of the weights.
    """
    squares = (prediction - target.float()).square().mean(1, keepdim=True)  # (B, 1, H, W)
    return torch.stack([(squares * weight).flatten(1).sum(1), weight.flatten(1).sum(1)], dim=1)
