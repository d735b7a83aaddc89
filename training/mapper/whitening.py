"""The whitening of v_id, with which the first layers' steps count for rare traits too. Not in the paper.

A few directions of v_id vary much between faces and most vary little, and the gradient of a first layer's
weights is in proportion to what the layer reads. Muon evens out the directions of a step; with whitened
features it evens out what the step changes for faces.

Muon rounds to bfloat16, and the rounding in directions that faces hardly have is enlarged too. So the number
of processes, which changes the order of summing, changes the weights: after 20 steps on six faces by as much
as training does, where Muon alone differs by 4 % of that.

Dimension letters: F faces, I identity width, E expression width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.cache import LatentCache

_FACES = 10_000  # at most so many are measured
_FLOOR = 0.1  # share of the mean variance that is added to each direction's


def measure_whitening(cache: LatentCache, faces: Sequence[int], exp_dim: int) -> Tensor:
    """Compute the matrix that makes all directions of v_id vary alike, v_exp left as it is.

    Args:
        cache: of the training.
        faces: indices in it, evenly spaced ones of which are measured, mirrored too.
        exp_dim: E, 0 without expressions.

    Returns:
        shape (I + E, I + E), symmetric and positive, float32: the inverse root of the second moments of v_id,
        scaled so that it keeps the mean square of v_id; the identity for v_exp.
    """
    chosen = faces[:: -(-len(faces) // _FACES)]
    features = torch.stack(
        [cache.load(face, flip)["v_id"].double() for face in chosen for flip in (False, True)]
    )  # (F, I)
    variances, directions = torch.linalg.eigh(features.T @ features / len(features))
    roots = (variances + _FLOOR * variances.mean()).rsqrt()  # (I,)
    roots *= (variances.sum() / (roots.square() * variances).sum()).sqrt()
    whitening = torch.block_diag((directions * roots) @ directions.T, torch.eye(exp_dim, dtype=torch.double))
    return whitening.float()
