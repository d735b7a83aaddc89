"""How scores of likeness and of text are put together, and which pictures come first (best of N, Fig. 7).

Dimension letters: B pictures, C width of an embedding, M scores of one picture.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity


def positive_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Compute max(cos(first, second), 0).

    Args:
        first: shape (..., C); need not be normalised.
        second: shape (..., C), or one that broadcasts to it.

    Returns:
        shape (...), in [0, 1]; 0 where one of the two is 0.
    """
    return cosine_similarity(first, second, dim=-1).clamp(0, 1)


def check_scores(scores: Tensor) -> Tensor:
    """Return scores of shape (..., M) as they are; a ValueError tells where there is none, or one is negative or NaN."""
    if not scores.shape[-1] or not (scores >= 0).all():
        got = f"{scores.min():g}" if scores.numel() else "none"
        raise ValueError(f"Expected scores of 0 and more, got {got}. Clip cosines at 0 first.")
    return scores


def harmonic_mean(scores: Tensor) -> Tensor:
    """Compute the harmonic mean of each picture's scores; 0 where one of them is 0.

    Args:
        scores: shape (..., M), not negative.

    Returns:
        shape (...).

    Raises:
        ValueError: a negative score, or none at all.
    """
    return check_scores(scores).reciprocal().mean(-1).reciprocal()
