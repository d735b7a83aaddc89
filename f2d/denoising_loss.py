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

from torch import Tensor
from torch.nn.functional import mse_loss


def cgdr_loss(
    prediction: Tensor,
    noise: Tensor,
    class_prediction: Tensor,
    mask: Tensor,
    region_weight: float = 1.0,
) -> Tensor:
    """Compute class-guided denoising regularization: noise inside M, the class's prediction outside (Eq. 7).

    Args:
        prediction: shape (B, C, H, W).
        noise: shape (B, C, H, W).
        class_prediction: shape (B, C, H, W); no gradient flows into it.
        mask: shape (B, 1, H, W) in [0, 1].
        region_weight: of the squared errors inside M; 1 = the paper's.

    Returns:
        scalar: the mean over all elements.
    """
    target = noise.float() * mask + class_prediction.detach().float() * (1 - mask)
    if region_weight == 1:
        return mse_loss(prediction.float(), target)
    return ((prediction.float() - target).square() * (1 + (region_weight - 1) * mask)).mean()
