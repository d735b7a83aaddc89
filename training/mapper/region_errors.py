"""What the loss is made of: the errors inside and outside M, and by timestep.

| name | mean squared difference of the prediction from |
|---|---|
| `inside` | the noise, inside M |
| `outside` | the noise, outside M: what Eq. 1 minimizes there |
| `outside_class` | the class prompt's prediction, outside M: what CGDR (Eq. 7) minimizes there |

Dimension letters: B batch, C latent channels, H and W latent sides.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...f2d.denoising_loss import weighted_error

BINS = 4  # of the timesteps


def region_errors(
    prediction: Tensor, target: Tensor, mask: Tensor, class_prediction: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute the errors of each sample.

    Args:
        prediction: shape (B, C, H, W).
        target: shape (B, C, H, W): the noise, or v.
        mask: shape (B, 1, H, W) in [0, 1].
        class_prediction: shape (B, C, H, W); without it there is no `outside_class`.

    Returns:
        by name, shape (B, 2): the sum of the squared differences, and its weight.
    """
    prediction, outside = prediction.detach().float(), 1 - mask
    found = {
        "inside": weighted_error(prediction, target, mask),
        "outside": weighted_error(prediction, target, outside),
    }
    if class_prediction is not None:
        found["outside_class"] = weighted_error(prediction, class_prediction, outside)
    return found


def with_bins(errors: Mapping[str, Tensor], time: Tensor, steps: int) -> dict[str, Tensor]:
    """Add each error by bin of the timesteps: `inside/t000-249` and so on.

    Args:
        errors: of `region_errors`.
        time: shape (B,), in [0, T).
        steps: T.

    Returns:
        by name, shape (B, 2); samples outside a bin have sum and weight 0 in it.
    """
    found = dict(errors)
    for number in range(BINS):
        first, end = number * steps // BINS, (number + 1) * steps // BINS
        within = ((time >= first) & (time < end))[:, None]  # (B, 1)
        for name, error in errors.items():
            found[f"{name}/t{first:03d}-{end - 1:03d}"] = error * within
    return found
